"""The evaluation of lists as a value: means of every system, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.records import JsonRecord
from sidtool.evaluation.bootstrap import Difference, intervals, paired_differences

Values = NDArray[np.float64]
"""(n, metrics) of n examples; NaN where a metric is not defined for the list of an example"""


@dataclass(frozen=True)
class Mean(JsonRecord):
    """The mean of a metric over the n examples for whose lists it is defined, and its 95%
    interval."""

    mean: float
    low: float
    high: float
    n: int


Means = dict[str, Mean]
"""Metric -> mean; without a metric that is defined for no example."""


@dataclass(frozen=True, eq=False)
class ListEvaluation:
    """Lists of several systems for n examples, the model's first, as `evaluate-lists --json`
    prints it."""

    n: int
    length: int
    """The largest number of items in a list"""
    systems: dict[str, Means]
    """By system: the metrics of its lists"""
    differences: dict[str, dict[str, Difference]]
    """By how much the first system is better than each other one, over the examples for whose lists
    a metric is defined in both"""
    coverage: dict[str, float]
    """By system: share of the active items in the lists of any example"""
    counts: dict[str, int]
    settings: dict[str, Any]
    names: tuple[str, ...]
    values: Mapping[str, Values]
    """By system: every metric of every example"""

    def to_json(self) -> dict[str, Any]:
        """A JSON object of all but the values of single examples."""
        value = asdict(self)
        for name in ("names", "values"):
            del value[name]
        return value


def means(names: Sequence[str], values: Values, users: Sequence[str], *, seed: int) -> Means:
    """The mean of each metric by name, over the examples where it is defined."""
    result: Means = {}
    for columns, defined in _by_definition(values):
        chosen = [names[column] for column in columns]
        numbers = np.where(defined[:, None], values[:, columns], 0.0)
        weights = {"all": defined.astype(np.float64)}
        ends = intervals(chosen, numbers, users, weights, seed=seed)["all"]
        averages = numbers[defined].mean(axis=0).tolist()
        n = int(defined.sum())
        for name, average in zip(chosen, averages, strict=True):
            result[name] = Mean(average, *ends[name], n)
    return {name: result[name] for name in names if name in result}


def differences(
    names: Sequence[str], values: Values, others: Values, users: Sequence[str], *, seed: int
) -> dict[str, Difference]:
    """By how much one system is better than another, as `paired_differences`, over the examples
    where a metric is defined for both."""
    result: dict[str, Difference] = {}
    both = np.where(np.isfinite(others), values, np.nan)
    for columns, defined in _by_definition(both):
        chosen = [names[column] for column in columns]
        one, other = (
            np.where(defined[:, None], each[:, columns], 0.0) for each in (values, others)
        )
        weights = {"all": defined.astype(np.float64)}
        result |= paired_differences(chosen, one, other, users, weights, seed=seed)["all"]
    return {name: result[name] for name in names if name in result}


def _by_definition(values: Values) -> list[tuple[list[int], NDArray[np.bool_]]]:
    """The columns that are defined for the same examples, with a mask of these; those without an
    example are left out. A bootstrap of several metrics at once draws the users once."""
    groups: dict[bytes, tuple[list[int], NDArray[np.bool_]]] = {}
    defined = np.isfinite(values)
    for column in range(values.shape[1]):
        mask = defined[:, column]
        if mask.any():
            groups.setdefault(mask.tobytes(), ([], mask))[0].append(column)
    return list(groups.values())
