"""Allow and deny lists as sets of leaves of the trie.

A SID is excluded when all its items are. The trie is never rebuilt: a prefix stays valid while its
range of leaves holds more allowed than denied ones."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sidtool.tokenizer.bundle.trie import Trie


@dataclass(frozen=True, eq=False)
class AllowList:
    """Items that may be recommended, looked up once and shared by requests."""

    positions: NDArray[np.int64]
    """(n,) sorted positions of the items in SID order."""

    @classmethod
    def of(cls, trie: Trie, item_index: NDArray[np.int64]) -> "AllowList":
        """The list of some of the bundle's items; those that the trie lacks are left out."""
        return cls(trie.positions(item_index))

    def intersect(self, other: "AllowList") -> "AllowList":
        """The items on both lists."""
        return AllowList(self.positions[_member(self.positions, other.positions)])


@dataclass(frozen=True, eq=False)
class LeafFilter:
    """What may be recommended to one request: the `allowed` items (None: all) less those at the
    `denied` positions in SID order."""

    trie: Trie
    allowed: AllowList | None = None
    denied: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, trie: Trie, allowed: AllowList | None, deny: NDArray[np.int64]) -> "LeafFilter":
        """A filter of an allow list and the item index of those denied."""
        denied = trie.positions(deny)
        if allowed is not None:
            denied = denied[_member(denied, allowed.positions)]
        return cls(trie, allowed, denied)

    @property
    def denied_leaves(self) -> NDArray[np.int64]:
        """Sorted leaves of which every allowed item is denied: a subset of the allowed leaves."""
        leaves = self.trie.leaves(self.denied)
        if self.trie.leaf_start is None:
            return leaves
        distinct = _distinct(leaves)
        first = np.searchsorted(leaves, distinct)
        denied_items = np.searchsorted(leaves, distinct, side="right") - first
        # positions where each SID's items start and stop, counted among the allowed ones
        bounds = np.stack([distinct, distinct + 1])  # (2, leaves)
        edges = self.trie.leaf_start[bounds].astype(np.int64)
        if self.allowed is not None:
            edges = np.searchsorted(self.allowed.positions, edges)
        return distinct[denied_items == edges[1] - edges[0]]

    @property
    def n_eligible(self) -> int:
        """The number of items that pass the filter."""
        n_allowed = self.trie.n_items if self.allowed is None else len(self.allowed.positions)
        return n_allowed - len(self.denied)

    def eligible(self) -> NDArray[np.int64]:
        """The item index of all items that pass the filter."""
        positions = np.arange(self.trie.n_items, dtype=np.int64)
        if self.allowed is not None:
            positions = self.allowed.positions
        positions = positions[~_member(positions, self.denied)]
        return positions if self.trie.rows is None else self.trie.rows[positions]

    def passes(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each item, by its position in SID order, passes the filter."""
        flags = ~_member(positions, self.denied)
        if self.allowed is not None:
            flags &= _member(positions, self.allowed.positions)
        return flags

    def items(self, leaf: int) -> NDArray[np.int64]:
        """The item index of a SID's items that pass the filter, ascending."""
        first, stop = leaf, leaf + 1
        if self.trie.leaf_start is not None:
            first, stop = self.trie.leaf_start[leaf : leaf + 2]
        positions = np.arange(first, stop, dtype=np.int64)
        return self.trie.leaf_rows(leaf)[self.passes(positions)]


def _member(values: NDArray[np.int64], members: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each value is in a sorted array."""
    if not len(members):
        return np.zeros(len(values), dtype=np.bool_)
    nearest = np.minimum(np.searchsorted(members, values), len(members) - 1)
    return members[nearest] == values


def _distinct(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each value of a sorted array of non-negative numbers once."""
    return ordered[np.diff(ordered, prepend=-1) > 0]
