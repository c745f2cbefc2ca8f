"""Allow and deny lists as sorted positions of items in SID order.

A SID is excluded when all its items are. The trie is never rebuilt: a prefix stays valid while its
range of leaves holds more allowed than denied ones."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import Index, ItemRows, SidPositions

NO_POSITIONS = SidPositions(np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class LeafFilter:
    """What may be recommended to one request: the `allowed` items (None: all) less those at the
    `denied` positions in SID order."""

    trie: Trie
    allowed: SidPositions | None = None
    """(n,) sorted: items that are looked up once and shared by requests"""
    denied: SidPositions = field(default_factory=lambda: NO_POSITIONS)

    @classmethod
    def of(cls, trie: Trie, allowed: SidPositions | None, deny: ItemRows) -> "LeafFilter":
        """A filter of `trie.positions` of the items allowed and the rows of the items denied."""
        denied = trie.positions(deny)
        if allowed is not None:
            denied = on_both(denied, allowed)
        return cls(trie, allowed, denied)

    @property
    def n_eligible(self) -> int:
        """The number of items that pass the filter."""
        n_allowed = self.trie.n_items if self.allowed is None else len(self.allowed)
        return n_allowed - len(self.denied)

    def passes(self, positions: SidPositions) -> NDArray[np.bool_]:
        """Whether each item, by its position in SID order, passes the filter."""
        flags = ~_member(positions, self.denied)
        if self.allowed is not None:
            flags &= _member(positions, self.allowed)
        return flags


def on_both(positions: SidPositions, others: SidPositions) -> SidPositions:
    """Those of the positions that are in a sorted array too."""
    return SidPositions(positions[_member(positions, others)])


def _member(values: Index, members: Index) -> NDArray[np.bool_]:
    """Whether each value is in a sorted array."""
    if not len(members):
        return np.zeros(len(values), dtype=np.bool_)
    nearest = np.minimum(np.searchsorted(members, values), len(members) - 1)
    return members[nearest] == values
