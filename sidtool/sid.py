"""Semantic IDs: the space they live in, how they are spelled, and how codes become text and keys.

Knows levels, codes and token spelling; knows nothing of items, vectors or models. Needs numpy only.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import UsageError

Codes = NDArray[np.uint16]
"""(n, levels): one semantic ID a row."""
Vectors = NDArray[np.float32]
"""(n, dim): one embedding a row."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_CODES = 1 << 16


@dataclass(frozen=True)
class Found:
    """A run of SID tokens found in a text: `codes` is None where the run is no complete SID."""

    text: str
    start: int
    codes: tuple[int, ...] | None


@dataclass(frozen=True)
class SidSpace:
    """All semantic IDs that a codebook can spell: level sizes and token spelling.

    Its tokens form one block: codes level-major, then the begin marker, then the end marker
    (OpenOneRec's order, from which FlashRec infers the layout). Markers are both present or both
    None.

    Raises UsageError if a size, the template or the markers make no sense.
    """

    sizes: tuple[int, ...]
    template: str = "<s_{level}_{code}>"
    begin: str | None = "<|sid_begin|>"
    end: str | None = "<|sid_end|>"

    def __post_init__(self) -> None:
        if not 1 <= len(self.sizes) <= len(LETTERS):
            raise UsageError(f"a semantic ID has 1 to {len(LETTERS)} levels, not {len(self.sizes)}")
        if any(not 1 <= size <= MAX_CODES for size in self.sizes):
            raise UsageError(f"a level holds 1 to {MAX_CODES} codes, not {self.spelled_sizes}")
        if sum(self.key_bits) > 64:
            raise UsageError(
                f"{self.spelled_sizes} needs {sum(self.key_bits)} bits, and a semantic ID has 64"
            )
        if self.template.count("{level}") != 1 or self.template.count("{code}") != 1:
            raise UsageError(
                f"token template {self.template!r} must hold {{level}} and {{code}} once each"
            )
        if (self.begin is None) != (self.end is None) or (
            self.begin is not None and self.begin == self.end
        ):
            raise UsageError(
                f"markers are two different tokens or none, not {self.begin!r} and {self.end!r}"
            )
        if len(set(self.tokens)) != len(self.tokens):
            raise UsageError(f"token template {self.template!r} spells two codes alike")

    @classmethod
    def parse_sizes(cls, text: str) -> tuple[int, ...]:
        """Level sizes as people write them: "256x256x256" -> (256, 256, 256)."""
        if not re.fullmatch(r"[0-9]+(x[0-9]+)*", text):
            raise UsageError(f"level sizes are written like 256x256x256, not {text!r}")
        return tuple(int(part) for part in text.split("x"))

    @property
    def spelled_sizes(self) -> str:
        """Level sizes as people write them."""
        return "x".join(str(size) for size in self.sizes)

    @property
    def levels(self) -> int:
        """Number of codes in a SID."""
        return len(self.sizes)

    @property
    def capacity(self) -> int:
        """Number of SIDs that can be spelled."""
        return int(np.prod(np.array(self.sizes, dtype=object)))

    @property
    def has_markers(self) -> bool:
        """Whether a SID is wrapped in a begin and an end token."""
        return self.begin is not None

    @property
    def n_codes(self) -> int:
        """Number of code tokens over all levels."""
        return sum(self.sizes)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(levels,) int64: where each level's codes start in the token block."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Every token of the space, in block order."""
        codes = [
            self.token(level, code) for level, size in enumerate(self.sizes) for code in range(size)
        ]
        return tuple(
            codes if self.begin is None or self.end is None else [*codes, self.begin, self.end]
        )

    def token(self, level: int, code: int) -> str:
        """The token of one code: `token(0, 12)` is `<s_a_12>`."""
        return self.template.replace("{level}", LETTERS[level]).replace("{code}", str(code))

    def spell(self, codes: Sequence[int] | NDArray[Any], *, markers: bool = False) -> str:
        """One SID, or a prefix of one, as text."""
        text = "".join(self.token(level, int(code)) for level, code in enumerate(codes))
        return f"{self.begin}{text}{self.end}" if markers and self.has_markers else text

    def parse(self, text: str) -> tuple[int, ...]:
        """The codes of a text that is one SID, with or without markers. Raises UsageError if it is
        none."""
        codes = self.parse_prefix(text)
        if len(codes) != self.levels:
            raise UsageError(
                f"{text!r} is no semantic ID of {self.spelled_sizes} (one looks like "
                f"{self.example})"
            )
        return codes

    def parse_prefix(self, text: str) -> tuple[int, ...]:
        """The codes of the start of a SID: `<s_a_12><s_b_3>` -> (12, 3). Raises UsageError if the
        text is none."""
        bare = text.strip().removeprefix(self.begin or "").removesuffix(self.end or "")
        pieces = list(self._pattern.finditer(bare))
        codes = tuple(int(piece["code"]) for piece in pieces)
        legal = (
            all(code < size for code, size in zip(codes, self.sizes, strict=False))
            and 0 < len(codes) <= self.levels
        )
        if not legal or self.spell(codes) != bare:
            raise UsageError(
                f"{text!r} is no semantic ID of {self.spelled_sizes} (one looks like "
                f"{self.example})"
            )
        return codes

    @property
    def example(self) -> str:
        """A SID that the space can spell, for messages."""
        return self.spell([size // 2 for size in self.sizes])

    def find(self, text: str) -> Iterator[Found]:
        """SIDs and broken pieces of SIDs in a text, in order; adjacent SIDs are separated at each
        first level."""
        run: list[tuple[int, int, int, int]] = []  # level, code, start, end
        for match in self._pattern.finditer(text):
            level, code = LETTERS.index(match["level"]), int(match["code"])
            follows = bool(run) and match.start() == run[-1][3] and level == run[-1][0] + 1
            if run and not follows:
                yield self._found(text, run)
                run = []
            run.append((level, code, match.start(), match.end()))
        if run:
            yield self._found(text, run)

    def _found(self, text: str, run: list[tuple[int, int, int, int]]) -> Found:
        levels, codes = [piece[0] for piece in run], tuple(piece[1] for piece in run)
        spelled = text[run[0][2] : run[-1][3]]
        legal = levels == list(range(self.levels)) and all(
            c < s for c, s in zip(codes, self.sizes, strict=True)
        )
        return Found(
            spelled, run[0][2], codes if legal and self.spell(codes) == spelled else None
        )  # 01 is no code

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pattern = re.escape(self.template).replace(r"\{level\}", "(?P<level>[a-z])")
        return re.compile(pattern.replace(r"\{code\}", "(?P<code>[0-9]{1,5})"))

    @property
    def key_bits(self) -> list[int]:
        """Bits that each level takes in a packed key."""
        return [max(1, (size - 1).bit_length()) for size in self.sizes]

    def pack(self, codes: Codes) -> NDArray[np.uint64]:
        """(n, levels) codes -> (n,) uint64 keys that sort as the codes do."""
        keys = np.zeros(len(codes), dtype=np.uint64)
        for level, bits in enumerate(self.key_bits):
            keys = (keys << np.uint64(bits)) | codes[:, level].astype(np.uint64)
        return keys

    def unpack(self, keys: NDArray[np.uint64]) -> Codes:
        """(n,) uint64 keys -> (n, levels) codes: the inverse of `pack`."""
        columns = []
        for bits in reversed(self.key_bits):
            columns.append((keys & np.uint64((1 << bits) - 1)).astype(np.uint16))
            keys = keys >> np.uint64(bits)
        return np.stack(columns[::-1], axis=1)

    def check(self, codes: Codes) -> None:
        """Raise UsageError unless every code is within its level."""
        if codes.ndim != 2 or codes.shape[1] != self.levels:
            raise UsageError(
                f"codes have shape {codes.shape}, the space {self.spelled_sizes} has "
                f"{self.levels} levels"
            )
        if len(codes) and (codes.max(axis=0) >= np.array(self.sizes)).any():
            raise UsageError(
                f"codes reach {codes.max(axis=0).tolist()}, the space is {self.spelled_sizes}"
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes the same space."""
        return {
            "sizes": list(self.sizes),
            "template": self.template,
            "begin": self.begin,
            "end": self.end,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "SidSpace":
        """The space that `to_json` wrote."""
        return cls(tuple(value["sizes"]), value["template"], value["begin"], value["end"])


SPELLINGS: dict[str, dict[str, str | None]] = {
    "openonerec": {
        "template": "<s_{level}_{code}>",
        "begin": "<|sid_begin|>",
        "end": "<|sid_end|>",
    },
    "minionerec": {"template": "<{level}_{code}>", "begin": None, "end": None},
}
"""Token spellings by the system that uses them, as keyword arguments of SidSpace."""
