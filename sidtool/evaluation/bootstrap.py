"""Confidence intervals by percentile bootstrap over users, for one system and for the difference of
two.

All examples of a user are drawn together, as they are not independent (B. Efron, 1979; users as
clusters). A mean may be over a group of examples: a slice, or all with weights of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.base.records import JsonRecord

RESAMPLES = 1000
LEVEL = 0.95
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
CHUNK = 1 << 18
"""Numbers drawn together."""

Groups = Mapping[str, NDArray[np.float64]]
"""Name of a group -> (n,) float64: the weight of each of n examples in the group's mean, 0 for
those outside. At least one is above 0."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference(JsonRecord):
    """The mean of one system less that of another, and its 95% interval."""

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided: twice the share of resamples in which the difference lacks its sign."""


def everyone(n: int) -> dict[str, NDArray[np.float64]]:
    """The group "all" of n examples, each of weight 1."""
    return {"all": np.ones(n)}


def intervals(
    names: Sequence[str],
    values: NDArray[np.float64],
    users: Sequence[str],
    groups: Groups | None = None,
    *,
    seed: int = 0,
) -> dict[str, dict[str, Interval]]:
    """Group -> metric -> the 95% interval of its weighted mean.

    `values` is (n, metrics) float64: the metrics of n examples in the order of `names`; `users` has
    the user of each example. Without `groups` there is one, "all"."""
    from_zero = paired_differences(names, values, np.zeros_like(values), users, groups, seed=seed)
    return {
        group: {name: (mean.low, mean.high) for name, mean in group_means.items()}
        for group, group_means in from_zero.items()
    }


def paired_differences(
    names: Sequence[str],
    values: NDArray[np.float64],
    other_values: NDArray[np.float64],
    users: Sequence[str],
    groups: Groups | None = None,
    *,
    seed: int = 0,
) -> dict[str, dict[str, Difference]]:
    """Group -> metric -> by how much one system is better than another on the same examples.

    `values` and `other_values` are (n, metrics) float64 of the same n examples, in the order of
    `names`. A resample draws the same users for both, for every metric and for every group.
    Otherwise as `intervals`."""
    groups = groups or everyone(len(values))
    differences = values - other_values
    means = _resampled_means(differences, users, list(groups.values()), seed)
    quantile = np.nanquantile if np.isnan(means).any() else np.quantile  # the latter is faster
    low, high = quantile(means, ENDS, axis=0)  # (groups, metrics) each
    n_not_positive = (means <= 0).sum(axis=0)
    n_not_negative = (means >= 0).sum(axis=0)
    n_resamples = np.isfinite(means).sum(axis=0)
    # the sample itself counts as one more resample, so p is never 0
    opposite = np.minimum(n_not_positive, n_not_negative) + 1
    p_value = np.minimum(2 * opposite / (n_resamples + 1), 1.0)
    mean = np.stack([np.average(differences, axis=0, weights=group) for group in groups.values()])
    columns = np.stack([mean, low, high, p_value], axis=-1).tolist()  # (groups, metrics, 4)
    return {
        group: {name: Difference(*column) for name, column in zip(names, row, strict=True)}
        for group, row in zip(groups, columns, strict=True)
    }


def _resampled_means(
    values: NDArray[np.float64],
    users: Sequence[str],
    groups: Sequence[NDArray[np.float64]],
    seed: int,
) -> NDArray[np.float64]:
    """(RESAMPLES, groups, metrics) weighted means, each over as many users as there are, drawn with
    replacement; NaN where a resample has nobody of a group."""
    # an array of texts would take as much for every id as for the longest, and lose a last \0
    codes = {user: code for code, user in enumerate(sorted(set(users)))}
    user_indexes = np.array([codes[user] for user in users], dtype=np.int64)
    totals = []
    for weights in groups:
        example_rows = np.flatnonzero(weights)
        members, member_indexes = np.unique(user_indexes[example_rows], return_inverse=True)
        # (members, metrics + 1): weighted sums of each metric, and last of the weights
        member_sums = np.zeros((len(members), values.shape[1] + 1))
        with_ones = np.column_stack([values[example_rows], np.ones(len(example_rows))])
        np.add.at(member_sums, member_indexes, with_ones * weights[example_rows, None])
        totals.append((members, member_sums))
    n_users = int(user_indexes.max()) + 1
    rng = np.random.default_rng(seed)
    chunk = min(max(1, CHUNK // n_users), RESAMPLES)
    times_drawn = np.empty((chunk, n_users))
    means = []
    for start in range(0, RESAMPLES, chunk):
        drawn = rng.integers(n_users, size=(min(chunk, RESAMPLES - start), n_users))
        times_drawn = times_drawn[: len(drawn)]
        for row, users_of_row in enumerate(drawn):
            times_drawn[row] = np.bincount(users_of_row, minlength=n_users)
        sums = np.stack(
            [times_drawn[:, members] @ member_sums for members, member_sums in totals], axis=1
        )
        with np.errstate(invalid="ignore"):
            # the mean over examples: a user with more examples weighs more
            means.append(sums[..., :-1] / sums[..., -1:])
    return np.concatenate(means)
