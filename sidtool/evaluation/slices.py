"""Metrics by how often the target occurs in training: cold, rare and warm items."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.evaluation.metrics import averages
from sidtool.splits.split import Example, UserSequence

Metrics = dict[str, float]
"""Metric name -> mean."""

SLICES: Mapping[str, tuple[int, int | None]] = {
    "cold": (0, 0),
    "rare": (1, 5),
    "occasional": (6, 20),
    "frequent": (21, 99),
    "popular": (100, None),
    "warm": (1, None),
}
"""First and last number of training events of the target. Warm items are all that are not cold."""


@dataclass(frozen=True)
class Slice:
    """The metrics over the n examples whose target has so many training events."""

    events: tuple[int, int | None]
    n: int
    metrics: Metrics
    baselines: dict[str, Metrics]


def slice_metrics(
    names: Sequence[str],
    values: NDArray[np.float64],
    baseline_values: Mapping[str, NDArray[np.float64]],
    examples: Sequence[Example],
    events: Sequence[UserSequence],
) -> dict[str, Slice]:
    """Each slice of (n, metrics) values; none without training events."""
    if not events:
        return {}
    counts = Counter(item for user in events for item in user.items)
    target_events = np.array([counts[example.item] for example in examples])
    slices = {}
    for name, (first, last) in SLICES.items():
        inside = target_events >= first
        if last is not None:
            inside &= target_events <= last
        baselines = {
            system: averages(names, system_values[inside])
            for system, system_values in baseline_values.items()
        }
        slices[name] = Slice(
            events=(first, last),
            n=int(inside.sum()),
            metrics=averages(names, values[inside]),
            baselines=baselines,
        )
    return slices
