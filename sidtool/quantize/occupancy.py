"""Where a space still has room: finds the nearest free SID for an item whose own one is taken.

Knows taken codes and centroids; knows nothing of items. Nobody who is settled is moved.
"""

import heapq
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
        """(K,) int64: how many SIDs are taken under each next code of a prefix that is not a whole SID."""
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
        return np.searchsorted(self._keys, last, side="right") - np.searchsorted(self._keys, first, side="left")

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

    An item gets its nearest code where that is free, else the nearest free one under the longest prefix with room.
    One batch gives the same codes as several. Raises RefusedError when the space is full.
    """
    raw, latent = codebook.encode(vectors), codebook.transform(vectors)
    codes = np.empty_like(raw)
    for row, own in enumerate(raw):
        sid, _ = nearest_free(tuple(own.tolist()), latent[row], codebook, occupancy)
        occupancy.take(sid)
        codes[row] = sid
    return codes


def spill(raw: Codes, latent: Vectors, codebook: Codebook, occupancy: Occupancy) -> Codes:
    """Free codes for items whose prefix is full, given in the order of their ids, as they stand before the first move.

    `latent` is (n, width) in the space of the centroids. The item with the nearest prefix that has room goes first,
    ties by id; an item whose place was taken meanwhile looks for its next one.
    """
    sids = [tuple(own) for own in raw.tolist()]
    queue = [
        (nearest_free(sid, vector, codebook, occupancy)[1], row)
        for row, (sid, vector) in enumerate(zip(sids, latent, strict=True))
    ]
    heapq.heapify(queue)
    codes = np.empty_like(raw)
    while queue:
        expected, row = heapq.heappop(queue)
        sid, distance = nearest_free(sids[row], latent[row], codebook, occupancy)
        if distance != expected:
            heapq.heappush(queue, (distance, row))
            continue
        occupancy.take(sid)
        codes[row] = sid
    return codes


def nearest_free(
    own: tuple[int, ...], latent: NDArray[np.float32], codebook: Codebook, occupancy: Occupancy
) -> tuple[tuple[int, ...], float]:
    """The nearest free SID under the longest prefix of `own` with room, and the squared distance to its prefix.

    It goes down level by level as encoding does, past the codes that have no room; ties go to the lowest code.
    Raises RefusedError when the space is full.
    """
    if occupancy.taken(own[:-1])[own[-1]] == 0:
        return own, 0.0
    for depth in reversed(range(len(own))):
        if occupancy.room(own[:depth]).any():
            return _descend(own[:depth], latent, codebook.levels, occupancy)
    raise RefusedError(
        f"all {occupancy.space.capacity} semantic IDs are taken", hint="build a codebook with more levels"
    )


def _descend(
    prefix: tuple[int, ...], latent: NDArray[np.float32], levels: Sequence[Vectors], occupancy: Occupancy
) -> tuple[tuple[int, ...], float]:
    residual = latent.astype(np.float64)
    for level, code in zip(levels, prefix, strict=False):
        residual = residual - level[code]
    distance = 0.0
    for level in levels[len(prefix) :]:
        distance = float(residual @ residual)
        distances = np.square(residual - level).sum(axis=1)
        code = int(np.where(occupancy.room(prefix), distances, np.inf).argmin())
        prefix, residual = (*prefix, code), residual - level[code]
    return prefix, distance
