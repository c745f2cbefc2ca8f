"""Columns of strings as two arrays: UTF-8 bytes, concatenated, and the offsets that cut them.

At ten million ids this takes 75 MB and 2.6 us a point; Zarr's own string type takes milliseconds a
point. Knows strings; knows nothing of items. `hashes` gives the keys of the id index."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 16
"""Strings that are hashed at once."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class StringArray:
    """n strings: `data` (bytes,) uint8, `offsets` (n + 1,) int64; string i is
    data[offsets[i]:offsets[i + 1]]."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, strings: Sequence[str]) -> "StringArray":
        """Pack strings."""
        encoded = [text.encode("utf-8") for text in strings]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes().decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        data, bounds = self.data.tobytes(), self.offsets.tolist()
        for start, stop in itertools.pairwise(bounds):
            yield data[start:stop].decode("utf-8")

    def take(self, rows: NDArray[Any]) -> "StringArray":
        """The strings at these rows, in this order."""
        return StringArray.of([self[int(row)] for row in rows])

    def hashes(self) -> NDArray[np.uint64]:
        """(n,) uint64: a polynomial hash of each string's bytes modulo 2^64, mixed. Strings must
        not be empty."""
        sums = np.zeros(len(self), dtype=np.uint64)
        lengths = np.diff(self.offsets)
        powers = np.cumprod(
            np.full(int(lengths.max(initial=0)), _MULTIPLIER, dtype=np.uint64), dtype=np.uint64
        )
        for first in range(
            0, len(self), CHUNK
        ):  # all at once, the tables would take a hundred bytes a string
            starts = self.offsets[:-1][first : first + CHUNK]
            stop = self.offsets[min(first + CHUNK, len(self))]
            data = self.data[starts[0] : stop].astype(np.uint64) + np.uint64(1)
            places = np.arange(len(data)) - np.repeat(
                starts - starts[0], lengths[first : first + CHUNK]
            )
            sums[first : first + CHUNK] = np.add.reduceat(data * powers[places], starts - starts[0])
        sums ^= sums >> np.uint64(32)
        return sums * _MULTIPLIER
