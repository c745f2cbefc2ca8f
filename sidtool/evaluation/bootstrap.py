"""Confidence intervals by percentile bootstrap over users, for one system and for the difference of
two.

All examples of a user are drawn together, as they are not independent (B. Efron, 1979; users as
clusters)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
CHUNK = 1 << 21
"""Numbers drawn together."""


@dataclass(frozen=True)
class Difference:
    """The mean of one system less that of another, and its 95% interval."""

    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided: twice the share of resamples in which the difference lacks its sign."""


def intervals(
    values: NDArray[np.float64], users: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """(n, metrics) values of n examples and the user of each -> (metrics, 2): the 95% interval of
    each mean."""
    means = np.concatenate(list(_resampled_means(values, users, seed, resamples)))
    return np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T


def named_intervals(
    names: Sequence[str], values: NDArray[np.float64], users: Sequence[str], *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The interval of each column of (n, metrics) values, by name."""
    if not names:
        return {}
    ends = intervals(values, users, seed=seed).tolist()
    return {name: (low, high) for name, (low, high) in zip(names, ends, strict=True)}


def paired_differences(
    values: NDArray[np.float64],
    other_values: NDArray[np.float64],
    users: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Difference]:
    """Two systems' (n, metrics) values on the same examples -> one Difference per metric."""
    differences = values - other_values
    means = np.concatenate(list(_resampled_means(differences, users, seed, resamples)))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    n_not_positive = (means <= 0).sum(axis=0)
    n_not_negative = (means >= 0).sum(axis=0)
    # the sample itself counts as one more resample, so p is never 0
    opposite = np.minimum(n_not_positive, n_not_negative) + 1
    p_value = np.minimum(2 * opposite / (resamples + 1), 1.0)
    columns = zip(differences.mean(axis=0), low, high, p_value, strict=True)
    return [Difference(*map(float, column)) for column in columns]


def _resampled_means(
    values: NDArray[np.float64], users: Sequence[str], seed: int, resamples: int
) -> Iterator[NDArray[np.float64]]:
    """(<= resamples, metrics) means at a time, each over as many users as there are, drawn with
    replacement."""
    _, user_of = np.unique(np.asarray(users, dtype=np.str_), return_inverse=True)
    examples_per_user = np.bincount(user_of).astype(np.float64)  # (users,)
    n = len(examples_per_user)
    sums = np.zeros((n, values.shape[1]))  # (users, metrics)
    np.add.at(sums, user_of, values)
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK // n)
    for start in range(0, resamples, chunk):
        drawn = rng.integers(n, size=(min(chunk, resamples - start), n))
        counts = [np.bincount(row, minlength=n) for row in drawn]
        times_drawn = np.stack(counts).astype(np.float64)  # (chunk, users)
        # the mean over examples: a user with more examples weighs more
        yield (times_drawn @ sums) / (times_drawn @ examples_per_user)[:, None]
