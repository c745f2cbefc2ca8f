"""Where a space still has room: finds the nearest free SID for an item whose own one is taken.

Knows taken codes and centroids; knows nothing of items. Nobody who is settled is moved.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import RefusedError
from sidtool.quantize.codebook import Codebook
from sidtool.sid import Codes, SidSpace, Vectors


class Occupancy:
    """The taken SIDs of a space, each taken by one item."""

    def __init__(self, space: SidSpace, codes: Codes) -> None:
        self.space = space
        self._keys = np.sort(space.pack(codes))
        self._taken: dict[tuple[int, ...], NDArray[np.int64]] = {}

    def taken(self, prefix: tuple[int, ...]) -> NDArray[np.int64]:
        """(K,) int64: how many SIDs are taken under each next code of a prefix that is not a whole
        SID."""
        if prefix not in self._taken:
            self._taken[prefix] = self._count(prefix)
        return self._taken[prefix]

    def _count(self, prefix: tuple[int, ...]) -> NDArray[np.int64]:
        depth, bits = len(prefix), self.space.key_bits
        below = sum(bits[depth + 1 :])
        base = 0
        for code, width in zip(prefix, bits, strict=False):
            base = (base << width) | code
        first = np.uint64(base << bits[depth]) + np.arange(self.space.sizes[depth], dtype=np.uint64)
        first = first << np.uint64(below)
        last = first + np.uint64((1 << below) - 1)
        return np.searchsorted(self._keys, last, side="right") - np.searchsorted(
            self._keys, first, side="left"
        )

    def room(self, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
        """(K,) bool: under which next codes of a prefix a SID is free."""
        capacity = int(np.prod(np.array(self.space.sizes[len(prefix) + 1 :], dtype=object)))
        return self.taken(prefix) < capacity

    def take(self, sid: tuple[int, ...]) -> None:
        """Mark a SID as taken."""
        for depth, code in enumerate(sid):
            self.taken(sid[:depth])[code] += 1


def place(vectors: Vectors, codebook: Codebook, occupancy: Occupancy) -> Codes:
    """(n, dim) embeddings of new items -> (n, levels) free codes, taken in the order given.

    An item gets its nearest code where that is free, else the nearest free one under the longest
    prefix with room. One batch gives the same codes as several. Raises RefusedError when the space
    is full."""
    raw, latent = codebook.encode(vectors), codebook.transform(vectors)
    codes = np.empty_like(raw)
    for row, own in enumerate(raw):
        sid = nearest_free(tuple(own.tolist()), latent[row], codebook, occupancy)
        occupancy.take(sid)
        codes[row] = sid
    return codes


def nearest_free(
    own: tuple[int, ...], latent: NDArray[np.float32], codebook: Codebook, occupancy: Occupancy
) -> tuple[int, ...]:
    """The nearest free SID under the longest prefix of `own` with room.

    It goes down level by level as encoding does, past the codes that have no room; ties go to the
    lowest code. Raises RefusedError when the space is full."""
    if occupancy.taken(own[:-1])[own[-1]] == 0:
        return own
    for depth in reversed(range(len(own))):
        if occupancy.room(own[:depth]).any():
            return _descend(own[:depth], latent, codebook.levels, occupancy)
    raise RefusedError(
        f"all {occupancy.space.capacity} semantic IDs are taken",
        hint="build a codebook with more levels",
    )


def _descend(
    prefix: tuple[int, ...],
    latent: NDArray[np.float32],
    levels: Sequence[Vectors],
    occupancy: Occupancy,
) -> tuple[int, ...]:
    residual = latent.astype(np.float64)
    for level, code in zip(levels, prefix, strict=False):
        residual = residual - level[code]
    for level in levels[len(prefix) :]:
        distances = np.square(residual - level).sum(axis=1)
        code = int(np.where(occupancy.room(prefix), distances, np.inf).argmin())
        prefix, residual = (*prefix, code), residual - level[code]
    return prefix
