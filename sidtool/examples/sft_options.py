"""The options of training examples, shared by the library and the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sidtool.base.errors import UsageError
from sidtool.data.split.list_targets import LENGTH, ListTargets
from sidtool.examples.tasks import LIST_TASK, check_budgets, check_weights, history_source
from sidtool.model.prompt.frames import Format, Templates


@dataclass(frozen=True)
class SftOptions:
    """What training examples are made.

    `tasks` maps each task to its weight, the copies of every example (1.5: one or two; copies have
    other templates). With `max_tokens`, a budget for the whole mix, weights are the tasks' shares
    of it. `max_task_tokens` are budgets of single tasks, whose weight then does not count.
    `history_length` is in items, `max_length` in tokens of a whole example. Items in
    `hide_text_of` are shown as SIDs only: no title, no column, no query. `templates` replace those
    of a task, and may show fields of the split (`read_template_file`).

    Raises UsageError if a value is invalid."""

    tasks: Mapping[str, float] = field(default_factory=lambda: {"sequence": 1.0})
    format: Literal["auto", "plain", "chat"] = "plain"
    """auto: chat if the tokenizer has a chat template and a task other than `sequence` is made."""
    max_length: int = 1024
    history_length: int = 20
    seed: int = 0
    max_tokens: int | None = None
    max_task_tokens: Mapping[str, int] = field(default_factory=dict)
    hide_text_of: frozenset[str] = frozenset()
    templates: Mapping[str, Templates] = field(default_factory=dict)
    columns: tuple[str, ...] | None = None
    """Columns of the catalog that running text shows; None shows those that `--field` names, or all
    of a catalog that is a value."""
    lists: ListTargets | None = None
    """The lists of the task `list`; None has those of LENGTH items."""

    def __post_init__(self) -> None:
        check_weights(self.tasks)
        check_budgets(self.tasks, self.max_tokens, self.max_task_tokens)
        for task in self.templates:
            if task not in self.tasks:
                raise UsageError(
                    f"templates of task {task!r}, which is not in the mix", hint=f"--task {task}=1"
                )
            history_source(task)
        if self.lists is not None and LIST_TASK not in self.tasks:
            raise UsageError(
                f"options of lists without the task {LIST_TASK}", hint=f"--task {LIST_TASK}=1"
            )
        if self.seed < 0:
            raise UsageError(f"the seed must be at least 0, not {self.seed}")
        if self.history_length < 1 or self.max_length < 1:
            raise UsageError(
                f"history length {self.history_length} and max length {self.max_length} must be "
                "positive"
            )

    @property
    def list_targets(self) -> ListTargets | None:
        """The lists that are made, None without the task."""
        if LIST_TASK not in self.tasks:
            return None
        return self.lists or ListTargets(LENGTH)

    def example_format(self, tokenizer: Any | None) -> Format:
        """`format`, where auto is decided by the tokenizer."""
        if self.format != "auto":
            return self.format
        has_template = getattr(tokenizer, "chat_template", None) is not None
        return "chat" if has_template and set(self.tasks) != {"sequence"} else "plain"
