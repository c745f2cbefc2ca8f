"""The tasks that a model is trained on, and the literal frame that each template puts around them.

Knows what a task asks for and answers with, and how a chat template becomes literal text; knows
nothing of bundles, files or token ids."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sidtool.errors import UsageError
from sidtool.prompt.frames import (
    HISTORY_SLOT,
    ITEM_SLOT,
    Format,
    PromptFrame,
    begin_text,
    chat_frame,
    end_text,
    plain_frame,
    read_templates,
)


@dataclass(frozen=True)
class Task:
    """One kind of training row: made per `user` event, catalog `item` or search `query`, from
    `source` to `target`.

    Both are what is shown of an item: its "sid", its "title", the "prefix" of its SID, a "query"
    that means it, or a column of the catalog by name. The target "text" is running text, which asks
    nothing: all of it is the target. `templates` names the file of its templates."""

    per: str
    source: str
    target: str
    templates: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The catalog columns that it shows, beside the title."""
        return tuple(shown for shown in (self.source, self.target) if shown not in _NO_FIELDS)


_NO_FIELDS = ("sid", "title", "prefix", "query", "text")

TASKS: Mapping[str, Task] = {
    name: Task(per, source, target, name)
    for name, per, source, target in (
        ("sequence", "user", "sid", "sid"),
        ("next-item", "user", "sid", "sid"),
        ("title-history-to-sid", "user", "title", "sid"),
        ("history-to-title", "user", "sid", "title"),
        ("history-to-description", "user", "sid", "description"),
        ("title-history-to-title", "user", "title", "title"),
        ("title-to-sid", "item", "title", "sid"),
        ("sid-to-title", "item", "sid", "title"),
        ("description-to-sid", "item", "description", "sid"),
        ("sid-to-description", "item", "sid", "description"),
        ("query-to-sid", "query", "query", "sid"),
        ("item-text", "item", "sid", "text"),
        ("history-text", "user", "sid", "text"),
    )
}
"""Every task by name, but for those of FAMILIES. `sequence` rows are a whole history each, with
every item of it a target; `item-text` and `history-text` are running text in which SIDs and titles
interleave, every token a target (continued pre-training, after PLUM: He et al., 2025)."""

FAMILIES: Mapping[str, Task] = {
    "FIELD-to-sid": Task("item", "FIELD", "sid", "field-to-sid"),
    "sid-to-FIELD": Task("item", "sid", "FIELD", "sid-to-field"),
    "prefix-to-FIELD": Task("item", "prefix", "FIELD", "prefix-to-field"),
}
"""Tasks of any catalog column, by what their name says: brand-to-sid, sid-to-category,
prefix-to-category."""

SERVABLE = ("sequence", "next-item", "title-history-to-sid")
"""Tasks that end in the SID of a user's next item, so that a model can be served with them."""

ASKABLE = ("query-to-sid", "title-to-sid", "description-to-sid")
"""Tasks that go from a text to the SID of the item it means, so that a model can be asked in words;
best first."""


def find_task(name: str) -> Task | None:
    """The task of a name, or None if there is none."""
    if name in TASKS:
        return TASKS[name]
    for family, task in FAMILIES.items():
        match = re.fullmatch(family.replace("FIELD", r"(\w+)"), name)
        if match and match[1] not in _NO_FIELDS:
            source, target = (
                match[1] if shown == "FIELD" else shown for shown in (task.source, task.target)
            )
            return Task(task.per, source, target, task.templates)
    return None


def named_task(name: str) -> Task:
    """The task of a name. Raises UsageError if there is none."""
    task = find_task(name)
    if task is None:
        raise UsageError(f"no task {name!r}", hint=f"tasks are {', '.join((*TASKS, *FAMILIES))}")
    return task


def served_task(weights: Mapping[str, float]) -> str | None:
    """The task that a model trained on this mix is served with, or None if none of them recommends.

    Of sequence and next-item the one with the larger weight; title-history-to-sid if neither is
    there."""
    mixed = [task for task in SERVABLE[:2] if weights.get(task, 0) > 0]
    if mixed:
        return max(mixed, key=lambda task: weights[task])
    return SERVABLE[2] if weights.get(SERVABLE[2], 0) > 0 else None


def asked_task(weights: Mapping[str, float]) -> str | None:
    """The task by which a model trained on this mix is asked in words, or None if it has learned
    none."""
    return next((task for task in ASKABLE if weights.get(task, 0) > 0), None)


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise UsageError unless every task is known and has a positive weight, and there is one."""
    for task in weights:
        named_task(task)
    if not weights or min(weights.values()) <= 0:
        raise UsageError(f"tasks need positive weights, not {dict(weights)}")


def prompt_frames(task: str, tokenizer: Any | None, format: Format) -> tuple[PromptFrame, ...]:
    """The frames of a task, one per template; a trained model recommends with the first.

    A plain prompt starts with the begin token if the tokenizer adds one, and its completion ends
    with the end token. Whole histories and running text, which have no prompt, are always plain.
    Raises UsageError if the tokenizer has no usable chat template."""
    kind = named_task(task)
    templates = read_templates(kind.templates)
    begin = begin_text(tokenizer)
    if task == "sequence":
        return (PromptFrame(begin, "", separator=templates.separator),)
    slot = HISTORY_SLOT if kind.per == "user" else ITEM_SLOT
    column = next(iter(kind.fields), "").replace("_", " ")
    parts = [prompt.replace("{field}", column).partition(slot) for prompt in templates.prompts]
    if kind.target == "text":
        return tuple(
            PromptFrame(begin + before, after, end_text(tokenizer), templates.separator, item=item)
            for (before, _, after), item in zip(parts, templates.items, strict=True)
        )
    make_frame = chat_frame if format == "chat" else plain_frame
    return tuple(
        make_frame(before, after, templates.separator, tokenizer) for before, _, after in parts
    )
