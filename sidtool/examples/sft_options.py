"""The options of training examples, shared by the library and the command line, and the catalog and
queries that tasks are made of, read with every column that they need."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from sidtool.base.errors import UsageError
from sidtool.base.options import assignments, check_options, group, numbers, option, read_ids
from sidtool.data import (
    CatalogColumns,
    CatalogNames,
    Items,
    Query,
    UnknownOptions,
    compose_queries,
    read_items,
    read_queries,
    template_columns,
)
from sidtool.data.split import ListTargets
from sidtool.examples.tasks import (
    LIST_TASK,
    TASKS,
    check_weights,
    history_source,
    named_task,
    tokens_of_mix,
)
from sidtool.model.contract import TrainParams
from sidtool.model.prompt import MAX_ITEMS, MAX_TOKENS, Format, Templates


@dataclass(frozen=True)
class SftOptions(UnknownOptions):
    """What training examples are made.

    `tasks` maps each task to its weight, the copies of every example (1.5: one or two; copies have
    other templates). Items in `hide_text_of` are shown as SIDs only: no title, no column, no query.

    Raises UsageError if a value is invalid."""

    tasks: Mapping[str, float] = option(
        lambda: {"sequence": 1.0},
        reads=partial(numbers, option="--task"),
        completes=lambda: TASKS,
        flag="--task",
    )
    """Task (docs/tasks.md) and weight, like next-item=1; repeatable. Default: sequence=1."""
    format: Literal["auto", "plain", "chat"] = option("auto")
    """Plain text or chat turns; auto: chat if the tokenizer has a chat template and a task other
    than `sequence` is made."""
    max_length: int = option(1024, minimum=1, maximum=MAX_TOKENS)
    """Tokens of an example; a longer history loses its oldest items."""
    history_length: int = option(20, minimum=1, maximum=MAX_ITEMS)
    """Items of a history."""
    seed: int = option(0, minimum=0)
    """Seed of all random numbers."""
    max_tokens: int | None = option(None, minimum=1)
    """Token budget of all tasks, beside general text; weights are then shares of it."""
    hide_text_of: frozenset[str] = option(frozenset(), reads=read_ids)
    """File of item ids, one per line, whose text is in no training example."""
    templates: Mapping[str, Templates] = option(
        dict,
        reads=partial(assignments, option="--template"),
        flag="--template",
        metavar="TASK=FILE",
    )
    """Templates of a task in place of its own; they may show fields of the split, like {user.age}
    or {event.rating}. Repeatable."""
    columns: tuple[str, ...] | None = None
    """Columns of the catalog that running text shows; None shows those that `--field` names, or all
    of a catalog that is a value."""
    lists: ListTargets | None = group(None)
    """The lists of the task `list`; None has those of the defaults."""

    def __post_init__(self) -> None:
        check_options(self)
        check_weights(self.tasks)
        templates = {
            task: value if isinstance(value, Templates) else Templates.read(str(value))
            for task, value in self.templates.items()
        }
        object.__setattr__(self, "templates", templates)
        for task in self.templates:
            if task not in self.tasks:
                raise UsageError(
                    f"templates of task {task!r}, which is not in the mix", hint=f"--task {task}=1"
                )
            history_source(task)
        if self.lists is not None and self.list_targets is None:
            raise UsageError(
                f"options of lists without the task {LIST_TASK}", hint=f"--task {LIST_TASK}=1"
            )

    @classmethod
    def of_training(cls, last: TrainParams, seed: int) -> Self:
        """Those that the examples of a training stage were made with, as far as it records them."""
        options = cls(
            tasks=last.task_weights,
            format=last.example_format,  # type: ignore[arg-type]
            max_length=last.max_length or cls.max_length,
            seed=seed,
            lists=last.lists,
        )
        if (made := last.sft) is None:
            return options
        return replace(
            options,
            history_length=made.history_length,
            max_tokens=tokens_of_mix(last.task_weights, made.task_budgets),
            templates=made.templates,
            columns=made.columns,
        )

    @property
    def list_targets(self) -> ListTargets | None:
        """The lists that are made, None without the task."""
        has_lists = any(named_task(task).target == "list" for task in self.tasks)
        return (self.lists or ListTargets()) if has_lists else None

    def example_format(self, tokenizer: Any | None) -> Format:
        """`format`, where auto is decided by the tokenizer."""
        if self.format != "auto":
            return self.format
        has_template = getattr(tokenizer, "chat_template", None) is not None
        has_prompts = not all(named_task(task).is_sequence for task in self.tasks)
        return "chat" if has_template and has_prompts else "plain"


@dataclass(frozen=True)
class TaskCatalogOptions(CatalogNames):
    """How a catalog and its queries are read. Raises UsageError for two sources of queries."""

    fields: tuple[str, ...] = option((), flag="--field")
    """Catalog column that item-text shows; repeatable. The columns of other tasks are read."""
    queries: Path | None = option(None)
    """Search queries {"item", "text"}, optionally "user", for query-to-sid, as JSON Lines or a
    table."""
    query_text: str | None = option(None)
    """Template of a generated query per item, from catalog columns: "{genre} from {year}"."""

    @property
    def has_queries(self) -> bool:
        """Whether there are queries."""
        return self.queries is not None or self.query_text is not None

    def __post_init__(self) -> None:
        check_options(self)
        if self.queries is not None and self.query_text is not None:
            raise UsageError("give either --queries or --query-text, not both")

    def queries_of(self, catalog: Items) -> tuple[Query, ...]:
        """The queries that are read or made of a catalog. Raises as `read_catalog`."""
        if self.query_text is not None:
            return compose_queries(catalog, self.query_text)
        return () if self.queries is None else read_queries(self.queries)


def read_catalog(
    items: Path,
    tasks: Collection[str],
    options: TaskCatalogOptions,
    recorded: CatalogColumns | None = None,
) -> tuple[Items, tuple[Query, ...]]:
    """The catalog with every column that a task or a query shows, and the queries. `recorded` are
    the columns of ids and titles that the bundle records.

    Raises UsageError for an unknown task or a missing column, DataError for a malformed file."""
    fields = [*options.fields, *filter(None, (named_task(task).column for task in tasks))]
    if options.query_text is not None:
        columns = template_columns(options.query_text)
        fields += [name for name in columns if name != "title"]
    catalog = read_items(
        items,
        id_column=options.id_column,
        title_column=options.title_column,
        text_template="",  # examples show titles and columns
        fields=tuple(dict.fromkeys(fields)),
        recorded=recorded,
        packed=True,
    )
    if catalog.columns is not None and catalog.columns.title is None:
        for task in tasks:
            if named_task(task).shows_title:
                raise UsageError(
                    f"task {task} shows titles, but {items} has no column of them",
                    hint="name it with --title-column",
                )
    return catalog, options.queries_of(catalog)
