"""All tasks by name (TASKS), and how often each of their examples enters a training mix: by weight,
or within a budget of tokens."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.examples.items import (
    document_examples,
    history_text_examples,
    item_examples,
    item_text_examples,
    query_examples,
)
from sidtool.examples.task import MakeBlocks, MakeExamples, Task
from sidtool.examples.user_lines import event_blocks, sequence_blocks
from sidtool.examples.user_tasks import (
    event_examples,
    feedback_examples,
    list_examples,
    sequence_examples,
)

TASKS: dict[str, Task] = {
    "sequence": Task(sequence_examples, "user", "sid", "sid"),
    "next-item": Task(event_examples, "event", "sid", "sid"),
    "list": Task(list_examples, "user", "sid", "list"),
    "title-history-to-sid": Task(event_examples, "event", "title", "sid"),
    "history-to-title": Task(event_examples, "event", "sid", "title"),
    "history-to-description": Task(event_examples, "event", "sid", "column", "description"),
    "title-history-to-title": Task(event_examples, "event", "title", "title"),
    "title-to-sid": Task(item_examples, "item", "title", "sid"),
    "sid-to-title": Task(item_examples, "item", "sid", "title"),
    "description-to-sid": Task(item_examples, "item", "column", "sid", "description"),
    "sid-to-description": Task(item_examples, "item", "sid", "column", "description"),
    "query-to-sid": Task(query_examples, "query", "query", "sid"),
    "item-text": Task(item_text_examples, "item", "sid", "text"),
    "history-text": Task(history_text_examples, "user", "sid", "text"),
    "FIELD-to-sid": Task(item_examples, "item", "column", "sid", "FIELD"),
    "sid-to-FIELD": Task(item_examples, "item", "sid", "column", "FIELD"),
    "prefix-to-FIELD": Task(item_examples, "item", "prefix", "column", "FIELD"),
    "context-to-sid": Task(event_examples, "event", "sid", "sid", shows_context=True),
    "next-item-by-FIELD": Task(event_examples, "event", "sid", "sid", feedback="FIELD"),
    "predict-FIELD": Task(feedback_examples, "event", "sid", "feedback", feedback="FIELD"),
}
"""The tasks by name, with the function that makes their examples. The templates of a task are in
model/prompt/templates/NAME.json, unless it says another name. FIELD is any column of the catalog
(brand-to-sid, prefix-to-category), or of a task with a feedback a field of the split.

A `sequence` example is a whole history, every item of it a target. `item-text` and `history-text`
interleave SIDs and titles in running text, for continued pre-training as in PLUM (He et al., 2025).
The last three tasks need fields of the split: the next item in a context, the next item that will
have some feedback (label-conditioned recommendation), and the feedback of an item (label
prediction), as in OpenOneRec."""

BLOCKS: dict[MakeExamples, MakeBlocks] = {
    sequence_examples: sequence_blocks,
    event_examples: event_blocks,
}
"""What makes the same examples many at once, where no field is shown and no example has a
weight."""

GENERAL_TASK = "general-text"
"""The task of a general corpus, whose share `make-sft --general-share` is given in place of a
weight."""

_GENERAL = Task(document_examples, "document", "title", "text")

_RESERVED = ("sid", "title", "prefix", "query", "text")
"""Words in task names that are not columns."""

LIST_TASK = "list"
"""The task by which a model recommends a list."""

HISTORY_PROMPT_TASKS = ("sequence", "next-item", "list", "title-history-to-sid")
"""Tasks by which a model can recommend from a history; the next item of `list` is the first of a
list."""

TEXT_PROMPT_TASKS = ("query-to-sid", "title-to-sid", "description-to-sid")
"""Tasks by which a model can recommend from a text, in order of preference."""


@lru_cache(256)  # examples are read by the task's name, one by one
def find_task(name: str) -> Task | None:
    """The task of a name, or None."""
    if name == GENERAL_TASK:
        return _GENERAL
    if name in TASKS and "FIELD" not in name:
        return replace(TASKS[name], templates=TASKS[name].templates or name)
    for family, task in TASKS.items():
        match = re.fullmatch(family.replace("FIELD", r"(.+)"), name)
        if match and task.feedback:
            return replace(task, templates=family.lower(), feedback=match[1])
        if match and match[1] not in _RESERVED:
            return replace(task, templates=family.lower(), column=match[1])
    return None


def named_task(name: str) -> Task:
    """The task of a name. Raises UsageError if there is none."""
    task = find_task(name)
    if task is None:
        raise UsageError(f"unknown task {name!r}", hint=f"tasks are {', '.join(TASKS)}")
    return task


def history_source(name: str) -> Literal["sid", "title"]:
    """How a task shows a history. Raises UsageError for a task that makes no prompt of one, which
    takes no templates either."""
    source = named_task(name).history_source
    if source is None:
        raise UsageError(f"task {name} takes no templates: only a task with a history does")
    return source


def history_prompt_task(weights: Mapping[str, float]) -> str | None:
    """The task by which a model trained on this mix recommends from a history, or None.

    Of `sequence` and `next-item` it is the one with the larger weight; then come the tasks with
    fields in the order of the mix, `list`, and `title-history-to-sid` last."""
    *sid_tasks, list_task, title_task = HISTORY_PROMPT_TASKS
    in_mix = [task for task in sid_tasks if task in weights]
    if in_mix:
        return max(in_mix, key=lambda task: weights[task])
    for name in weights:
        task = named_task(name)
        if task.needs_fields and task.target == "sid":
            return name
    return next((task for task in (list_task, title_task) if task in weights), None)


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise UsageError unless there are tasks, all of them known and of positive weight."""
    for task in weights:
        if named_task(task) is _GENERAL:
            raise UsageError(
                f"task {task} is no part of a mix",
                hint="make-sft --general FILE makes its examples",
            )
    if not weights or not all(0 < weight < math.inf for weight in weights.values()):
        raise UsageError(f"tasks need positive weights, not {dict(weights)}")


def token_budgets(weights: Mapping[str, float], max_tokens: int | None) -> dict[str, int]:
    """The tokens of each task, which share those of the mix by weight; empty without a budget."""
    if max_tokens is None:
        return {}
    total_weight = sum(weights.values())
    return {task: int(max_tokens * weight / total_weight) for task, weight in weights.items()}


def tokens_of_mix(weights: Mapping[str, float], budgets: Mapping[str, int]) -> int | None:
    """The `max_tokens` by which `token_budgets` gives the tasks of a mix these budgets; None
    without budgets. Raises UsageError if no number gives them."""
    if not budgets:
        return None
    total_weight = sum(weights.values())
    least = max(
        math.ceil(budget * total_weight / weights[task]) for task, budget in budgets.items()
    )
    for max_tokens in (least - 1, least, least + 1):  # a quotient may be off by its last bit
        if token_budgets(weights, max_tokens) == dict(budgets):
            return max_tokens
    raise UsageError(
        f"the token budgets {dict(budgets)} are no shares by the weights {dict(weights)}",
        hint="sidtool make-sft --max-tokens, then sidtool train",
    )


def task_rng(task: str, seed: int) -> np.random.Generator:
    """The random generator of a task, independent of the other tasks in the mix."""
    return np.random.default_rng([seed, crc32(task.encode())])


@dataclass(frozen=True)
class WeightedCopies:
    """Copies whose mean is the weight: at 1.5, one or two."""

    weight: float
    rng: np.random.Generator

    def __call__(self) -> int:
        """The copies of the next example."""
        # the fraction of the weight is the probability of one more copy
        return int(self.weight + self.rng.random())

    def of_next(self, n: int) -> NDArray[np.int64]:
        """(n,): the copies of each of the next examples, as n calls give them."""
        return (self.weight + self.rng.random(n)).astype(np.int64)


def copies_within(lengths: Sequence[int], budget: int, rng: np.random.Generator) -> list[int]:
    """Copies of each example, given the examples' lengths and a budget in tokens.

    Every example is copied as often as the budget has room for all of them; a random part that
    fits the rest is copied once more."""
    sizes = np.asarray(lengths, dtype=np.int64)
    total = int(sizes.sum())
    if total == 0:
        return [0] * len(sizes)
    rounds, remainder = divmod(budget, total)
    copies = np.full(len(sizes), rounds)
    # in random order, the examples whose sizes add up to at most the rest
    order = rng.permutation(len(sizes))
    once_more = order[sizes[order].cumsum() <= remainder]
    copies[once_more] += 1
    return [int(n) for n in copies]
