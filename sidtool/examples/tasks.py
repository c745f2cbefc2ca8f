"""The tasks of a training mix, and the frames of their prompts."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sidtool.base.errors import UsageError
from sidtool.model.prompt.frames import (
    HISTORY_SLOT,
    ITEM_SLOT,
    Format,
    PromptFrame,
    Templates,
    begin_text,
    chat_frame,
    end_text,
    plain_frame,
    read_templates,
)

Per = Literal["user", "item", "query", "document"]
"""What examples are made of: training events of users, items of the catalog, search queries, or
documents of a general corpus."""

Source = Literal["sid", "title", "prefix", "query", "column"]
"""What the prompt shows: items as SIDs or titles, the first codes of a SID, a query, or a column of
the catalog."""

Target = Literal["sid", "list", "title", "text", "column", "feedback"]
"""What the model writes: a SID, several SIDs, a title, a column, running text, in which all is
completion, or a feedback of the last item of the history."""


@dataclass(frozen=True)
class Task:
    """One kind of training example.

    `column` is the catalog column that source or target show, `feedback` the feedback of the event
    that the prompt shows or the model writes; `templates` is the name of the template file."""

    per: Per
    source: Source
    target: Target
    templates: str
    column: str = ""
    feedback: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """The catalog columns that the task needs, apart from the title."""
        return (self.column,) if self.column else ()


TASKS: Mapping[str, Task] = {
    "sequence": Task("user", "sid", "sid", "sequence"),
    "next-item": Task("user", "sid", "sid", "next-item"),
    "list": Task("user", "sid", "list", "list"),
    "title-history-to-sid": Task("user", "title", "sid", "title-history-to-sid"),
    "history-to-title": Task("user", "sid", "title", "history-to-title"),
    "history-to-description": Task(
        "user", "sid", "column", "history-to-description", "description"
    ),
    "title-history-to-title": Task("user", "title", "title", "title-history-to-title"),
    "title-to-sid": Task("item", "title", "sid", "title-to-sid"),
    "sid-to-title": Task("item", "sid", "title", "sid-to-title"),
    "description-to-sid": Task("item", "column", "sid", "description-to-sid", "description"),
    "sid-to-description": Task("item", "sid", "column", "sid-to-description", "description"),
    "query-to-sid": Task("query", "query", "sid", "query-to-sid"),
    "item-text": Task("item", "sid", "text", "item-text"),
    "history-text": Task("user", "sid", "text", "history-text"),
}
"""The tasks by name, without those of FAMILIES.

A `sequence` example is a whole history, every item of it a target. `item-text` and `history-text`
interleave SIDs and titles in running text, for continued pre-training as in PLUM (He et al.,
2025)."""

FAMILIES: Mapping[str, Task] = {
    "FIELD-to-sid": Task("item", "column", "sid", "field-to-sid"),
    "sid-to-FIELD": Task("item", "sid", "column", "sid-to-field"),
    "prefix-to-FIELD": Task("item", "prefix", "column", "prefix-to-field"),
}
"""Tasks for any catalog column, which their name contains: brand-to-sid, prefix-to-category."""

FIELD_TASKS: Mapping[str, Task] = {
    "context-to-sid": Task("user", "sid", "sid", "context-to-sid"),
    "next-item-by-FIELD": Task("user", "sid", "sid", "next-item-by-field", feedback="FIELD"),
    "predict-FIELD": Task("user", "sid", "feedback", "predict-field", feedback="FIELD"),
}
"""Tasks that need fields of the split: the next item in a context, the next item that will have
some feedback (label-conditioned recommendation), and the feedback of an item (label prediction), as
in OpenOneRec."""

GENERAL_TASK = "general-text"
"""The task of a general corpus, whose share `make-sft --general-share` is given in place of a
weight."""

_RESERVED = ("sid", "title", "prefix", "query", "text")
"""Words in task names that are not columns."""

LIST_TASK = "list"
"""The task by which a model recommends a list."""

HISTORY_PROMPT_TASKS = ("sequence", "next-item", "list", "title-history-to-sid")
"""Tasks by which a model can recommend from a history; the next item of `list` is the first of a
list."""

TEXT_PROMPT_TASKS = ("query-to-sid", "title-to-sid", "description-to-sid")
"""Tasks by which a model can recommend from a text, in order of preference."""


def find_task(name: str) -> Task | None:
    """The task of a name, or None."""
    if name in TASKS:
        return TASKS[name]
    if name == GENERAL_TASK:
        return Task("document", "title", "text", "")
    if name in FIELD_TASKS and "FIELD" not in name:
        return FIELD_TASKS[name]
    for family, task in {**FAMILIES, **FIELD_TASKS}.items():
        match = re.fullmatch(family.replace("FIELD", r"(\w+)"), name)
        if match and task.feedback:
            return replace(task, feedback=match[1])
        if match and match.groups() and match[1] not in _RESERVED:
            return replace(task, column=match[1])
    return None


def named_task(name: str) -> Task:
    """The task of a name. Raises UsageError if there is none."""
    task = find_task(name)
    if task is None:
        raise UsageError(
            f"unknown task {name!r}",
            hint=f"tasks are {', '.join((*TASKS, *FAMILIES, *FIELD_TASKS))}",
        )
    return task


def history_source(name: str) -> Literal["sid", "title"]:
    """How a task shows a history. Raises UsageError for a task that makes no prompt of one, which
    takes no templates either."""
    task = named_task(name)
    if task.per != "user" or task.target == "text" or task.source not in ("sid", "title"):
        raise UsageError(f"task {name} takes no templates: only a task with a history does")
    return task.source


def history_prompt_task(weights: Mapping[str, float]) -> str | None:
    """The task by which a model trained on this mix recommends from a history, or None.

    Of `sequence` and `next-item` it is the one with the larger weight; then come those of
    FIELD_TASKS in the order of the mix, `list`, and `title-history-to-sid` last."""
    *sid_tasks, list_task, title_task = HISTORY_PROMPT_TASKS
    in_mix = [task for task in sid_tasks if task in weights]
    if in_mix:
        return max(in_mix, key=lambda task: weights[task])
    with_fields = [task for task in weights if needs_fields(task) and _answers_with_sid(task)]
    if with_fields:
        return with_fields[0]
    if list_task in weights:
        return list_task
    return title_task if title_task in weights else None


def needs_fields(name: str) -> bool:
    """Whether the templates of a task show fields of the split."""
    return named_task(name).templates in {task.templates for task in FIELD_TASKS.values()}


def _answers_with_sid(name: str) -> bool:
    return named_task(name).target == "sid"


def shows_title(task: Task) -> bool:
    """Whether examples of a task show titles of items."""
    return task.source == "title" or task.target in ("title", "text")


def writes_sids(task: Task) -> bool:
    """Whether every answer of a task is one SID or several."""
    return task.target in ("sid", "list")


def text_prompt_task(weights: Mapping[str, float]) -> str | None:
    """The task by which a model trained on this mix recommends from a text, or None."""
    return next((task for task in TEXT_PROMPT_TASKS if task in weights), None)


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise UsageError unless there are tasks, all of them known and of positive weight."""
    for task in weights:
        if named_task(task).per == "document":
            raise UsageError(
                f"task {task} is no part of a mix",
                hint="make-sft --general FILE makes its examples",
            )
    if not weights or not all(0 < weight < math.inf for weight in weights.values()):
        raise UsageError(f"tasks need positive weights, not {dict(weights)}")


def prompt_frames(
    name: str, tokenizer: Any | None, format: Format, templates: Templates | None = None
) -> tuple[PromptFrame, ...]:
    """The frames of a task, one per template; a trained model recommends with the first.

    A plain prompt starts with the begin token if the tokenizer adds one, and its completion ends
    with the end token. Whole histories and running text, which have no prompt, are always plain.
    `templates` take the place of those of the task.
    Raises UsageError if the tokenizer has no usable chat template."""
    task = named_task(name)
    templates = templates or read_templates(task.templates)
    separator = templates.separator
    begin = begin_text(tokenizer)
    if name == "sequence":
        before = templates.prompts[0].partition(HISTORY_SLOT)[0]
        return (PromptFrame(begin + before, "", separator=separator, item=templates.item(0)),)
    slot = HISTORY_SLOT if task.per == "user" else ITEM_SLOT
    column = task.column.replace("_", " ")
    frames: list[PromptFrame] = []
    for number, prompt in enumerate(templates.prompts):
        before, _, after = prompt.replace("{field}", column).partition(slot)
        if task.target == "text":
            frame = PromptFrame(begin + before, after, end_text(tokenizer), separator)
        elif format == "chat":
            frame = chat_frame(before, after, separator, tokenizer)
        else:
            frame = plain_frame(before, after, separator, tokenizer)
        frames.append(replace(frame, item=templates.item(number)))
    return tuple(frames)
