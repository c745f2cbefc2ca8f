"""The literal text around the content of a prompt, from a template file and a tokenizer."""

import json
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Literal

from sidtool.base.errors import UsageError
from sidtool.base.records import JsonRecord
from sidtool.model.prompt.chat_template import render
from sidtool.model.prompt.field_tokens import FieldTokenLookup, FieldValues
from sidtool.model.prompt.template_slots import slots

Format = Literal["plain", "chat"]
"""Plain text, or the chat markup of the tokenizer."""

HISTORY_SLOT = "{history}"
ITEM_SLOT = "{item}"


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

    def template(self, slot: str) -> str:
        """The literal text of the prompt with a slot for its content."""
        return self.before + slot + self.after


@dataclass(frozen=True)
class Templates(JsonRecord):
    """A template file: `prompts` with one slot each for the content, the `separator` between the
    items of a history and, for running text and for fields, the form of an item in each prompt."""

    prompts: tuple[str, ...]
    separator: str
    items: tuple[str, ...] = ()

    def item(self, number: int) -> str:
        """The form of an item in a prompt, "" for the item alone."""
        return self.items[number] if self.items else ""


@cache
def read_templates(name: str) -> Templates:
    """The templates of a file in the folder `templates`."""
    path = files("sidtool.model.prompt") / "templates" / f"{name}.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    return Templates(tuple(value["prompts"]), value["separator"], tuple(value.get("items", ())))


def plain_frame(before: str, after: str, separator: str, tokenizer: Any | None) -> PromptFrame:
    """A frame of plain text: the completion follows on a new line and ends with the end token."""
    before = begin_text(tokenizer) + before
    return PromptFrame(before, after + "\n", end_text(tokenizer), separator)


# Private-use characters as sentinels: no chat template trims or escapes them.
_CONTENT = "\ue000"
_COMPLETION = "\ue001"


def chat_frame(before: str, after: str, separator: str, tokenizer: Any | None) -> PromptFrame:
    """A frame of chat markup: the chat template is rendered once with sentinels in place of content
    and completion, so that only literal text remains.

    Raises UsageError if the tokenizer has no chat template, or one that does not render both texts
    exactly once, DataError for one that fails."""
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
    before, _, rest = text.partition(_CONTENT)
    after, _, close = rest.partition(_COMPLETION)
    # A space before a SID would become a stray token, and space after the end of the turn is never
    # generated.
    return PromptFrame(before, after.rstrip(" "), close.rstrip(), separator, "chat")


def begin_text(tokenizer: Any | None) -> str:
    """The text of the begin token if the tokenizer puts one before every text, else ""."""
    if tokenizer is None or tokenizer.bos_token is None:
        return ""
    if tokenizer("a")["input_ids"][:1] != [tokenizer.bos_token_id]:
        return ""
    return str(tokenizer.bos_token)


def end_text(tokenizer: Any | None) -> str:
    """The text of the tokenizer's end token, "" if it has none."""
    return getattr(tokenizer, "eos_token", None) or ""
