"""The tasks that a model is trained on, and the literal frame that each template puts around them.

Knows what a task asks for and answers with, and how a chat template becomes literal text; knows
nothing of bundles, files or token ids."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from sidtool.errors import UsageError
from sidtool.prompt.serving import HISTORY_SLOT, ITEM_SLOT

Format = Literal["plain", "chat"]


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


@dataclass(frozen=True)
class Frame:
    """Literal text around what a row is about: `before` it, `after` it up to the answer, and what
    closes the answer."""

    before: str
    after: str
    close: str
    separator: str
    format: Format
    item: str = ""
    """in running text: how an item stands in it, with slots {sid}, {title} and {facts} (its other
    columns)"""

    def template(self, slot: str) -> str:
        """The prompt's literal text with the slot for what it is about."""
        return self.before + slot + self.after


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


def frames(task: str, tokenizer: Any | None, format: Format) -> tuple[Frame, ...]:
    """The frames of a task, one per template; the first is the one that is served.

    Plain rows begin with the tokenizer's begin token where it adds one itself and close with its
    end token. Chat rows come from the chat template, rendered once around sentinels, so that
    nothing but text is left of it. Rows that ask nothing (`sequence` and running text) are always
    plain. Raises UsageError if the tokenizer has no chat template or it hides the texts."""
    kind = named_task(task)
    slot = HISTORY_SLOT if kind.per == "user" else ITEM_SLOT
    templates = _templates(kind.templates)
    if task == "sequence":
        return (Frame(_added_begin(tokenizer), "", "", templates.separator, "plain"),)
    field = next(iter(kind.fields), "").replace("_", " ")
    around = [prompt.replace("{field}", field).partition(slot) for prompt in templates.prompts]
    if kind.target == "text":
        begin, close = _added_begin(tokenizer), getattr(tokenizer, "eos_token", None) or ""
        return tuple(
            Frame(begin + before, after, close, templates.separator, "plain", item)
            for (before, _, after), item in zip(around, templates.items, strict=True)
        )
    frame = _chat_frame if format == "chat" else _plain_frame
    return tuple(
        frame(before, after, templates.separator, tokenizer) for before, _, after in around
    )


def _plain_frame(before: str, after: str, separator: str, tokenizer: Any | None) -> Frame:
    close = getattr(tokenizer, "eos_token", None) or ""
    return Frame(_added_begin(tokenizer) + before, after + "\n", close, separator, "plain")


_ASKED, _ANSWERED = (
    "\ue000",
    "\ue001",
)  # private-use characters: no chat template trims or escapes them


def _chat_frame(before: str, after: str, separator: str, tokenizer: Any | None) -> Frame:
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError("chat rows need a tokenizer with a chat template", hint="--format plain")
    messages = [
        {"role": "user", "content": before + _ASKED + after},
        {"role": "assistant", "content": _ANSWERED},
    ]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False)  # type: ignore[union-attr]
    if text.count(_ASKED) != 1 or text.count(_ANSWERED) != 1:
        raise UsageError(
            "the chat template does not show question and answer once each", hint="--format plain"
        )
    before, _, rest = text.partition(_ASKED)
    after, _, close = rest.partition(_ANSWERED)
    # a space before a SID would leave a stray token, and one after the end of the turn is never
    # generated
    return Frame(before, after.rstrip(" "), close.rstrip(), separator, "chat")


def _added_begin(tokenizer: Any | None) -> str:
    """The begin token's text if the tokenizer puts one before every text."""
    if tokenizer is None or tokenizer.bos_token is None:
        return ""
    return (
        str(tokenizer.bos_token)
        if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        else ""
    )


@dataclass(frozen=True)
class _Templates:
    """A file of templates: prompts, what stands between items, and for running text an item's form
    for each prompt."""

    separator: str
    prompts: tuple[str, ...]
    items: tuple[str, ...]


@cache
def _templates(name: str) -> _Templates:
    value = json.loads(
        (files("sidtool.prompt") / "templates" / f"{name}.json").read_text(encoding="utf-8")
    )
    return _Templates(value["separator"], tuple(value["prompts"]), tuple(value.get("items", ())))
