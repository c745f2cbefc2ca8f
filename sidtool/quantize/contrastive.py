"""A loss that draws together the codes of items that people meet together (PLUM, LETTER).

Knows pairs of rows and quantized latents; knows nothing of people or of how latents are quantized.
"""

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
"""Pairs a step: each is told from all others of the step."""
TEMPERATURE = 0.1


@dataclass(frozen=True, eq=False)
class Pairs:
    """Items that occur together, drawn as often as they do."""

    left: NDArray[np.int64]
    """(m,) rows of the vectors."""
    right: NDArray[np.int64]
    cumulated: NDArray[np.float64]
    """(m,) running sums of the pairs' weights."""

    @classmethod
    def of(cls, counts: Any) -> "Pairs":
        """The pairs of a symmetric (n, n) CSR of weights, each once a direction."""
        found = counts.tocoo()
        return cls(
            found.row.astype(np.int64),
            found.col.astype(np.int64),
            np.cumsum(found.data, dtype=np.float64),
        )

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """(2 * PAIRS,): the left rows of pairs drawn by weight, then the right ones."""
        at = np.searchsorted(self.cumulated, rng.random(PAIRS) * self.cumulated[-1], side="right")
        at = np.minimum(at, len(self.left) - 1)
        return np.concatenate([self.left[at], self.right[at]])


@dataclass(frozen=True, eq=False)
class Contrast:
    """What training draws pairs from."""

    pairs: Pairs
    source: VectorSource
    prepare: Callable[[Vectors], Vectors]
    """Embeddings -> rows as training sees them."""
    weight: float
    rng: np.random.Generator

    def draw(self) -> tuple[NDArray[np.int64], Vectors]:
        """(2 * PAIRS,) items and their (2 * PAIRS, dim) rows."""
        items = self.pairs.draw(self.rng)
        return items, self.prepare(self.source.take(items))


def info_nce(quantized: "Tensor", items: NDArray[np.int64]) -> "Tensor":
    """(2b, width) quantized latents, the left halves of b pairs before the right ones -> the mean
    loss.

    Each item must find its partner among the others' partners, in both directions (van den Oord et
    al. 2018). An item that is itself the partner asked for, or the one that asks, is no negative.
    """
    import torch
    from torch.nn import functional

    left, right = functional.normalize(quantized, dim=1).chunk(2)
    alike = left @ right.T / TEMPERATURE  # (b, b)
    first, second = torch.from_numpy(items).chunk(2)
    wanted = torch.arange(len(first))

    def asked(scores: "Tensor", own: "Tensor", others: "Tensor") -> "Tensor":
        same = (others[None, :] == others[:, None]) | (own[:, None] == others[None, :])
        same.fill_diagonal_(False)
        return functional.cross_entropy(scores.masked_fill(same, -torch.inf), wanted)

    return (asked(alike, first, second) + asked(alike.T, second, first)) / 2
