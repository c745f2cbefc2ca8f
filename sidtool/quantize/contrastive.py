"""A contrastive loss that pulls the codes of co-occurring items together (PLUM, LETTER)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.vectors import VectorSource
from sidtool.sid import Vectors

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = 128
"""Pairs per step: each is contrasted with all others of the step."""
TEMPERATURE = 0.1


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of co-occurring items, drawn in proportion to their weights."""

    left: NDArray[np.int64]
    """(m,) item indices."""
    right: NDArray[np.int64]
    cumulated: NDArray[np.float64]
    """(m,) cumulative sums of the pairs' weights."""

    @classmethod
    def of(cls, counts: Any) -> "Pairs":
        """The pairs of a symmetric (n, n) CSR matrix of weights, in both directions."""
        pairs = counts.tocoo()
        return cls(
            pairs.row.astype(np.int64),
            pairs.col.astype(np.int64),
            np.cumsum(pairs.data, dtype=np.float64),
        )

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """(2 * PAIRS,): the left items of pairs drawn by weight, then the right ones."""
        target = rng.random(PAIRS) * self.cumulated[-1]
        drawn = np.searchsorted(self.cumulated, target, side="right")
        drawn = np.minimum(drawn, len(self.left) - 1)
        return np.concatenate([self.left[drawn], self.right[drawn]])


@dataclass(frozen=True, eq=False)
class Contrast:
    """Where training draws pairs from, and how much their loss counts."""

    pairs: Pairs
    source: VectorSource
    prepare: Callable[[Vectors], Vectors]
    """Embeddings -> rows as the network takes them."""
    weight: float
    rng: np.random.Generator

    def draw(self) -> tuple[NDArray[np.int64], Vectors]:
        """(2 * PAIRS,) items and their (2 * PAIRS, dim) rows."""
        items = self.pairs.draw(self.rng)
        return items, self.prepare(self.source.take(items))


def info_nce(quantized: "Tensor", items: NDArray[np.int64]) -> "Tensor":
    """The mean InfoNCE loss (van den Oord et al. 2018) of b pairs, in both directions.

    `quantized` is (2b, width), the left items before the right ones; `items` (2b,) are their
    indices. An item that equals the positive or the anchor is not used as a negative.
    """
    import torch
    from torch.nn import functional

    left, right = functional.normalize(quantized, dim=1).chunk(2)
    similarity = left @ right.T / TEMPERATURE  # (b, b)
    left_items, right_items = torch.from_numpy(items).chunk(2)
    positives = torch.arange(len(left_items))

    def one_direction(scores: "Tensor", anchors: "Tensor", others: "Tensor") -> "Tensor":
        equals_positive = others[None, :] == others[:, None]
        equals_anchor = anchors[:, None] == others[None, :]
        excluded = (equals_positive | equals_anchor).fill_diagonal_(False)
        return functional.cross_entropy(scores.masked_fill(excluded, -torch.inf), positives)

    forward = one_direction(similarity, left_items, right_items)
    backward = one_direction(similarity.T, right_items, left_items)
    return (forward + backward) / 2
