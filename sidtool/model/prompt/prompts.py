"""The prompts that a model was trained with, stored in its contract: one that contains a history,
one by which it recommends a list, those by which it predicts labels, one that contains a text."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

from sidtool.base.errors import DataError
from sidtool.base.records import JsonRecord
from sidtool.data import NUMBER, Condition, Fields, Value
from sidtool.data.split import MAX_LENGTH
from sidtool.model.prompt.frames import HISTORY_SLOT, ITEM_SLOT, Format, PromptFrame
from sidtool.model.prompt.template_slots import Slot, opening, parse, slots
from sidtool.model.vocabulary.tokens import FieldValues

MOST_LABELS = 20
"""More different texts are no labels."""
MAX_ITEMS = 1 << 16
"""Largest history_length of a prompt."""
MAX_TOKENS = 1 << 24
"""Largest max_length of a prompt."""


@dataclass(frozen=True)
class HistoryPrompt(JsonRecord):
    """The prompt by which a model recommends the next item of a history.

    A prompt is the template with the items of the history in its slot, followed by the begin token
    if the SID vocabulary has one. Only the last `history_length` items enter, oldest first, and the
    oldest of these are left out where the prompt would exceed `max_length` tokens. Items are shown
    as SIDs or as titles joined by `separator`, according to `history_as`, in the form `item` if
    there is one. Template and form may have slots for fields, which a request must have then;
    `field_tokens` are the values that slots show by tokens.

    Raises DataError unless the template contains the history slot exactly once, the form the slot
    of the item exactly once, and the lengths are positive."""

    OMITTED = ("field_tokens",)
    task: str
    template: str
    history_length: int
    max_length: int
    format: Format = "plain"
    history_as: Literal["sid", "title"] = "sid"
    separator: str = ""
    item: str = ""
    field_tokens: FieldValues = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_slot(self.template, HISTORY_SLOT)
        if self.item:
            _check_slot(self.item, f"{{{self.history_as}}}")
        _check_limit("history_length", self.history_length, MAX_ITEMS)
        _check_limit("max_length", self.max_length, MAX_TOKENS)
        unknown = sorted(self.frame.token_slots - self.field_tokens.keys())
        if unknown:
            raise DataError(f"the prompt shows tokens of {unknown[0]}, which it does not list")

    @classmethod
    def of_frame(cls, frame: PromptFrame, **more: Any) -> Self:
        """The prompt of which this is the `frame`; `more` are the other fields."""
        return cls(
            template=frame.template(HISTORY_SLOT),
            format=frame.format,
            separator=frame.separator,
            item=frame.item,
            field_tokens=frame.field_tokens,
            **more,
        )

    @cached_property
    def frame(self) -> PromptFrame:
        """The literal text around the history."""
        before, _, after = self.template.partition(HISTORY_SLOT)
        return PromptFrame(
            before,
            after,
            separator=self.separator,
            format=self.format,
            item=self.item,
            field_tokens=self.field_tokens,
        )

    @property
    def is_sequence(self) -> bool:
        """Whether it is a sequence of items that goes on with the next one."""
        return self.task == "sequence"

    @property
    def opening(self) -> str:
        """What stands before the SID that is to be recommended: in a sequence the begin of that
        item's form."""
        return opening(self.item) if self.is_sequence else ""

    @property
    def item_slots(self) -> list[Slot] | None:
        """The slots of an item, if it is shown by slots alone, without text between two items."""
        pieces = parse(self.item or "{sid}")
        slots = [piece for piece in pieces if isinstance(piece, Slot)]
        return None if self.separator or len(slots) < len(pieces) else slots

    @property
    def _field_slots(self) -> list[Slot]:
        texts = (self.frame.before, self.frame.after, self.item)
        return [slot for text in texts for slot in slots(text) if slot.part not in ("sid", "title")]

    @property
    def shows_fields(self) -> bool:
        """Whether a request must have fields."""
        return bool(self._field_slots)

    def unknown_fields(self, n_items: int) -> Fields:
        """All fields that a request with a history of so many items must have, each unknown."""
        parts: dict[str, dict[str, Any]] = defaultdict(dict)
        for slot in self._field_slots:
            if slot.field:
                unknown = (None,) * n_items if slot.part == "event" else None
                parts[slot.part][slot.field] = unknown
        for slot in slots(self.opening):
            if slot.field:  # what stands before the next item is its context
                parts["context"][slot.field] = None
        has_times = any(not slot.field for slot in self._field_slots)
        times, time = ((0,) * n_items, 0) if has_times else (None, None)
        return Fields(
            parts["user"], parts["event"], parts["context"], times, time, parts["feedback"]
        )


@dataclass(frozen=True)
class ListPrompt(HistoryPrompt):
    """The prompt by which a model recommends a list: the next items of a history in one answer, SID
    after SID.

    Its literal text names `list_length`, the length of the lists that the model was trained on, and
    `max_length` leaves room for as many SIDs. Raises DataError as a HistoryPrompt does, and for a
    length that is not positive."""

    list_length: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_limit("list_length", self.list_length, MAX_LENGTH)


@dataclass(frozen=True)
class LabelPrompt(HistoryPrompt):
    """The prompt by which a model predicts a feedback of the last item of a history.

    The answer is one of the `labels`, as catalog text, and the text `close`. The feedback of the
    last item is unknown in the prompt. Raises DataError as a HistoryPrompt does, and without two
    different labels."""

    feedback: str = field(kw_only=True)
    """the field that is predicted"""
    labels: tuple[str, ...] = field(kw_only=True)
    """its values in training, numbers in their order and texts in that of the alphabet"""
    close: str = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise DataError(f"the labels of {self.feedback} are {', '.join(self.labels) or 'none'}")

    def fulfilling(self, condition: Condition) -> tuple[bool, ...]:
        """Which labels fulfill a condition. Raises as `Condition.holds`."""
        values: list[Value] = list(self.labels)
        kind: Literal["str", "float"] = "str"
        if are_numbers(self.labels):
            values, kind = list(map(float, self.labels)), "float"
        return tuple(condition.holds(values, kind).tolist())


@dataclass(frozen=True)
class TextPrompt(JsonRecord):
    """The prompt by which a model recommends the item that a text describes.

    A prompt is the template with the text in its slot, followed by the begin token if the SID
    vocabulary has one. The end of a text that would exceed `max_length` tokens is cut off.

    Raises DataError unless the template contains the item slot exactly once and the length is
    positive."""

    task: str
    template: str
    max_length: int
    format: Format = "plain"

    def __post_init__(self) -> None:
        _check_slot(self.template, ITEM_SLOT)
        _check_limit("max_length", self.max_length, MAX_TOKENS)

    @classmethod
    def of_frame(cls, frame: PromptFrame, task: str, max_length: int) -> Self:
        """The prompt of which this is the `frame`."""
        return cls(task, frame.template(ITEM_SLOT), max_length, frame.format)

    @cached_property
    def frame(self) -> PromptFrame:
        """The literal text around the query text."""
        before, _, after = self.template.partition(ITEM_SLOT)
        return PromptFrame(before, after, format=self.format)


def sorted_labels(texts: Iterable[str]) -> tuple[str, ...]:
    """The different texts, numbers in their order and texts in that of the alphabet; none if there
    are more than MOST_LABELS."""
    labels = sorted(set(texts))
    if len(labels) > MOST_LABELS:
        return ()
    if are_numbers(labels):
        labels.sort(key=float)
    return tuple(labels)


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether every label is a number."""
    return all(map(NUMBER.fullmatch, labels))


def _check_slot(template: str, slot: str) -> None:
    if template.count(slot) != 1:
        raise DataError(f"template {template!r} must contain {slot} exactly once")


def _check_limit(name: str, value: int, limit: int) -> None:
    if not 0 < value <= limit:
        raise DataError(f"{name} is {value}, not from 1 to {limit}")
