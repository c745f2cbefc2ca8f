"""The trie of a catalog's semantic IDs: which code may follow which prefix.

Level-CSR: the nodes of a level are numbered in SID order, so the children of a node are contiguous,
a node's id is its position, and a leaf's id is the rank of its SID among the distinct SIDs. A node
needs one code and one child pointer."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.ranges import consecutive
from sidtool.tokenizer.sid import Codes, ItemRows, Leaves, SidPositions

CHUNK = 1 << 17
"""Rows per step of the construction: the flags of a chunk fit into the processor's cache."""

Starts = list[NDArray[np.bool_]]
"""Per level: whether each row of a chunk starts a new prefix."""


@dataclass(frozen=True, eq=False)
class Trie:
    """Every valid SID, level by level."""

    sizes: tuple[int, ...]
    codes: tuple[NDArray[np.generic], ...]
    """`codes[l]`, (n_l,): the last code of each prefix of l + 1 codes (uint8, int16 or int32, the
    narrowest type that torch can index)"""
    children: tuple[NDArray[np.int32], ...]
    """`children[l]`: where the children of each prefix of l codes start in `codes[l]`, then n_l;
    `children[0]` is [0, n_0]"""
    fan_out: tuple[int, ...]
    """`fan_out[l]`: the largest number of children of a prefix of l codes"""
    leaf_start: NDArray[np.int32] | None
    """(n_leaves + 1,): where each SID's items start in `rows`; None if every SID has one item"""
    rows: ItemRows | None
    """(n,): the bundle's row of each item in SID order, ascending; None if item i is row i"""
    n_items: int

    @classmethod
    def from_codes(
        cls, codes: Codes, sizes: tuple[int, ...], rows: ItemRows | None = None
    ) -> "Trie":
        """The trie of (n, levels) codes in lexicographic order, with their (n,) `rows` in the
        bundle. Takes well under a second for 10^7 items. Raises UsageError if the codes are not in
        order or there are none."""
        if codes.ndim != 2 or codes.shape[1] != len(sizes):
            raise UsageError(f"codes have shape {codes.shape}, the space has {len(sizes)} levels")
        if len(codes) == 0:
            raise UsageError("the trie has no items: every item of the catalog is retired")
        n_nodes = np.zeros(len(sizes), dtype=np.int64)
        for _, _, starts in _chunks(codes):
            n_nodes += [np.count_nonzero(flags) for flags in starts]
        # the narrowest types that torch can index: it lacks most of uint16
        types = [
            np.uint8 if size <= 1 << 8 else np.int16 if size <= 1 << 15 else np.int32
            for size in sizes
        ]
        columns = tuple(np.empty(n, dtype=kind) for kind, n in zip(types, n_nodes, strict=True))
        # where the children of each node start; those of the last level are items, unless every
        # SID has one: leaves and items then coincide
        is_shared = n_nodes[-1] < len(codes)
        starting = n_nodes if is_shared else n_nodes[:-1]
        pointers = [np.empty(n + 1, dtype=np.int32) for n in starting]
        done = np.zeros(len(sizes), dtype=np.int64)  # nodes that are written, per level
        for first, chunk, starts in _chunks(codes):
            for level, is_new in enumerate(starts):
                start = done[level]
                stop = start + np.count_nonzero(is_new)
                columns[level][start:stop] = chunk[:, level][is_new]
                if level + 1 < len(sizes):
                    # the first child of a new node is the next new node one level below
                    child_ids = np.cumsum(starts[level + 1], dtype=np.int32) - 1
                    pointers[level][start:stop] = child_ids[is_new] + np.int32(done[level + 1])
                elif is_shared:
                    pointers[level][start:stop] = first + np.flatnonzero(is_new)
                done[level] = stop
        for array, end in zip(pointers, [*n_nodes[1:], len(codes)], strict=False):
            array[-1] = end
        leaf_start = pointers.pop() if is_shared else None
        children = (np.array([0, n_nodes[0]], dtype=np.int32), *pointers)
        # the largest number of children, by chunks to save memory
        fan_out = tuple(
            max(
                int(np.diff(first_children[first : first + CHUNK + 1]).max())
                for first in range(0, len(first_children) - 1, CHUNK)
            )
            for first_children in children
        )
        return cls(sizes, columns, children, fan_out, leaf_start, rows, len(codes))

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
        """Bytes of the arrays, except `rows`."""
        leaf_start = () if self.leaf_start is None else (self.leaf_start,)
        return sum(array.nbytes for array in (*self.codes, *self.children, *leaf_start))

    def leaf_codes(self, leaves: Leaves) -> Codes:
        """(m,) leaf ids -> (m, levels) codes."""
        nodes = self.leaf_nodes(leaves)
        codes = np.empty(nodes.shape, dtype=np.uint16)
        for level, level_codes in enumerate(self.codes):
            codes[:, level] = level_codes[nodes[:, level]]
        return codes

    def leaf_nodes(self, leaves: Leaves) -> NDArray[np.int64]:
        """(m,) leaf ids -> (m, levels) int64: the nodes of their prefixes of 1 code, 2 codes and so
        on; those of the empty leaf -1 are -1."""
        nodes = np.empty((len(leaves), self.levels), dtype=np.int64)
        nodes[:, -1] = leaves
        for level in reversed(range(1, self.levels)):
            # the parent of a node is the last one whose children start at it or before
            first_children = self.children[level]
            nodes[:, level - 1] = np.searchsorted(first_children, nodes[:, level], side="right") - 1
        return nodes

    def leaf_positions(self, leaf: int) -> SidPositions:
        """The positions of the items with one SID."""
        first, stop = leaf, leaf + 1
        if self.leaf_start is not None:
            first, stop = self.leaf_start[leaf : leaf + 2].tolist()
        return SidPositions(np.arange(first, stop, dtype=np.int64))

    def item_rows(self, positions: SidPositions) -> ItemRows:
        """The bundle's rows of items by their position in SID order, in the same shape."""
        return ItemRows(positions if self.rows is None else self.rows[positions])

    def items(self, leaves: Leaves) -> tuple[SidPositions, NDArray[np.int64]]:
        """The items of (m,) leaves behind one another, and (m,) how many each leaf has."""
        if self.leaf_start is None:
            return SidPositions(leaves), np.ones(len(leaves), dtype=np.int64)
        starts = self.leaf_start[leaves].astype(np.int64)
        sizes = self.leaf_start[leaves + 1] - starts
        return SidPositions(consecutive(starts, sizes)), sizes

    def items_per_leaf(self, leaves: Leaves) -> NDArray[np.int64]:
        """(...) int64: the number of items of each leaf, 0 for the empty leaf -1."""
        if self.leaf_start is None:
            return (leaves >= 0).astype(np.int64)
        sizes = self.leaf_start[leaves + 1] - self.leaf_start[leaves]
        return np.where(leaves >= 0, sizes, 0).astype(np.int64)

    def positions(self, rows: ItemRows) -> SidPositions:
        """The positions in SID order of those of the bundle's rows that are in the trie: sorted,
        without repeats."""
        positions = self.positions_of(ItemRows(np.unique(rows)))
        return SidPositions(positions[positions >= 0])

    def positions_of(self, rows: ItemRows) -> SidPositions:
        """The position in SID order of each of the bundle's rows, in the same shape; -1 for one
        that the trie lacks."""
        if self.rows is None:
            return SidPositions(np.where(rows < self.n_items, rows, -1))
        nearest = np.minimum(np.searchsorted(self.rows, rows), self.n_items - 1)
        return SidPositions(np.where(self.rows[nearest] == rows, nearest, -1))

    def leaves(self, positions: SidPositions) -> Leaves:
        """The leaf ids of items by their position in SID order, -1 for -1."""
        if self.leaf_start is None:
            return Leaves(positions)
        # of the array's own type, or numpy would convert the whole array
        values = positions.astype(self.leaf_start.dtype)
        return Leaves(np.searchsorted(self.leaf_start, values, side="right") - 1)


def _chunks(codes: Codes) -> Iterator[tuple[int, Codes, Starts]]:
    """Of each chunk the number of its first row, its codes and its `Starts`. Raises UsageError if
    rows are not in order."""
    row_before = codes[:1]
    for first in range(0, len(codes), CHUNK):
        chunk = codes[first : first + CHUNK]
        starts = []
        # (rows,): whether the prefix up to the level differs from that of the row before
        is_new = np.zeros(len(chunk), dtype=np.bool_)
        is_new[0] = first == 0
        for level, column in enumerate(np.ascontiguousarray(chunk.T)):
            codes_before = np.concatenate([row_before[:, level], column[:-1]])
            if ((column < codes_before) & ~is_new).any():
                raise UsageError(f"codes are not in lexicographic order near row {first}")
            is_new = is_new | (column != codes_before)
            starts.append(is_new)
        yield first, chunk, starts
        row_before = chunk[-1:]
