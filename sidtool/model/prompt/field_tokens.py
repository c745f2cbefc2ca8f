"""Tokens of their own for values of fields, in place of the values' text, and tokens that stand for
users, by the hash of their ids (S. Rajput et al., TIGER, 2023)."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sidtool.base.errors import UsageError

MAX_FIELD_TOKENS = 1 << 16
MAX_USER_TOKENS = 1 << 20
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
    def _places(self) -> dict[tuple[str, str | None], int]:
        """Number of the token of each value of a field, and of None for every other value."""
        pairs = [(name, value) for name in self.values for value in (*self.values[name], None)]
        return {pair: place for place, pair in enumerate(pairs)}

    def text(self, name: str, value: str) -> str:
        """The token of a value of a field; that of the other values for one without its own."""
        # a text column may hold "4.0"
        for spelled in (value, value_of_token(value)):
            if (name, spelled) in self._places:
                return f"<field_{self._places[name, spelled]}>"
        return f"<field_{self._places[name, None]}>"


@dataclass(frozen=True)
class UserTokens:
    """A block of `number` token ids from `start` on, each of which many users may share."""

    start: int
    number: int

    @property
    def stop(self) -> int:
        """One past the last id of the block."""
        return self.start + self.number

    @property
    def texts(self) -> tuple[str, ...]:
        """The tokens in the order of their ids."""
        return tuple(f"<user_{index}>" for index in range(self.number))

    def id(self, user: str) -> int:
        """The token id of a user: the first eight bytes of SHA-256 of the user's id in UTF-8, as a
        big-endian number, modulo the number of tokens."""
        digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).digest()
        return self.start + int.from_bytes(digest[:8], "big") % self.number

    def place(self, ids: Sequence[int], begin: int | None) -> int:
        """Where the user's token stands in a prompt: first, or behind the begin token."""
        return int(len(ids) > 0 and ids[0] == begin)
