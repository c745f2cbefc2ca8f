"""Allow and deny lists as sets of leaves of the trie.

A SID is excluded when all its items are. The trie is never rebuilt: a prefix stays valid while its
range of leaves holds more allowed than denied ones."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import Index, ItemRows, Leaves, SidPositions

NO_POSITIONS = SidPositions(np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class AllowList:
    """Items that may be recommended, looked up once and shared by requests."""

    positions: SidPositions
    """(n,) sorted positions of the items in SID order."""

    @classmethod
    def of(cls, trie: Trie, rows: ItemRows) -> "AllowList":
        """The list of some of the bundle's items; those that the trie lacks are left out."""
        return cls(trie.positions(rows))

    def intersect(self, other: "AllowList") -> "AllowList":
        """The items on both lists."""
        return AllowList(_members(self.positions, other.positions))


@dataclass(frozen=True, eq=False)
class LeafFilter:
    """What may be recommended to one request: the `allowed` items (None: all) less those at the
    `denied` positions in SID order."""

    trie: Trie
    allowed: AllowList | None = None
    denied: SidPositions = field(default_factory=lambda: NO_POSITIONS)

    @classmethod
    def of(cls, trie: Trie, allowed: AllowList | None, deny: ItemRows) -> "LeafFilter":
        """A filter of an allow list and the rows of the items denied."""
        denied = trie.positions(deny)
        if allowed is not None:
            denied = _members(denied, allowed.positions)
        return cls(trie, allowed, denied)

    @property
    def denied_leaves(self) -> Leaves:
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
        return Leaves(distinct[denied_items == edges[1] - edges[0]])

    @property
    def n_eligible(self) -> int:
        """The number of items that pass the filter."""
        n_allowed = self.trie.n_items if self.allowed is None else len(self.allowed.positions)
        return n_allowed - len(self.denied)

    def passes(self, positions: SidPositions) -> NDArray[np.bool_]:
        """Whether each item, by its position in SID order, passes the filter."""
        flags = ~_member(positions, self.denied)
        if self.allowed is not None:
            flags &= _member(positions, self.allowed.positions)
        return flags


def _members(positions: SidPositions, others: SidPositions) -> SidPositions:
    """Those of the positions that are in a sorted array too."""
    return SidPositions(positions[_member(positions, others)])


def _member(values: Index, members: Index) -> NDArray[np.bool_]:
    """Whether each value is in a sorted array."""
    if not len(members):
        return np.zeros(len(values), dtype=np.bool_)
    nearest = np.minimum(np.searchsorted(members, values), len(members) - 1)
    return members[nearest] == values


def _distinct(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each value of a sorted array of non-negative numbers once."""
    return ordered[np.diff(ordered, prepend=-1) > 0]
