"""The gate: how much a request trusts the memory, by features that are known before the search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.records import JsonRecord
from sidtool.memory.distribution import ItemDistribution


@dataclass(frozen=True, eq=False)
class GateInput:
    """What is known of a request before its search."""

    distribution: ItemDistribution
    """the memory's, with at least one item"""
    events: NDArray[np.int64]
    """(n,) training events of the items of the history"""
    neighbors: NDArray[np.int64]
    """(n,) how many neighbors each of them has"""


class GateFeature(NamedTuple):
    """A number of a request."""

    name: str
    value: Callable[[GateInput], float]
    meaning: str


FEATURES = (
    GateFeature("log mass", lambda given: given.distribution.log_mass, "sum of all scores"),
    GateFeature(
        "log peak", lambda given: given.distribution.log_peak, "share of the largest score in it"
    ),
    GateFeature(
        "log history length", lambda given: float(np.log1p(len(given.events))), "number of items"
    ),
    GateFeature(
        "log last item events",
        lambda given: float(np.log1p(given.events[-1])),
        "training events of the last item",
    ),
    GateFeature(
        "coverage",
        lambda given: np.count_nonzero(given.neighbors) / len(given.neighbors),
        "share of the items that have neighbors",
    ),
)
"""A new one is appended, as stored gates read the first ones."""

LIMIT = 1e6
"""Size of the numbers of a gate, so that no weight overflows."""
FARTHEST = 3.0
"""Standard deviations beyond which features count the same: a gate is not extrapolated."""


def standardize(
    features: NDArray[np.float64], means: Sequence[float], scales: Sequence[float]
) -> NDArray[np.float64]:
    """(n, FEATURES) features in standard deviations from their means."""
    deviations = (features - np.array(means)) / np.array(scales)
    return np.clip(deviations, -FARTHEST, FARTHEST)


@dataclass(frozen=True)
class Gate(JsonRecord):
    """A logistic regression on the first of the standardized FEATURES, as many as it has numbers.

    Raises UsageError unless it has one number per feature, of at most LIMIT, with scales of at
    least 1 / LIMIT."""

    means: tuple[float, ...]
    scales: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float

    def __post_init__(self) -> None:
        for name in ("means", "scales", "coefficients"):
            n_values = len(getattr(self, name))
            if not 0 < n_values <= len(FEATURES) or n_values != len(self.means):
                raise UsageError(
                    f"a gate of {len(self.means)} of the {len(FEATURES)} features has {n_values} "
                    f"{name}"
                )
        for value in (*self.means, *self.scales, *self.coefficients, self.intercept):
            if not abs(value) <= LIMIT:
                raise UsageError(f"a number of a gate is at most {LIMIT:g} in size, not {value}")
        if min(self.scales) < 1 / LIMIT:
            raise UsageError(f"a scale of a gate is at least {1 / LIMIT:g}: {min(self.scales)}")

    def weights(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) weights of the memory, from 0 to 1, for (n, FEATURES) requests."""
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
