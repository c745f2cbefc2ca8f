"""Semantic IDs: level sizes and packed keys (`Levels`), their spelling as tokens (`SidSpace`), and
the types of their indices."""

import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal, NewType, TypeVar

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.records import JsonRecord

Codes = NDArray[np.uint16]
"""(n, levels): one semantic ID per row."""
Keys = NDArray[np.uint64]
"""(n,): semantic IDs packed by `Levels.pack`."""

# the four spaces in which items and SIDs are numbered, as types of arrays: a function that takes
# one is not given another; `Trie` converts between the first three
ItemRows = NewType("ItemRows", NDArray[np.int64])
"""Rows of a bundle's items, retired ones too; -1 is an item that the bundle lacks."""
SidPositions = NewType("SidPositions", NDArray[np.int64])
"""Positions of the active items in SID order; -1 is none."""
Leaves = NewType("Leaves", NDArray[np.int64])
"""Ranks of distinct SIDs, the leaves of the trie; -1 is none."""
PopularityRanks = NewType("PopularityRanks", NDArray[np.int64])
"""Ranks of a catalog's items by their training events, 0 the most popular; -1 is none."""

Index = TypeVar("Index", ItemRows, SidPositions, Leaves, PopularityRanks)

Spelling = Literal["openonerec", "minionerec"]
"""The systems in `SPELLINGS`."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_CODES = 1 << 16
MIN_CODES, MAX_FIRST_CODES, SIDS_PER_ITEM = 32, 1024, 100
"""Bounds of the levels that follow from the number of items."""
MAX_TOKEN_BYTES = 64
"""Length of a template, a begin or an end token: bounds the size of a vocabulary."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and halves of surrogate pairs."""


@dataclass(frozen=True)
class Levels:
    """The number of codes at each level of a semantic ID, and the packing of its codes into one
    key.

    Raises UsageError if there are no levels or too many, if a level is empty or too large, or if a
    key needs more than 64 bits."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "sizes", tuple(map(operator.index, self.sizes)))
        except TypeError as error:
            raise UsageError(f"level sizes are like (256, 256, 256), not {self.sizes!r}") from error
        if not 1 <= len(self.sizes) <= len(LETTERS):
            raise UsageError(f"a semantic ID has 1 to {len(LETTERS)} levels, not {len(self.sizes)}")
        if any(not 1 <= size <= MAX_CODES for size in self.sizes):
            raise UsageError(f"a level has 1 to {MAX_CODES} codes, not {self.spelled_sizes}")
        if sum(self.key_bits) > 64:
            raise UsageError(
                f"levels {self.spelled_sizes} need {sum(self.key_bits)} bits per semantic ID, more "
                "than 64"
            )

    @staticmethod
    def for_items(n_items: int) -> "Levels":
        """Three levels for a catalog without other sizes: the first has the largest power of two of
        at most 5/8 as many codes as items, 32 to 1,024, the others half of it, at least 32. Where
        that is fewer than 100 SIDs per item, all are doubled until it is not. No level has more
        codes than there are items. docs/choosing.md gives the reasons.

        Examples:
            >>> [Levels.for_items(n).spelled_sizes for n in (20, 60, 300, 12101, 10**7)]
            ['16x16x16', '32x32x32', '128x64x64', '1024x512x512', '2048x1024x1024']
        """
        fewest = min(n_items, MIN_CODES) or 1
        most = max(5 * n_items // 8, fewest)
        first = min(1 << (most.bit_length() - 1), MAX_FIRST_CODES)
        others = max(first // 2, 1 << (fewest.bit_length() - 1))
        sizes = [first, others, others]
        largest = min(n_items, MAX_CODES)
        while prod(sizes) < SIDS_PER_ITEM * n_items and 2 * sizes[0] <= largest:
            sizes = [2 * size for size in sizes]
        return Levels(tuple(sizes))

    @property
    def spelled_sizes(self) -> str:
        """Level sizes as users write them: "256x256x256"."""
        return "x".join(str(size) for size in self.sizes)

    @property
    def levels(self) -> int:
        """Number of codes in a semantic ID."""
        return len(self.sizes)

    @property
    def capacity(self) -> int:
        """Number of different semantic IDs."""
        return prod(self.sizes)

    @property
    def n_codes(self) -> int:
        """Number of codes over all levels."""
        return sum(self.sizes)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(levels,) int64: number of codes in all earlier levels."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    @property
    def key_bits(self) -> list[int]:
        """Bits that each level takes in a packed key."""
        return [max(1, (size - 1).bit_length()) for size in self.sizes]

    def pack(self, codes: Codes) -> Keys:
        """(n, levels) codes -> (n,) uint64 keys that sort as the codes do."""
        keys = np.zeros(len(codes), dtype=np.uint64)
        for level, bits in enumerate(self.key_bits):
            keys = (keys << np.uint64(bits)) | codes[:, level].astype(np.uint64)
        return keys

    def unpack(self, keys: Keys) -> Codes:
        """(n,) uint64 keys -> (n, levels) codes: the inverse of `pack`."""
        columns = []
        for bits in reversed(self.key_bits):
            mask = np.uint64((1 << bits) - 1)
            columns.append((keys & mask).astype(np.uint16))
            keys = keys >> np.uint64(bits)
        return np.stack(columns[::-1], axis=1)

    def check(self, codes: Codes) -> None:
        """Raise UsageError unless every code lies within its level."""
        if codes.ndim != 2 or codes.shape[1] != self.levels:
            raise UsageError(
                f"codes have shape {codes.shape}, but {self.spelled_sizes} has {self.levels} levels"
            )
        if not len(codes):
            return
        # twenty times as fast as the maximum along an axis
        largest = [int(codes[:, level].max()) for level in range(self.levels)]
        if any(code >= size for code, size in zip(largest, self.sizes, strict=True)):
            raise UsageError(f"codes reach {largest}, but the levels are {self.spelled_sizes}")


def read_sizes(text: str) -> tuple[int, ...]:
    """The sizes of levels as users write them: "256x256" -> (256, 256). Raises UsageError."""
    if not re.fullmatch(r"[0-9]{1,9}(x[0-9]{1,9})*", text):
        raise UsageError(f"level sizes are written like 256x256x256, not {text[:40]!r}")
    return Levels(tuple(int(part) for part in text.split("x"))).sizes


@dataclass(frozen=True)
class SidMatch:
    """A run of SID tokens in a text; `codes` is None if the run is not one complete SID."""

    text: str
    codes: tuple[int, ...] | None


@dataclass(frozen=True)
class SidSpace(Levels, JsonRecord):
    """A SID vocabulary: levels and the spelling of their codes as tokens.

    The tokens form one block: codes level by level, then the begin token, then the end token
    (OpenOneRec's order, from which FlashRec infers the layout). Begin and end tokens are both
    present or both None.

    Raises UsageError for invalid levels, a template without {level} and {code}, begin and end
    tokens that are equal or incomplete, or a text that is too long or has control characters."""

    REQUIRED = ("template", "begin", "end")
    template: str = "<s_{level}_{code}>"
    begin: str | None = "<|sid_begin|>"
    end: str | None = "<|sid_end|>"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_token(self.template)
        # a letter must not complete another slot, as in "{{level}ode}"
        texts = [self.template, *(self.template.replace("{level}", letter) for letter in "code")]
        if self.template.count("{level}") != 1 or any(text.count("{code}") != 1 for text in texts):
            raise UsageError(
                f"token template {self.template!r} must contain {{level}} and {{code}} once each"
            )
        only_one = (self.begin is None) != (self.end is None)
        equal = self.begin is not None and self.begin == self.end
        if only_one or equal:
            raise UsageError(
                "begin and end tokens are two different tokens or both None, not "
                f"{self.begin!r} and {self.end!r}"
            )
        # two codes have different tokens: a level is one letter, and a code has digits only
        for token in (self.begin, self.end):
            if token is None:
                continue
            _check_token(token)
            match = self.pattern.fullmatch(token)
            if match and _level(match) < self.levels:
                level, code = _level(match), int(match["code"])
                if code < self.sizes[level] and self.token(level, code) == token:
                    raise UsageError(f"token template {self.template!r} spells {token!r} alike")

    @classmethod
    def of_spelling(
        cls, sizes: Sequence[int], spelling: Spelling, *, begin_end_tokens: bool = True
    ) -> "SidSpace":
        """The vocabulary of level sizes in the spelling of a system, with its begin and end tokens,
        if it has any. Raises UsageError for another spelling."""
        if spelling not in SPELLINGS:
            raise UsageError(
                f"there is no spelling {spelling!r}", hint=f"choose from {', '.join(SPELLINGS)}"
            )
        tokens = dict(SPELLINGS[spelling])
        if not begin_end_tokens:
            tokens |= {"begin": None, "end": None}
        return cls(sizes, **tokens)  # type: ignore[arg-type]

    @property
    def has_begin_end_tokens(self) -> bool:
        """Whether the vocabulary has a begin and an end token."""
        return self.begin is not None

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Every token of the vocabulary, in block order."""
        codes = [
            self.token(level, code) for level, size in enumerate(self.sizes) for code in range(size)
        ]
        begin_end = [token for token in (self.begin, self.end) if token is not None]
        return (*codes, *begin_end)

    def token(self, level: int, code: int) -> str:
        """The token of one code: `token(0, 12)` is `<s_a_12>`."""
        return self.template.replace("{level}", LETTERS[level]).replace("{code}", str(code))

    def spell(self, codes: Sequence[int] | NDArray[Any], *, begin_end_tokens: bool = False) -> str:
        """One SID, or a prefix of one, as text; with `begin_end_tokens` between those tokens."""
        text = "".join(self.token(level, int(code)) for level, code in enumerate(codes))
        is_wrapped = begin_end_tokens and self.has_begin_end_tokens
        return f"{self.begin}{text}{self.end}" if is_wrapped else text

    def parse(self, text: str) -> tuple[int, ...]:
        """The codes of one SID, with or without begin and end tokens. Raises UsageError if the text
        is not one complete SID."""
        codes = self.parse_prefix(text)
        if len(codes) != self.levels:
            raise self._not_a_sid(text)
        return codes

    def parse_prefix(self, text: str) -> tuple[int, ...]:
        """The codes of the start of a SID: `<s_a_12><s_b_3>` -> (12, 3). Raises UsageError if the
        text is not the start of a SID."""
        for whole in (text, text.strip()):  # a token may begin or end with a space
            bare = whole.removeprefix(self.begin or "").removesuffix(self.end or "")
            codes = tuple(int(match["code"]) for match in self.pattern.finditer(bare))
            if codes and self._within_levels(codes) and self.spell(codes) == bare:
                return codes
        raise self._not_a_sid(text)

    @property
    def example(self) -> str:
        """A SID of this vocabulary, for messages."""
        return self.spell([size // 2 for size in self.sizes])

    def find(self, text: str) -> Iterator[SidMatch]:
        """Complete and broken SIDs in a text, in order. A run of tokens ends where other text
        follows or where the level does not rise by one."""
        run: list[re.Match[str]] = []
        for match in self.pattern.finditer(text):
            if run and (match.start() > run[-1].end() or _level(match) != _level(run[-1]) + 1):
                yield self._match(run)
                run = []
            run.append(match)
        if run:
            yield self._match(run)

    def _match(self, run: Sequence[re.Match[str]]) -> SidMatch:
        text = "".join(match[0] for match in run)
        levels = [_level(match) for match in run]
        codes = tuple(int(match["code"]) for match in run)
        complete = levels == list(range(self.levels)) and self._within_levels(codes)
        exact = complete and self.spell(codes) == text  # "<s_a_01>" is not a token
        return SidMatch(text, codes if exact else None)

    def _within_levels(self, codes: Sequence[int]) -> bool:
        pairs = zip(codes, self.sizes, strict=False)
        return len(codes) <= self.levels and all(code < size for code, size in pairs)

    def _not_a_sid(self, text: str) -> UsageError:
        return UsageError(
            f"{text!r} is not a semantic ID of {self.spelled_sizes} (example: {self.example})"
        )

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What texts are spelled like a code, also one that no level has."""
        pattern = re.escape(self.template).replace(r"\{level\}", "(?P<level>[a-z])")
        return re.compile(pattern.replace(r"\{code\}", "(?P<code>[0-9]{1,5})"))


def _check_token(text: str) -> None:
    """Raise UsageError for a token or template that is empty, long or not printable."""
    n_bytes = len(text.encode("utf-8", "replace"))
    if not 1 <= n_bytes <= MAX_TOKEN_BYTES:
        start = text[:20]
        raise UsageError(f"token {start!r} has {n_bytes} bytes, not 1 to {MAX_TOKEN_BYTES}")
    if _UNPRINTABLE.search(text):
        raise UsageError(f"token {text!r} has a control character")


def _level(match: re.Match[str]) -> int:
    return LETTERS.index(match["level"])


SPELLINGS: dict[Spelling, dict[str, str | None]] = {
    "openonerec": {
        "template": "<s_{level}_{code}>",
        "begin": "<|sid_begin|>",
        "end": "<|sid_end|>",
    },
    "minionerec": {"template": "<{level}_{code}>", "begin": None, "end": None},
}
"""Token spellings by the system that uses them, as keyword arguments of SidSpace."""
