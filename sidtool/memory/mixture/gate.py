"""What a memory gives for one request: a distribution over items, and its weight in the mixture,
which a gate may choose by features that are known before the search."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.records import JsonRecord
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
    """The log of the sum of values by their logs; 0 without any."""
    return float(np.logaddexp.reduce(logs)) if len(logs) else 0.0


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


GATE_FEATURES = ("log mass", "log peak", "log history length", "log last item events", "coverage")
"""A new one is appended, as stored gates read the first ones."""


def gate_features(
    distribution: ItemDistribution, events: NDArray[np.int64], neighbors: NDArray[np.int64]
) -> list[float]:
    """The GATE_FEATURES of a request, known before its search: the memory's distribution, with at
    least one item, and of each item of the history the training events, and how many neighbors it
    has."""
    return [
        distribution.log_mass,  # sum of all scores
        distribution.log_peak,  # share of the largest score in it
        float(np.log1p(len(events))),  # number of items
        float(np.log1p(events[-1])),  # in training
        float(np.mean(neighbors > 0)),  # share with neighbors
    ]


LIMIT = 1e6
"""Size of the numbers of a gate, so that no weight overflows."""
FARTHEST = 3.0
"""Standard deviations beyond which features count the same: a gate is not extrapolated."""


def standardize(
    features: NDArray[np.float64], means: Sequence[float], scales: Sequence[float]
) -> NDArray[np.float64]:
    """(n, GATE_FEATURES) features in standard deviations from their means."""
    deviations = (features - np.array(means)) / np.array(scales)
    return np.clip(deviations, -FARTHEST, FARTHEST)


@dataclass(frozen=True)
class Gate(JsonRecord):
    """A logistic regression on the first of the standardized GATE_FEATURES, as many as it has
    numbers.

    Raises UsageError unless it has one number per feature, of at most LIMIT, with scales of at
    least 1 / LIMIT."""

    means: tuple[float, ...]
    scales: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float

    def __post_init__(self) -> None:
        for name in ("means", "scales", "coefficients"):
            n_values = len(getattr(self, name))
            if not 0 < n_values <= len(GATE_FEATURES) or n_values != len(self.means):
                raise UsageError(
                    f"a gate of {len(self.means)} of the {len(GATE_FEATURES)} features has "
                    f"{n_values} {name}"
                )
        for value in (*self.means, *self.scales, *self.coefficients, self.intercept):
            if not abs(value) <= LIMIT:
                raise UsageError(f"a number of a gate is at most {LIMIT:g} in size, not {value}")
        if min(self.scales) < 1 / LIMIT:
            raise UsageError(f"a scale of a gate is at least {1 / LIMIT:g}: {min(self.scales)}")

    def weights(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) weights of the memory, from 0 to 1, for (n, GATE_FEATURES) requests."""
        logits = (
            standardize(features[:, : len(self.means)], self.means, self.scales)
            @ np.array(self.coefficients)
            + self.intercept
        )
        # the clip keeps exp finite, and the weight inside of 0 and 1
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))))


def check_mixture(weight: float, power: float, new_item_factor: float) -> None:
    """Raise UsageError unless a weight is from 0 to 1, a power above 0 and at most 20, and a factor
    of new items from 0 to 1."""
    if not 0 <= weight <= 1:
        raise UsageError(f"the weight of a memory is from 0 to 1, not {weight}")
    if not 0 < power <= 20:
        raise UsageError(f"the power of a memory is above 0, at most 20, not {power}")
    if not 0 <= new_item_factor <= 1:
        raise UsageError(f"the factor of new items is from 0 to 1, not {new_item_factor}")
