"""Token ids of semantic IDs by arithmetic: the start of the token block plus an offset. A model
that another system made may have its tokens in another order, or only some of them; their ids are
then in a table.

Adding offsets takes 0.5 us for a history of 20 items, tokenizing its text 225 us. Behind the SID
tokens there may be tokens that stand for users, by the hash of their ids (S. Rajput et al., TIGER,
2023), and tokens for values of fields, in place of the values' text."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.records import JsonRecord
from sidtool.tokenizer.sid import Codes, SidSpace

NO_TOKEN = -1
"""The id of a code without a token."""


def sid_token_indexes(
    space: SidSpace, codes: Codes, *, begin_end_tokens: bool = True
) -> NDArray[np.int64]:
    """(n, levels) codes -> (n, levels [+ 2]) int64 indexes into `space.tokens`.

    With `begin_end_tokens`, each SID is between a begin and an end token if the vocabulary has
    them."""
    indexes = codes + space.offsets  # uint16 + int64 -> int64
    if not (begin_end_tokens and space.has_begin_end_tokens):
        return indexes
    wrapped = np.empty((len(codes), space.levels + 2), dtype=np.int64)
    wrapped[:, 0] = space.n_codes
    wrapped[:, 1:-1] = indexes
    wrapped[:, -1] = space.n_codes + 1
    return wrapped


@dataclass(frozen=True)
class TokenTable(JsonRecord):
    """The token ids of a space in a tokenizer that does not have them as one block."""

    codes: tuple[tuple[int, ...], ...]
    """of each level: the id of each code, -1 for a code without a token"""
    begin: int | None = None
    end: int | None = None
    """ids of the begin and the end token; None in a space without them"""

    @property
    def ids(self) -> list[int]:
        """The ids in the order of `space.tokens`, -1 for a code without a token."""
        codes = [token_id for level in self.codes for token_id in level]
        return codes + [token_id for token_id in (self.begin, self.end) if token_id is not None]

    def check(self, space: SidSpace) -> None:
        """Raise ValueError unless this can be the table of a space: every level has its codes and
        at least one token, and no two tokens have one id."""
        sizes = tuple(len(level) for level in self.codes)
        if sizes != space.sizes:
            raise ValueError(f"the token table has {sizes} codes, the space {space.sizes}")
        if (self.begin is not None, self.end is not None) != (space.has_begin_end_tokens,) * 2:
            raise ValueError(f"begin and end token have ids {self.begin} and {self.end}")
        if NO_TOKEN in (self.begin, self.end):
            raise ValueError("the begin or the end token has no id")
        used = [token_id for token_id in self.ids if token_id != NO_TOKEN]
        if used and min(used) < 0:
            raise ValueError(f"a token has id {min(used)}")
        if len(set(used)) < len(used):
            raise ValueError("two SID tokens have one id")
        if any(set(level) == {NO_TOKEN} for level in self.codes):
            raise ValueError("a level has no token")


@dataclass(frozen=True)
class SidTokens:
    """The tokens of a space in one tokenizer: a block of ids that begins at `start`, or a table of
    ids whose lowest is `start`."""

    space: SidSpace
    start: int
    # hashing thousands of ids would cost more than what the hash is for
    table: TokenTable | None = field(default=None, hash=False)

    @classmethod
    def of_ids(cls, space: SidSpace, ids: Sequence[int]) -> Self:
        """The tokens whose ids, in the order of `space.tokens`, are `ids`, -1 for a code without a
        token. Ids that are one block need no table.

        Raises ValueError if a begin or end token, or a whole level, has no token, or if two tokens
        have one id."""
        start = min((token_id for token_id in ids if token_id != NO_TOKEN), default=0)
        if list(ids) == list(range(start, start + len(ids))):
            return cls(space, start)
        codes = tuple(
            tuple(ids[offset : offset + size])
            for offset, size in zip(space.offsets.tolist(), space.sizes, strict=True)
        )
        begin, end = ids[space.n_codes :] if space.has_begin_end_tokens else (None, None)
        table = TokenTable(codes, begin, end)
        table.check(space)
        return cls(space, start, table)

    @cached_property
    def token_ids(self) -> NDArray[np.int64]:
        """(tokens,) int64: the id of each of `space.tokens`, -1 for a code without a token."""
        if self.table is None:
            return self.start + np.arange(len(self.space.tokens))
        return np.array(self.table.ids, dtype=np.int64)

    @cached_property
    def stop(self) -> int:
        """One past the highest id, begin and end token included."""
        return int(self.token_ids.max()) + 1

    @property
    def number(self) -> int:
        """The number of tokens."""
        return int((self.token_ids != NO_TOKEN).sum())

    @property
    def is_contiguous(self) -> bool:
        """Whether the ids are those from `start` to `stop` - 1, in any order."""
        return self.number == self.stop - self.start

    @cached_property
    def level_ids(self) -> list[NDArray[np.int64]]:
        """For each level (size,) int64: the id of each code, -1 for one without a token."""
        return np.split(self.token_ids[: self.space.n_codes], self.space.offsets[1:].tolist())

    @property
    def level_starts(self) -> NDArray[np.int64]:
        """(levels,) int64: the id of code 0 of each level, of a block. Raises ValueError for a
        table."""
        if self.table is not None:
            raise ValueError("the SID tokens are no block: their ids are in a table")
        return self.space.offsets + self.start

    @property
    def texts(self) -> Sequence[str]:
        """The tokens, in the order of `token_ids`."""
        return self.space.tokens

    @property
    def begin(self) -> int | None:
        """Id of the begin token, or None."""
        has_begin = self.space.has_begin_end_tokens
        return int(self.token_ids[self.space.n_codes]) if has_begin else None

    @property
    def end(self) -> int | None:
        """Id of the end token, or None."""
        has_end = self.space.has_begin_end_tokens
        return int(self.token_ids[self.space.n_codes + 1]) if has_end else None

    def ids(self, codes: Codes, *, begin_end_tokens: bool = True) -> NDArray[np.int64]:
        """(n, levels) codes -> (n, levels [+ 2]) int64 token ids, as in `sid_token_indexes`; -1 for
        a code without a token."""
        indexes = sid_token_indexes(self.space, codes, begin_end_tokens=begin_end_tokens)
        return indexes + self.start if self.table is None else self.token_ids[indexes]

    def lacking(self, codes: Codes) -> NDArray[np.bool_]:
        """(n,) bool: which of (n, levels) codes have one without a token."""
        if self.table is None:
            return np.zeros(len(codes), dtype=np.bool_)
        lacks: NDArray[np.bool_] = (self.ids(codes, begin_end_tokens=False) == NO_TOKEN).any(axis=1)
        return lacks

    def codes(self, ids: NDArray[np.int64]) -> Codes:
        """(n, levels) ids of code tokens -> (n, levels) codes."""
        return (self.index_of_id[ids - self.start] - self.space.offsets).astype(np.uint16)

    def levels(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """(...) token ids -> (...) int64: the level of each, -1 for one that is no code."""
        indexes = self._indexes(ids)
        levels = np.searchsorted(self.space.offsets, indexes, side="right") - 1
        return np.where(indexes < self.space.n_codes, levels, -1)

    def is_code(self, ids: NDArray[Any], level: int | None = None) -> NDArray[np.bool_]:
        """(...) token ids -> (...) bool: which are codes, of one level if it is given."""
        if self.table is not None:
            levels = self.levels(ids)
            return levels >= 0 if level is None else levels == level
        first = self.start + (0 if level is None else int(self.space.offsets[level]))
        size = self.space.n_codes if level is None else self.space.sizes[level]
        inside: NDArray[np.bool_] = (ids >= first) & (ids < first + size)
        return inside

    def is_sid_token(self, ids: NDArray[Any]) -> NDArray[np.bool_]:
        """(...) token ids -> (...) bool: which are codes, begin or end tokens."""
        return self._indexes(ids) >= 0

    def _indexes(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """(...) token ids -> (...) int64 indexes into `space.tokens`, -1 for other tokens."""
        places = np.asarray(ids, dtype=np.int64) - self.start
        inside = (places >= 0) & (places < self.stop - self.start)
        return np.where(inside, self.index_of_id[np.where(inside, places, 0)], -1)

    @cached_property
    def index_of_id(self) -> NDArray[np.int64]:
        """(stop - start,) int64: for each id its index into `space.tokens`, -1 for other tokens."""
        indexes = np.full(self.stop - self.start, -1, dtype=np.int64)
        used = np.flatnonzero(self.token_ids != NO_TOKEN)
        indexes[self.token_ids[used] - self.start] = used
        return indexes


MAX_FIELD_TOKENS = 1 << 16
MAX_USER_TOKENS = 1 << 20
TIMES = ("gap", "ago")
_NAME = re.compile(r"(?:user|context|feedback|event)\.[^{}:=]+|gap|ago")

_DECIMAL = re.compile(r"-?\d+\.\d+", re.ASCII)

FieldValues = Mapping[str, tuple[str, ...]]
"""Field, as a slot spells it ("user.age", "gap") -> the texts of its values that have a token."""


@dataclass(frozen=True)
class TokenBlock:
    """A block of `number` token ids from `start` on, whose tokens are spelled by kind and
    number."""

    KIND: ClassVar[str]
    start: int
    number: int

    @property
    def stop(self) -> int:
        """One past the last id of the block."""
        return self.start + self.number

    @property
    def token_ids(self) -> NDArray[np.int64]:
        """(tokens,) int64: the ids."""
        return np.arange(self.start, self.stop)

    @property
    def texts(self) -> Sequence[str]:
        """The tokens in the order of their ids."""
        return [f"<{self.KIND}_{index}>" for index in range(self.number)]


@dataclass(frozen=True)
class FieldTokens(TokenBlock):
    """For each field one token per value, in order, and one for every other value.

    A value is looked up and never spelled, so whatever it is, it becomes a token of its own field.
    The texts of the tokens have numbers in place of names and values."""

    KIND = "field"

    @classmethod
    def of(cls, start: int, fields: FieldValues) -> Self:
        """The tokens of values. Raises UsageError for a field that no slot has, a repeated value,
        and more than MAX_FIELD_TOKENS."""
        for name, values in fields.items():
            if not _NAME.fullmatch(name):
                raise UsageError(
                    f"{name!r} is no field that can have tokens",
                    hint="user.FIELD, context.FIELD, feedback.FIELD, event.FIELD, gap or ago",
                )
            is_list = isinstance(values, tuple | list) and len(values) > 0
            are_texts = is_list and all(isinstance(value, str) and value for value in values)
            if not are_texts or len(set(values)) < len(values):
                raise UsageError(
                    f"the values of {name} that have tokens are different texts, not {values}"
                )
        number = sum(len(values) + 1 for values in fields.values())
        if number > MAX_FIELD_TOKENS:
            raise UsageError(
                f"fields have {number} tokens, at most {MAX_FIELD_TOKENS} are possible"
            )
        return cls(start, number)


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
class UserTokens(TokenBlock):
    """Tokens each of which many users may share."""

    KIND = "user"

    def id(self, user: str) -> int:
        """The token id of a user: the first eight bytes of SHA-256 of the user's id in UTF-8, as a
        big-endian number, modulo the number of tokens."""
        digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).digest()
        return self.start + int.from_bytes(digest[:8], "big") % self.number

    def place(self, ids: Sequence[int], begin: int | None) -> int:
        """Where the user's token stands in a prompt: first, or behind the begin token."""
        return int(len(ids) > 0 and ids[0] == begin)
