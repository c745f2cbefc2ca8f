"""The four spaces in which items and SIDs are numbered, as types of arrays: a function that takes
one is not given another. `Trie` converts between the first three."""

from typing import NewType, TypeVar

import numpy as np
from numpy.typing import NDArray

ItemRows = NewType("ItemRows", NDArray[np.int64])
"""Rows of a bundle's items, retired ones too; -1 is an item that the bundle lacks."""
SidPositions = NewType("SidPositions", NDArray[np.int64])
"""Positions of the active items in SID order; -1 is none."""
Leaves = NewType("Leaves", NDArray[np.int64])
"""Ranks of distinct SIDs, the leaves of the trie; -1 is none."""
PopularityRanks = NewType("PopularityRanks", NDArray[np.int64])
"""Ranks of a catalog's items by their training events, 0 the most popular; -1 is none."""

Index = TypeVar("Index", ItemRows, SidPositions, Leaves, PopularityRanks)
