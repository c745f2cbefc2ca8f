"""How a model is served: the prompts that a recommendation is asked with, stored in the model's
contract.

One asks with a history, the other in words. Knows the literal text around what is asked (chat
markup included, so that serving needs no chat template) and how much of it fits; knows nothing of
tokenizers, items or models."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from sidtool.errors import DataError

HISTORY_SLOT, ITEM_SLOT = "{history}", "{item}"


@dataclass(frozen=True)
class _Stored:
    """A value that travels as a JSON object of its fields."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes the same value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The value that `to_json` wrote; unknown keys are ignored. Raises DataError if one is
        missing."""
        known = {field.name: value[field.name] for field in fields(cls) if field.name in value}
        try:
            return cls(**known)
        except TypeError as error:
            raise DataError(
                f"{cls.__name__.lower()} {sorted(value)} is incomplete: {error}"
            ) from error


@dataclass(frozen=True)
class Serving(_Stored):
    """The prompt of the task that a model recommends with.

    The history is rendered oldest item first: as SIDs, or as titles where `history_as` says so. A
    prompt is the text before the slot, the last `history_length` items joined by `separator`, the
    text after it, and the begin marker where `markers` are on; what follows are the codes of the
    next item. `max_length` is the number of tokens that the prompt may take: the oldest items of a
    history that does not fit are left out.

    Raises DataError if the template has not exactly one history slot.
    """

    task: str
    template: str
    history_length: int
    max_length: int
    markers: bool = True
    format: Literal["plain", "chat"] = "plain"
    history_as: Literal["sid", "title"] = "sid"
    separator: str = ""

    def __post_init__(self) -> None:
        if self.template.count(HISTORY_SLOT) != 1:
            raise DataError(f"serving template {self.template!r} must hold {HISTORY_SLOT} once")

    @property
    def before(self) -> str:
        """The literal text before the history."""
        return self.template.partition(HISTORY_SLOT)[0]

    @property
    def after(self) -> str:
        """The literal text between the history and the answer."""
        return self.template.partition(HISTORY_SLOT)[2]


@dataclass(frozen=True)
class Asking(_Stored):
    """The prompt of the task by which a model is asked in words: a text, and the SID of the item it
    means.

    A prompt is the template with the text in its slot, and the begin marker where `markers` are on.
    `max_length` is the number of tokens that it may take: a longer text is cut at its end.

    Raises DataError if the template has not exactly one item slot.
    """

    task: str
    template: str
    max_length: int
    markers: bool = True
    format: Literal["plain", "chat"] = "plain"

    def __post_init__(self) -> None:
        if self.template.count(ITEM_SLOT) != 1:
            raise DataError(f"asking template {self.template!r} must hold {ITEM_SLOT} once")
