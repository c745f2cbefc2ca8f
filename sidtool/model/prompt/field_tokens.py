"""Tokens of their own for values of fields, in place of the values' text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sidtool.base.errors import UsageError

MAX_FIELD_TOKENS = 1 << 16
TIMES = ("gap", "ago")
_NAME = re.compile(r"(?:user|context|feedback|event)\.[^{}:=]+|gap|ago")

_DECIMAL = re.compile(r"-?\d+\.\d+", re.ASCII)

FieldValues = Mapping[str, tuple[str, ...]]
"""Field, as a slot spells it ("user.age", "gap") -> the texts of its values that have a token."""


@dataclass(frozen=True)
class FieldTokens:
    """A block of token ids from `start` on: for each field one token per value, in order, and one
    for every other value.

    A value is looked up and never spelled, so whatever it is, it becomes a token of its own field.
    The texts of the tokens have numbers in place of names and values.

    Raises UsageError for a field that no slot has, a repeated value, and more than
    MAX_FIELD_TOKENS."""

    start: int
    values: FieldValues

    def __post_init__(self) -> None:
        for name, values in self.values.items():
            if not _NAME.fullmatch(name):
                raise UsageError(
                    f"{name!r} is no field that can have tokens",
                    hint="user.FIELD, context.FIELD, feedback.FIELD, event.FIELD, gap or ago",
                )
            if not values or len(set(values)) < len(values) or "" in values:
                raise UsageError(
                    f"the values of {name} that have tokens are different texts, not {values}"
                )
        if self.number > MAX_FIELD_TOKENS:
            raise UsageError(
                f"fields have {self.number} tokens, at most {MAX_FIELD_TOKENS} are possible"
            )

    @property
    def number(self) -> int:
        """The number of tokens."""
        return sum(len(values) + 1 for values in self.values.values())

    @property
    def stop(self) -> int:
        """One past the last id of the block."""
        return self.start + self.number

    @property
    def texts(self) -> tuple[str, ...]:
        """The tokens in the order of their ids."""
        return field_token_texts(self.number)


def field_token_texts(number: int) -> tuple[str, ...]:
    """The texts of so many field tokens."""
    return tuple(f"<field_{index}>" for index in range(number))


def value_of_token(text: str) -> str:
    """A value as prompts spell it: a decimal number without zeros at its end."""
    return text.rstrip("0").rstrip(".") if _DECIMAL.fullmatch(text) else text


@dataclass(frozen=True, eq=False)
class FieldTokenLookup:
    """The text of the token of a value."""

    values: FieldValues

    @cached_property
    def _known(self) -> dict[tuple[str, str], int]:
        starts = self._starts
        return {
            (name, value): starts[name] + place
            for name, values in self.values.items()
            for place, value in enumerate(values)
        }

    @cached_property
    def _starts(self) -> dict[str, int]:
        start = 0
        starts = {}
        for name, values in self.values.items():
            starts[name] = start
            start += len(values) + 1
        return starts

    def text(self, name: str, value: str) -> str:
        """The token of a value of a field; that of the other values for one without its own."""
        other = self._starts[name] + len(self.values[name])
        # a text column may hold "4.0"
        spelled = self._known.get((name, value_of_token(value)), other)
        return f"<field_{self._known.get((name, value), spelled)}>"
