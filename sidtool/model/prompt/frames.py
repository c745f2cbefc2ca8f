"""The literal text around the content of a prompt, from a template file and a tokenizer.

Template files are those in `sidtool/model/prompt/templates` and, with slots for the fields of a
split, those of a user. The chat template of a tokenizer, a program of unknown origin, is rendered
under limits: transformers runs it in Jinja's sandbox, which forbids access to Python but not
endless loops or huge texts."""

import json
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from sidtool.base.checkpoint import loading, read_json
from sidtool.base.errors import DataError, UsageError
from sidtool.base.process_setting import process_setting
from sidtool.base.records import JsonRecord
from sidtool.data import FieldTypes
from sidtool.model.prompt.template_slots import SPLIT_HINT, Slot, opening, parse, slots
from sidtool.model.vocabulary.tokens import FieldTokenLookup, FieldValues

Format = Literal["plain", "chat"]
"""Plain text, or the chat markup of the tokenizer."""

HISTORY_SLOT = "{history}"
ITEM_SLOT = "{item}"
_LIKE_A_SLOT = re.compile(r"\{[A-Za-z_][\w.:-]*\}")


@dataclass(frozen=True)
class PromptFrame:
    """Literal text `before` and `after` the content of a prompt.

    `close` ends the completion, `separator` is put between the items of a history. `item` is the
    form of one item: in running text with the slots {sid}, {title} and {columns}, in a history with
    {sid} or {title} and fields; "" shows the item alone. Text and form may have slots for fields
    (`slots`), some of which show tokens of `field_tokens`."""

    before: str
    after: str
    close: str = ""
    separator: str = ""
    format: Format = "plain"
    item: str = ""
    field_tokens: FieldValues = field(default_factory=dict)

    @cached_property
    def tokens(self) -> FieldTokenLookup:
        """The tokens of values."""
        return FieldTokenLookup(self.field_tokens)

    @property
    def token_slots(self) -> set[str]:
        """The fields that are shown by tokens."""
        texts = (self.before, self.after, self.item)
        return {slot.name for text in texts for slot in slots(text) if slot.as_token}

    @cached_property
    def has_slots(self) -> bool:
        """Whether there is a form of items, or a slot in the text."""
        return bool(self.item or slots(self.before) or slots(self.after))

    def template(self, content: str) -> str:
        """The literal text of the prompt around its content, or a slot for it."""
        return self.before + content + self.after


@dataclass(frozen=True)
class Templates(JsonRecord):
    """A template file: `prompts` with one slot each for the content, the `separator` between the
    items of a history and, for running text and for fields, the form of an item in each prompt."""

    prompts: tuple[str, ...]
    separator: str
    items: tuple[str, ...] = ()

    @classmethod
    @cache
    def of_task(cls, name: str) -> "Templates":
        """The templates of a file in the folder `templates`."""
        path = files("sidtool.model.prompt") / "templates" / f"{name}.json"
        return cls.from_json(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def read(cls, path: str | Path) -> "Templates":
        """The templates of a JSON file {"prompts": [...], "separator": "", "items": [...]}, where
        `separator` and `items` may be missing. Raises DataError if it is no such file."""
        value = read_json(Path(path))
        if not isinstance(value, dict) or not value.keys() <= {"prompts", "separator", "items"}:
            raise DataError(f"{path} is no JSON object of prompts, separator and items")
        try:
            templates = cls.from_json({"separator": "", **value})
        except TypeError as error:
            raise DataError(f"{path}: {error}") from error
        if not templates.prompts:
            raise DataError(f"{path} has no prompts")
        if templates.items and len(templates.items) != len(templates.prompts):
            raise DataError(
                f"{path} has {len(templates.items)} items for {len(templates.prompts)} prompts"
            )
        return templates

    def item(self, number: int) -> str:
        """The form of an item in a prompt, "" for the item alone."""
        return self.items[number] if self.items else ""

    def filled(self, values: Mapping[str, str]) -> "Templates":
        """The templates with values in place of slots."""

        def fill(text: str) -> str:
            for slot, value in values.items():
                text = text.replace(slot, value)
            return text

        return replace(
            self, prompts=tuple(map(fill, self.prompts)), items=tuple(map(fill, self.items))
        )

    def check_slots(self, replaced: Collection[str]) -> None:
        """Raise UsageError for what looks like a slot, but is none and not `replaced` later: it
        would stay in the text of every example. A separator has no slots."""
        for slot in _LIKE_A_SLOT.findall(self.separator):
            raise UsageError(f"separator {self.separator!r:.80} has {slot}, put it into items")
        for text in (*self.prompts, *self.items):
            literal = "\n".join(piece for piece in parse(text) if isinstance(piece, str))
            for slot in _LIKE_A_SLOT.findall(literal):
                if slot != HISTORY_SLOT and slot not in replaced:
                    raise UsageError(
                        f"template {text!r:.80} has {slot}, which is no slot",
                        hint="slots are {history}, {user.FIELD}, {context.FIELD}, {event.FIELD}, "
                        "{gap}",
                    )

    def check(
        self,
        task: str,
        history_as: Literal["sid", "title"],
        types: FieldTypes,
        shown_feedback: str = "",
        *,
        is_sequence: bool = False,
    ) -> None:
        """Raise UsageError unless these fit a task and a split with these fields: every slot is
        known before the target of an example, but `shown_feedback`, which a prompt may show."""
        for number, prompt in enumerate(self.prompts):
            if prompt.count(HISTORY_SLOT) != 1:
                raise UsageError(
                    f"template {prompt!r:.80} must contain {HISTORY_SLOT} exactly once"
                )
            for slot in slots(prompt):
                if slot.part == "feedback" and slot.field != shown_feedback:
                    raise UsageError(
                        f"{slot} is known only after the event that is to be predicted",
                        hint=f"the task next-item-by-{slot.field} shows it",
                    )
                if slot.part not in ("user", "context", "feedback", "gap"):
                    raise UsageError(f"{slot} belongs into the form of an item, not into a prompt")
                _check_recorded(slot, types)
            form = self.item(number)
            item_slots = [slot for slot in slots(form) if slot.part in ("sid", "title")]
            if form and item_slots != [Slot(history_as)]:
                raise UsageError(
                    f"item {form!r:.80} of task {task} must contain {Slot(history_as)} exactly "
                    "once, and no other slot of the item"
                )
            for slot in slots(form):
                if slot.part in ("user", "context", "feedback"):
                    raise UsageError(
                        f"{slot} belongs into a prompt, not into the form of an item",
                        hint=f"{{event.{slot.field}}} is that of an item's own event",
                    )
                _check_recorded(slot, types)
            if is_sequence:
                _check_sequence(prompt, form, types)


def _check_recorded(slot: Slot, types: FieldTypes) -> None:
    recorded: Mapping[str, str] = getattr(types, slot.part) if slot.field else {}
    if slot.field and slot.field not in recorded:
        raise UsageError(
            f"{slot} is no field of the split, whose {slot.part} fields are: "
            f"{', '.join(recorded) or 'none'}",
            hint=SPLIT_HINT,
        )
    if slot.part in ("gap", "ago") and not types.times:
        raise UsageError(f"{slot} needs the times of events", hint="sidtool split --times")


def _check_sequence(prompt: str, form: str, types: FieldTypes) -> None:
    """Every item of a sequence is a target: what stands before it must be known before it."""
    before, _, after = prompt.partition(HISTORY_SLOT)
    if after:
        raise UsageError(f"a sequence ends with its history, not with {after!r:.60}")
    for slot in slots(before):
        if slot.part != "user":
            raise UsageError(f"{slot} differs from item to item of a sequence: put it into items")
    for slot in slots(form):
        if slot.part == "ago":
            raise UsageError("{ago} needs a single target, a sequence has many: use {gap}")
    for slot in slots(opening(form)):
        if slot.field and slot.field not in types.context:
            raise UsageError(
                f"{slot} stands before the item, but is known only after its event",
                hint=f"put it behind {{sid}}, or record it with --context {slot.field}",
            )


# Private-use characters as sentinels: no chat template trims or escapes them.
_CONTENT = "\ue000"
_COMPLETION = "\ue001"


def make_frame(
    prompt: str,
    tokenizer: Any | None,
    form: Format | Literal["text"] = "plain",
    separator: str = "",
) -> PromptFrame:
    """The frame of a prompt with a slot for its content, {history} or {item}, or of running `text`,
    all of which is completion. Plain text starts with the begin token if the tokenizer puts one
    before every text, and the completion ends with the end token; the chat template is rendered
    once with sentinels in place of content and completion, so that only literal text remains.

    Raises UsageError if the tokenizer has no chat template, or one that does not render both texts
    exactly once, DataError for one that fails."""
    before, _, after = prompt.partition(HISTORY_SLOT if HISTORY_SLOT in prompt else ITEM_SLOT)
    if form != "chat":
        line_break = "\n" if form == "plain" else ""  # before the completion
        end = getattr(tokenizer, "eos_token", None) or ""
        return PromptFrame(_begin_text(tokenizer) + before, after + line_break, end, separator)
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            "the chat format needs a tokenizer with a chat template", hint="--format plain"
        )
    messages = [
        {"role": "user", "content": before + _CONTENT + after},
        {"role": "assistant", "content": _COMPLETION},
    ]
    text = render(tokenizer, messages)
    if text.count(_CONTENT) != 1 or text.count(_COMPLETION) != 1:
        raise UsageError(
            "the chat template does not render user and assistant messages once each",
            hint="--format plain",
        )
    before, _, tail = text.partition(_CONTENT)
    after, _, close = tail.partition(_COMPLETION)
    # A space before a SID would become a stray token, and space after the end of the turn is never
    # generated.
    return PromptFrame(before, after.rstrip(" "), close.rstrip(), separator, "chat")


def _begin_text(tokenizer: Any | None) -> str:
    """The text of the begin token if the tokenizer puts one before every text, else ""."""
    if tokenizer is None or tokenizer.bos_token is None:
        return ""
    if tokenizer("a")["input_ids"][:1] != [tokenizer.bos_token_id]:
        return ""
    return str(tokenizer.bos_token)


MAX_CHARACTERS = 1 << 18
"""Of a template and of what it renders; the longest known template has 20,000."""
MAX_PRODUCTS = 32
SECONDS = 2.0
MEMORY = 1 << 28
"""Bytes that rendering may take; enforced on Linux."""


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """The text of messages by the tokenizer's chat template.

    Raises DataError if the template fails or exceeds a limit."""
    from jinja2 import Environment

    path = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
    with loading(f"the chat template of {path}", "as a template"):
        with _limited_memory(), _limited_time():
            source = str(tokenizer.chat_template)
            if len(source) > MAX_CHARACTERS:
                raise ValueError(f"it has {len(source)} characters, the limit is {MAX_CHARACTERS}")
            lexed = Environment().lex(source)
            operators = [value for _, kind, value in lexed if kind == "operator"]
            # arithmetic that takes long without executing a further line
            if "**" in operators or operators.count("*") > MAX_PRODUCTS:
                raise ValueError("it computes powers or too many products")
            text: str = tokenizer.apply_chat_template(messages, tokenize=False)
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"it renders {len(text)} characters, the limit is {MAX_CHARACTERS}")
        return text


@contextmanager
def _limited_time() -> Iterator[None]:
    """Stop this thread at the first line of Python that it executes after the limit."""
    end = time.monotonic() + SECONDS
    before = sys.gettrace()

    def check(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise DataError(f"a chat template takes longer than {SECONDS:g} s to render")
        return check

    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Let allocations beyond the limit fail."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        yield
        return
    import resource

    in_use = int(statistics.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = in_use + MEMORY if soft == resource.RLIM_INFINITY else min(in_use + MEMORY, soft)
    read = partial(resource.getrlimit, resource.RLIMIT_AS)
    write = partial(resource.setrlimit, resource.RLIMIT_AS)
    with process_setting("memory", read, write, (limit, hard)):
        yield
