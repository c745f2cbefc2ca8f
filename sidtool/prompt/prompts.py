"""The prompts that a model was trained with, stored in its contract: one that contains a history,
one that contains a text."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, Self

from sidtool.errors import DataError
from sidtool.prompt.frames import HISTORY_SLOT, ITEM_SLOT, Format, PromptFrame


@dataclass(frozen=True)
class _JsonRecord:
    """A record stored as a JSON object of its fields."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The record of an object of its fields; unknown keys are ignored. Raises DataError if a
        key is missing."""
        arguments = {field.name: value[field.name] for field in fields(cls) if field.name in value}
        try:
            return cls(**arguments)
        except TypeError as error:
            raise DataError(f"{cls.__name__} {sorted(value)} is incomplete: {error}") from error


@dataclass(frozen=True)
class HistoryPrompt(_JsonRecord):
    """The prompt by which a model recommends the next item of a history.

    A prompt is the template with the items of the history in its slot, followed by the begin token
    if the SID vocabulary has one. Only the last `history_length` items enter, oldest first, and the
    oldest of these are left out where the prompt would exceed `max_length` tokens. Items are shown
    as SIDs or as titles joined by `separator`, according to `history_as`.

    Raises DataError unless the template contains the history slot exactly once."""

    task: str
    template: str
    history_length: int
    max_length: int
    format: Format = "plain"
    history_as: Literal["sid", "title"] = "sid"
    separator: str = ""

    def __post_init__(self) -> None:
        _check_slot(self.template, HISTORY_SLOT)

    @cached_property
    def frame(self) -> PromptFrame:
        """The literal text around the history."""
        before, _, after = self.template.partition(HISTORY_SLOT)
        return PromptFrame(before, after, separator=self.separator, format=self.format)


@dataclass(frozen=True)
class TextPrompt(_JsonRecord):
    """The prompt by which a model recommends the item that a text describes.

    A prompt is the template with the text in its slot, followed by the begin token if the SID
    vocabulary has one. The end of a text that would exceed `max_length` tokens is cut off.

    Raises DataError unless the template contains the item slot exactly once."""

    task: str
    template: str
    max_length: int
    format: Format = "plain"

    def __post_init__(self) -> None:
        _check_slot(self.template, ITEM_SLOT)

    @cached_property
    def frame(self) -> PromptFrame:
        """The literal text around the query text."""
        before, _, after = self.template.partition(ITEM_SLOT)
        return PromptFrame(before, after, format=self.format)


def _check_slot(template: str, slot: str) -> None:
    if template.count(slot) != 1:
        raise DataError(f"template {template!r} must contain {slot} exactly once")
