"""The tasks that a model is trained on, and the literal frame that each template puts around them.

Knows what a task asks for and answers with, and how a chat template becomes literal text; knows nothing of bundles,
files or token ids.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from sidtool.errors import UsageError
from sidtool.prompt.serving import HISTORY_SLOT

Format = Literal["plain", "chat"]


@dataclass(frozen=True)
class Task:
    """One kind of training row: made per `user` event or per catalogue `item`, from `source` to `target`."""

    per: Literal["user", "item"]
    source: Literal["sid", "title", "description"]
    target: Literal["sid", "title", "description"]


TASKS: Mapping[str, Task] = {
    "sequence": Task("user", "sid", "sid"),
    "next-item": Task("user", "sid", "sid"),
    "title-history-to-sid": Task("user", "title", "sid"),
    "history-to-title": Task("user", "sid", "title"),
    "title-to-sid": Task("item", "title", "sid"),
    "sid-to-title": Task("item", "sid", "title"),
    "description-to-sid": Task("item", "description", "sid"),
    "sid-to-description": Task("item", "sid", "description"),
}
"""Every task by name. `sequence` rows are a whole history each, with every item of it a target."""

SERVABLE = ("sequence", "next-item", "title-history-to-sid")
"""Tasks that end in the SID of a user's next item, so that a model can be served with them."""


@dataclass(frozen=True)
class Frame:
    """Literal text around what a row is about: `before` it, `after` it up to the answer, and what closes the answer."""

    before: str
    after: str
    close: str
    separator: str
    format: Format

    @property
    def template(self) -> str:
        """The prompt's literal text with the slot for a history."""
        return self.before + HISTORY_SLOT + self.after


def served_task(weights: Mapping[str, float]) -> str | None:
    """The task that a model trained on this mix is served with, or None if none of them recommends.

    Of sequence and next-item the one with the larger weight; title-history-to-sid if neither is there.
    """
    mixed = [task for task in SERVABLE[:2] if weights.get(task, 0) > 0]
    if mixed:
        return max(mixed, key=lambda task: weights[task])
    return SERVABLE[2] if weights.get(SERVABLE[2], 0) > 0 else None


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise UsageError unless every task is known and has a positive weight, and there is one."""
    unknown = [task for task in weights if task not in TASKS]
    if unknown:
        raise UsageError(f"no task {unknown[0]!r}", hint=f"tasks are {', '.join(TASKS)}")
    if not weights or min(weights.values()) <= 0:
        raise UsageError(f"tasks need positive weights, not {dict(weights)}")


def frames(task: str, tokenizer: Any | None, format: Format) -> tuple[Frame, ...]:
    """The frames of a task, one per template; the first is the one that is served.

    Plain rows begin with the tokenizer's begin token where it adds one itself and close with its end token. Chat rows
    come from the chat template, rendered once around sentinels, so that nothing but text is left of it. `sequence`
    rows are always plain. Raises UsageError if the tokenizer has no chat template or it hides the texts.
    """
    slot = HISTORY_SLOT if TASKS[task].per == "user" else "{item}"
    separator, prompts = _templates(task)
    if task == "sequence":
        return (Frame(_added_begin(tokenizer), "", "", separator, "plain"),)
    frame = _chat_frame if format == "chat" else _plain_frame
    around = (prompt.partition(slot) for prompt in prompts)
    return tuple(frame(before, after, separator, tokenizer) for before, _, after in around)


def _plain_frame(before: str, after: str, separator: str, tokenizer: Any | None) -> Frame:
    close = getattr(tokenizer, "eos_token", None) or ""
    return Frame(_added_begin(tokenizer) + before, after + "\n", close, separator, "plain")


_ASKED, _ANSWERED = "\ue000", "\ue001"  # private-use characters: no chat template trims or escapes them


def _chat_frame(before: str, after: str, separator: str, tokenizer: Any | None) -> Frame:
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError("chat rows need a tokenizer with a chat template", hint="--format plain")
    messages = [
        {"role": "user", "content": before + _ASKED + after},
        {"role": "assistant", "content": _ANSWERED},
    ]
    text: str = tokenizer.apply_chat_template(messages, tokenize=False)  # type: ignore[union-attr]
    if text.count(_ASKED) != 1 or text.count(_ANSWERED) != 1:
        raise UsageError("the chat template does not show question and answer once each", hint="--format plain")
    before, _, rest = text.partition(_ASKED)
    after, _, close = rest.partition(_ANSWERED)
    # a space before a SID would leave a stray token, and one after the end of the turn is never generated
    return Frame(before, after.rstrip(" "), close.rstrip(), separator, "chat")


def _added_begin(tokenizer: Any | None) -> str:
    """The begin token's text if the tokenizer puts one before every text."""
    if tokenizer is None or tokenizer.bos_token is None:
        return ""
    return str(tokenizer.bos_token) if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] else ""


@cache
def _templates(task: str) -> tuple[str, tuple[str, ...]]:
    value = json.loads((files("sidtool.prompt") / "templates" / f"{task}.json").read_text(encoding="utf-8"))
    return value["separator"], tuple(value["prompts"])
