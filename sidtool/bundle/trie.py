"""The trie of a catalog's semantic IDs: which code may follow which prefix.

Knows sorted codes; knows nothing of items beyond their row numbers, and nothing of models. Needs
numpy only.

Level-CSR: the nodes of a level are numbered in SID order, so the children of a node are contiguous,
a node's id is its position, and a leaf's id is the rank of its SID among the distinct SIDs. A node
costs one code and one child pointer, nothing else, and the leaves below any node are a range."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import UsageError
from sidtool.sid import Codes

CHUNK = 1 << 17
"""Rows looked at together while building: the flags of a chunk stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Trie:
    """Every legal SID, level by level.

    `codes[l]`: (n_l,) the last code of each prefix of l + 1 codes (uint8, int16 or int32: the
    narrowest that torch can index). `children[l]`: int32, where the children of each prefix of l
    codes start in `codes[l]`, closed by n_l; `children[0]` is the root's [0, n_0]. `fan_out[l]`:
    the largest number of children of a prefix of l codes. `leaf_start`: (n_leaves + 1,) int32,
    where each SID's items start in `rows`, or None where every SID has one item. `rows`: (n,)
    int64, the bundle's row of each item in SID order, ascending, or None where item i is row i."""

    sizes: tuple[int, ...]
    codes: tuple[NDArray[np.generic], ...]
    children: tuple[NDArray[np.int32], ...]
    fan_out: tuple[int, ...]
    leaf_start: NDArray[np.int32] | None
    rows: NDArray[np.int64] | None
    n_items: int

    @classmethod
    def from_codes(
        cls, codes: Codes, sizes: tuple[int, ...], rows: NDArray[np.int64] | None = None
    ) -> "Trie":
        """The trie of (n, levels) codes in lexicographic order; `rows` (n,) names each one's row in
        the bundle.

        10^7 items take well under a second. Raises UsageError if the codes are out of order or
        there are none."""
        if codes.ndim != 2 or codes.shape[1] != len(sizes):
            raise UsageError(f"codes have shape {codes.shape}, the space has {len(sizes)} levels")
        if len(codes) == 0:
            raise UsageError("a trie of no items: every item of the catalog is retired")
        counts = np.zeros(len(sizes), dtype=np.int64)
        for _, _, starts in _chunks(codes):
            counts += [np.count_nonzero(flags) for flags in starts]
        filled = _fill(codes, sizes, counts)
        fan_out = tuple(_widest(pointers) for pointers in filled[1])
        return cls(sizes, *filled[:2], fan_out, filled[2], rows, len(codes))

    @property
    def levels(self) -> int:
        """Number of codes in a SID."""
        return len(self.sizes)

    @property
    def n_leaves(self) -> int:
        """Number of distinct SIDs."""
        return len(self.codes[-1])

    @property
    def nbytes(self) -> int:
        """Bytes that the trie holds, the row numbers that it was given left out."""
        arrays = (
            *self.codes,
            *self.children,
            *(() if self.leaf_start is None else (self.leaf_start,)),
        )
        return sum(array.nbytes for array in arrays)

    def leaf_codes(self, leaves: NDArray[np.int64]) -> Codes:
        """(m,) leaf ids -> (m, levels) codes."""
        found = np.empty((len(leaves), self.levels), dtype=np.uint16)
        nodes = leaves
        for level in reversed(range(self.levels)):
            found[:, level] = self.codes[level][nodes]
            nodes = np.searchsorted(self.children[level], nodes, side="right") - 1
        return found

    def leaf_rows(self, leaf: int) -> NDArray[np.int64]:
        """The bundle's rows of the items that share one SID, ascending."""
        first, stop = (
            (leaf, leaf + 1) if self.leaf_start is None else self.leaf_start[leaf : leaf + 2]
        )
        positions = np.arange(first, stop, dtype=np.int64)
        return positions if self.rows is None else self.rows[positions]

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places in SID order of those of the bundle's rows that are in the trie: sorted, each one
        once."""
        known = np.sort(rows[rows >= 0])
        known = known[np.diff(known, prepend=-1) > 0]
        if self.rows is None:
            return known[known < self.n_items]
        places = np.minimum(np.searchsorted(self.rows, known), self.n_items - 1)
        return places[self.rows[places] == known]

    def leaves(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Leaf ids of items by their place in SID order."""
        if self.leaf_start is None:
            return positions
        return np.searchsorted(self.leaf_start, positions, side="right") - 1


def _chunks(codes: Codes) -> Iterator[tuple[int, Codes, list[NDArray[np.bool_]]]]:
    """Row offset, rows, and per level whether each row starts a new prefix; raises UsageError where
    order is broken."""
    previous = np.zeros((0, codes.shape[1]), dtype=codes.dtype)
    for first in range(0, len(codes), CHUNK):
        columns = np.ascontiguousarray(codes[first : first + CHUNK].T)
        starts = []
        new = np.zeros(columns.shape[1], dtype=np.bool_)
        new[0] = first == 0
        for level, column in enumerate(columns):
            before = np.concatenate([previous[:, level] if first else column[:1], column[:-1]])
            if ((column < before) & ~new).any():
                raise UsageError(f"codes are not in lexicographic order near row {first}")
            new = new | (column != before)
            starts.append(new)
        yield first, codes[first : first + CHUNK], starts
        previous = codes[first + columns.shape[1] - 1 : first + columns.shape[1]]


def _fill(
    codes: Codes, sizes: tuple[int, ...], counts: NDArray[np.int64]
) -> tuple[
    tuple[NDArray[np.generic], ...], tuple[NDArray[np.int32], ...], NDArray[np.int32] | None
]:
    """Codes per level, child pointers per level, and where each leaf's items start (None where each
    has one)."""
    kept = tuple(
        np.empty(count, dtype=_code_dtype(size)) for size, count in zip(sizes, counts, strict=True)
    )
    # one pointer array a level, the leaves' into the items last; each is closed by the number of
    # things pointed at
    below = [*counts[1:], len(codes)]
    shared = counts[-1] < len(codes)
    pointers = [
        np.empty(count + 1, dtype=np.int32) for count in (counts if shared else counts[:-1])
    ]
    done = np.zeros(len(sizes), dtype=np.int64)
    for first, rows, starts in _chunks(codes):
        for level, new in enumerate(starts):
            stop = done[level] + np.count_nonzero(new)
            kept[level][done[level] : stop] = rows[:, level][new]
            if level + 1 < len(sizes):
                ranks = np.cumsum(starts[level + 1], dtype=np.int32) - 1 + np.int32(done[level + 1])
                pointers[level][done[level] : stop] = ranks[new]
            elif level < len(pointers):
                pointers[level][done[level] : stop] = first + np.flatnonzero(new)
            done[level] = stop
    for level, array in enumerate(pointers):
        array[-1] = below[level]
    leaf_start = pointers.pop() if shared else None
    return kept, (np.array([0, counts[0]], dtype=np.int32), *pointers), leaf_start


def _widest(pointers: NDArray[np.int32]) -> int:
    """The largest number of children, looked for by the chunk so that it takes no memory."""
    firsts = range(0, len(pointers) - 1, CHUNK)
    return max(int(np.diff(pointers[first : first + CHUNK + 1]).max()) for first in firsts)


def _code_dtype(size: int) -> type[np.generic]:
    """The narrowest type that holds a level's codes and that torch indexes everywhere (it lacks
    most of uint16)."""
    return np.uint8 if size <= 1 << 8 else np.int16 if size <= 1 << 15 else np.int32
