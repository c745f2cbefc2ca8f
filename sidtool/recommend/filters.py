"""Which items a request may get: allow and deny lists as sets of leaves of the trie.

Knows that a SID goes when all its items are excluded, and no sooner; knows nothing of models. The
trie is never rebuilt: a prefix is alive while the sorted leaves that may be given number more in
its range than those denied. Needs numpy only."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.trie import Trie


@dataclass(frozen=True, eq=False)
class Allowed:
    """An allow list, looked up once and shared by requests: items by their place in SID order, and
    their leaves."""

    positions: NDArray[np.int64]
    leaves: NDArray[np.int64]

    @classmethod
    def of(cls, trie: Trie, rows: NDArray[np.int64]) -> "Allowed":
        """The list of the bundle's rows; rows that are not in the trie are no items."""
        positions = trie.positions(rows)
        return cls(positions, _distinct(trie.leaves(positions)))

    def within(self, trie: Trie, other: "Allowed") -> "Allowed":
        """The items on both lists."""
        positions = self.positions[_member(self.positions, other.positions)]
        return Allowed(positions, _distinct(trie.leaves(positions)))


@dataclass(frozen=True, eq=False)
class LeafFilter:
    """What one request may get: the `allowed` items (all where None) less those at the `denied`
    positions."""

    trie: Trie
    allowed: Allowed | None = None
    denied: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, trie: Trie, allowed: Allowed | None, deny: NDArray[np.int64]) -> "LeafFilter":
        """A filter of an allow list and the bundle's rows that are denied."""
        denied = trie.positions(deny)
        return cls(
            trie, allowed, denied if allowed is None else denied[_member(denied, allowed.positions)]
        )

    @property
    def denied_leaves(self) -> NDArray[np.int64]:
        """Sorted leaves of which every allowed item is denied: a subset of the allowed leaves."""
        leaves = self.trie.leaves(self.denied)
        if self.trie.leaf_start is None:
            return leaves
        distinct = _distinct(leaves)
        hits = np.searchsorted(leaves, distinct, side="right") - np.searchsorted(leaves, distinct)
        edges = self.trie.leaf_start[np.stack([distinct, distinct + 1])].astype(np.int64)
        if self.allowed is not None:
            edges = np.searchsorted(self.allowed.positions, edges)
        return distinct[hits == edges[1] - edges[0]]

    def rows(self, leaf: int) -> NDArray[np.int64]:
        """The bundle's rows of a SID's items that may be given, ascending."""
        first, stop = (
            (leaf, leaf + 1)
            if self.trie.leaf_start is None
            else self.trie.leaf_start[leaf : leaf + 2]
        )
        positions = np.arange(first, stop, dtype=np.int64)
        good = ~_member(positions, self.denied)
        if self.allowed is not None:
            good &= _member(positions, self.allowed.positions)
        return self.trie.leaf_rows(leaf)[good]


def _member(values: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each value is in a sorted array."""
    if not len(among):
        return np.zeros(len(values), dtype=np.bool_)
    return among[np.minimum(np.searchsorted(among, values), len(among) - 1)] == values


def _distinct(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each value of a sorted array of non-negative numbers once."""
    return ordered[np.diff(ordered, prepend=-1) > 0]
