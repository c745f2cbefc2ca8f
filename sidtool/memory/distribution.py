"""The distribution over items that a memory gives for a history, and its weight in a mixture."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sidtool.tokenizer.sid import SidPositions


@dataclass(frozen=True, eq=False)
class ItemDistribution:
    """A sparse distribution over the active items of a bundle."""

    positions: SidPositions
    """(m,): ascending positions of items in SID order; all others have probability 0"""
    log_probs: NDArray[np.float64]
    """(m,): logarithms of their probabilities, which sum to 1"""
    log_mass: float = -np.inf
    """log of the sum of all scores, before they were raised and normalized"""
    log_peak: float = 0.0
    """log of the share of the largest score in that sum"""

    def __len__(self) -> int:
        return len(self.positions)

    def select(self, flags: NDArray[np.bool_]) -> "ItemDistribution":
        """The items with a flag, with their probabilities as they are."""
        positions = SidPositions(self.positions[flags])
        return replace(self, positions=positions, log_probs=self.log_probs[flags])

    def with_factor(self, flags: NDArray[np.bool_], factor: float) -> "ItemDistribution":
        """The probabilities of the items with a flag times a factor, and normalized again; those of
        factor 0 are left out."""
        if factor == 0:
            others = self.select(~flags)
            return replace(others, log_probs=others.log_probs - log_sum(others.log_probs))
        logs = self.log_probs + np.log(factor) * flags
        return replace(self, log_probs=logs - log_sum(logs))

    def log_probs_at(self, positions: SidPositions) -> NDArray[np.float64]:
        """(k,) float64: the log-probability of items by position, minus infinity for those of
        probability 0."""
        if not len(self):
            return np.full(len(positions), -np.inf)
        nearest = np.minimum(np.searchsorted(self.positions, positions), len(self) - 1)
        matches = self.positions[nearest] == positions
        return np.where(matches, self.log_probs[nearest], -np.inf)


NO_ITEMS = ItemDistribution(SidPositions(np.zeros(0, dtype=np.int64)), np.zeros(0))


def log_sum(logs: NDArray[np.float64]) -> float:
    """The log of the sum of values by their logs, the largest near 0; 0 without any."""
    return float(np.log(np.exp(logs).sum())) if len(logs) else 0.0


LOG_ZERO = -700.0
"""Log of a model's share of 0: its order still decides among items of which the memory knows
nothing."""


@dataclass(frozen=True, eq=False)
class Prior:
    """A memory's distribution for one request, and its weight in the mixture."""

    distribution: ItemDistribution
    weight: float
    """From 0 to 1."""

    @property
    def is_mixed(self) -> bool:
        """Whether the memory has a share."""
        return self.weight > 0 and len(self.distribution) > 0

    @property
    def log_shares(self) -> tuple[float, float]:
        """Logs of the weights of model and memory; a memory without items leaves all to the
        model."""
        if not self.is_mixed:
            return 0.0, -np.inf
        model = np.log1p(-self.weight) if self.weight < 1 else LOG_ZERO
        return float(model), float(np.log(self.weight))


NO_PRIOR = Prior(NO_ITEMS, 1.0)
