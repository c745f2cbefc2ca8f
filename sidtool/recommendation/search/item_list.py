"""The list that a search returns for one prompt."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.recommendation.search.filters import LeafFilter
from sidtool.tokenizer.bundle.trie import Trie


@dataclass(frozen=True, eq=False)
class ItemList:
    """n distinct items, in the order in which the model wrote them."""

    positions: NDArray[np.int64]
    """(n,) positions of the items in SID order"""
    leaves: NDArray[np.int64]
    """(n,) leaves of their SIDs; items that share a SID have one leaf"""
    scores: NDArray[np.float32]
    """(n,) log-probability of each SID after the prompt and the SIDs before it"""

    @property
    def score(self) -> float:
        """Log-probability of the list."""
        return float(self.scores.sum(dtype=np.float64))

    @classmethod
    def of(
        cls,
        leaves: NDArray[np.int64],
        scores: NDArray[np.float32],
        trie: Trie,
        leaf_filter: LeafFilter | None,
    ) -> "ItemList":
        """Items for (n,) leaves: a leaf that is there for the i-th time stands for the i-th of its
        items that pass the filter."""
        positions = leaves.copy()
        if trie.leaf_start is not None:
            for leaf in np.unique(leaves).tolist():
                places = np.flatnonzero(leaves == leaf)
                below = np.arange(*trie.leaf_start[leaf : leaf + 2], dtype=np.int64)
                if leaf_filter is not None:
                    below = below[leaf_filter.passes(below)]
                positions[places] = below[: len(places)]
        return cls(positions, leaves, scores)


EMPTY_LIST = ItemList(
    np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
)
