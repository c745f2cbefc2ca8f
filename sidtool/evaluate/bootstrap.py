"""How sure a mean is: percentile bootstrap over users, for one system and for the difference of
two.

Knows values and whom they belong to; knows nothing of metrics. The user is the unit: the questions
of one user are drawn together, for they are no independent witnesses (B. Efron, 1979; users as
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
    """Mean of one system less that of another, the ends of its interval, and a two-sided p-value:
    twice the share of resamples in which the difference does not have its sign."""

    mean: float
    low: float
    high: float
    p: float


def intervals(
    values: NDArray[np.float64], users: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """(n, metrics) values of n questions and who asked each -> (metrics, 2): the 95% interval of
    each mean."""
    means = np.concatenate(list(_resampled(values, users, seed, resamples)))
    return np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T


def paired_differences(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    users: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Difference]:
    """Two systems' (n, metrics) values on the same questions -> one Difference a metric."""
    apart = ours - theirs
    means = np.concatenate(list(_resampled(apart, users, seed, resamples)))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    # the sample itself counts as one more resample, so p is never 0
    against = np.minimum((means <= 0).sum(axis=0), (means >= 0).sum(axis=0)) + 1
    p = np.minimum(2 * against / (resamples + 1), 1.0)
    return [
        Difference(*map(float, row)) for row in zip(apart.mean(axis=0), low, high, p, strict=True)
    ]


def _resampled(
    values: NDArray[np.float64], users: Sequence[str], seed: int, resamples: int
) -> Iterator[NDArray[np.float64]]:
    """(<= resamples, metrics) means at a time, each over as many users as there are, drawn with
    replacement."""
    _, whose = np.unique(np.asarray(users, dtype=np.str_), return_inverse=True)
    questions = np.bincount(whose).astype(np.float64)  # (users,)
    n = len(questions)
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, whose, values)
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK // n)
    for start in range(0, resamples, chunk):
        drawn = rng.integers(n, size=(min(chunk, resamples - start), n))
        times = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(
            np.float64
        )  # (chunk, users)
        yield (times @ sums) / (times @ questions)[:, None]
