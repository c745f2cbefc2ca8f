"""What each system achieved on each example, and its means over groups of examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sidtool.base.records import JsonRecord
from sidtool.evaluation.bootstrap import Difference, Groups, Interval, intervals, paired_differences
from sidtool.evaluation.metrics import averages, metric_names, metric_values, survival_names
from sidtool.evaluation.ranking import Ranking
from sidtool.tokenizer.sid import SidPositions

Metrics = dict[str, float]
"""Metric name -> mean."""


@dataclass(frozen=True, eq=False)
class SystemValues:
    """The metrics of one system on each of n examples, and its first recommendations."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    """(n, metrics), in the order of `names`"""
    first_items: SidPositions
    """(n, count): the first recommended items, by position in SID order; -1 where there are no
    more"""

    @classmethod
    def of(cls, ranking: Ranking, ks: Sequence[int]) -> Self:
        """The item-level metrics of a ranking, and the survival of prefixes in its beam."""
        names = (*metric_names(ks), *survival_names(ranking.survived.shape[1]))
        values = np.column_stack([metric_values(ranking.item_ranks, ks), ranking.survived])
        return cls(names, values, ranking.first_items)

    def columns(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(n, names): the values of these metrics."""
        return self.values[:, [self.names.index(name) for name in names]]


@dataclass(frozen=True)
class Averages(JsonRecord):
    """The means of one group of examples, of the model and of the systems beside it."""

    n: int
    """Number of examples; of the macro mean, number of target items."""
    metrics: Metrics
    confidence_interval: dict[str, Interval]
    """95% intervals of `metrics`."""
    baselines: dict[str, Metrics]
    differences: dict[str, dict[str, Difference]]
    """Of the model from each of the `baselines`."""
    baseline_intervals: dict[str, dict[str, Interval]] = field(default_factory=dict, kw_only=True)
    """95% intervals of the `baselines`."""


def group_averages(
    model: SystemValues,
    others: Mapping[str, SystemValues],
    users: Sequence[str],
    groups: Groups,
    *,
    seed: int,
) -> dict[str, Averages]:
    """The averages of each group, of a model and the systems that it is compared with.

    A difference covers the metrics that both systems have."""
    ends = intervals(model.names, model.values, users, groups, seed=seed)
    others_ends = {
        system: intervals(other.names, other.values, users, groups, seed=seed)
        for system, other in others.items()
    }
    differences = {
        system: system_differences(model, other, users, groups, seed=seed)
        for system, other in others.items()
    }
    return {
        group: Averages(
            n=round(weights.sum()),
            metrics=averages(model.names, model.values, weights),
            confidence_interval=ends[group],
            baselines={
                system: averages(other.names, other.values, weights)
                for system, other in others.items()
            },
            differences={system: by_group[group] for system, by_group in differences.items()},
            baseline_intervals={system: of[group] for system, of in others_ends.items()},
        )
        for group, weights in groups.items()
    }


def system_differences(
    one: SystemValues,
    other: SystemValues,
    users: Sequence[str],
    groups: Groups,
    *,
    seed: int,
) -> dict[str, dict[str, Difference]]:
    """Group -> metric -> by how much one system is better than another, for the metrics of both, as
    `paired_differences`."""
    names = [name for name in one.names if name in other.names]
    return paired_differences(
        names, one.columns(names), other.columns(names), users, groups, seed=seed
    )


def coverage(first_items: NDArray[np.int64], active_items: int) -> float:
    """Share of the active items that are recommended to anyone."""
    return len(np.unique(first_items[first_items >= 0])) / active_items


def effective_items(first_items: NDArray[np.int64]) -> float:
    """The exponential of the entropy of the recommended items: the number of items that, if all
    were recommended equally often, would have this entropy (Hill number of order 1); 0 without
    recommendations."""
    _, counts = np.unique(first_items[first_items >= 0], return_counts=True)
    if not len(counts):
        return 0.0
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
