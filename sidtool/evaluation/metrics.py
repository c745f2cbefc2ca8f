"""Hit rate, NDCG and MRR of one target among ranked items, exact where items share a rank.

Each example has one correct item, so recall equals the hit rate and the ideal DCG is 1. Items that
share a semantic ID share a rank: nothing orders them, so a metric is its expectation over a
uniformly random order. A metric is a row of evaluate's table, whose columns are in
cli/evaluation_tables.py."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import ThresholdError, UsageError
from sidtool.tokenizer.sid import Index

COVERED = 10
"""First recommendations of an example that coverage counts."""


KS = (1, 3, 5, 10, 20, 50)
KINDS = ("hr", "ndcg", "mrr")
LIST_METRICS = ("list_recall", "list_reward")
"""Metrics of lists in validation: the share of the held-out session that a list has, and its
reward."""
LABEL_METRICS = ("accuracy", "log_loss")
"""Metrics of each answer that is a label."""
TEXT_METRICS = ("exact_match", "token_f1")
"""Metrics of each answer that is a text."""


@dataclass(frozen=True)
class TargetRanks:
    """The ranks of n targets."""

    before: NDArray[np.int64]
    """(n,): items ranked before the target's group."""
    group_size: NDArray[np.int64]
    """(n,): items that share the target's rank, itself included; 0 where it was not ranked."""


class AnswerMetrics(NamedTuple):
    """The metrics of a model's answers to n questions."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    """(n, metrics), in the order of `names`"""
    overall: Mapping[str, float] = {}
    """metrics that no single question has"""
    chance: Mapping[str, float] = {}
    """what some of them are without a look at the questions"""


def metric_names(ks: Sequence[int] = KS) -> tuple[str, ...]:
    """ "hr@1", "hr@3" ... "ndcg@1" ... "mrr@50". Raises UsageError unless the cut-offs are whole,
    positive and ascending."""
    if {*map(type, ks)} != {int} or min(ks) < 1 or list(ks) != sorted(set(ks)):
        raise UsageError(f"cut-offs must be positive, ascending whole numbers, not {list(ks)}")
    return tuple(f"{kind}@{k}" for kind in KINDS for k in ks)


def survival_names(levels: int) -> tuple[str, ...]:
    """ "survival@1" ...: whether the prefix of the target's SID is in the beam after each level."""
    return tuple(f"survival@{level}" for level in range(1, levels + 1))


def model_metric_names(levels: int) -> tuple[str, ...]:
    """All metrics of a model with SIDs of so many levels, at the default cut-offs."""
    return (*metric_names(), *survival_names(levels))


def metric_values(ranks: TargetRanks, ks: Sequence[int] = KS) -> NDArray[np.float64]:
    """(n, len(metric_names(ks))): the value of each metric for each target, in the order of
    `metric_names`.

    A group of G items after P others takes the ranks P+1 .. P+G in random order, so the expectation
    of a metric that gains g(r) at rank r <= K is the sum of g over those ranks up to K, divided by
    G. With g(r) = 1 that is the hit rate, min(max(K - P, 0), G) / G; with 1 / log2(r + 1) it is
    NDCG, with 1 / r MRR."""
    metric_names(ks)
    positions = np.arange(1, max(ks) + 1)
    gains = {
        "hr": np.ones(len(positions)),
        "ndcg": 1 / np.log2(positions + 1),
        "mrr": 1 / positions,
    }
    is_ranked = ranks.group_size > 0
    size = np.maximum(ranks.group_size, 1)
    columns = []
    for kind in KINDS:
        # cumulative[r]: the gains of ranks 1 .. r
        cumulative = np.concatenate([[0.0], np.cumsum(gains[kind])])
        for k in ks:
            first = np.minimum(ranks.before, k)
            last = np.minimum(ranks.before + size, k)
            expectation = (cumulative[last] - cumulative[first]) / size
            columns.append(np.where(is_ranked, expectation, 0.0))
    return np.stack(columns, axis=1)


def find_targets(
    ranked: Index, targets: Index, sizes: NDArray[np.int64] | None = None
) -> TargetRanks:
    """The ranks of (n,) targets in (n, k) ranked entries, best first, both in one of the index
    spaces. An entry of -1 is empty, a target of -1 is never ranked.

    `sizes`: (n, k), the number of items behind each entry (a semantic ID may have several); one
    each if it is not given."""
    if ranked.shape[1] == 0:
        unranked = np.zeros(len(targets), dtype=np.int64)
        return TargetRanks(unranked, unranked)
    if sizes is None:
        sizes = (ranked >= 0).astype(np.int64)
    hits = (ranked == targets[:, None]) & (targets[:, None] >= 0)  # (n, k)
    is_ranked = hits.any(axis=1)
    entry = hits.argmax(axis=1)[:, None]
    group_size = np.take_along_axis(sizes, entry, axis=1)[:, 0]
    through_group = np.take_along_axis(sizes.cumsum(axis=1), entry, axis=1)[:, 0]
    before = np.where(is_ranked, through_group - group_size, 0)
    return TargetRanks(before, np.where(is_ranked, group_size, 0))


def averages(
    names: Sequence[str], values: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> dict[str, float]:
    """The mean of each column of (n, metrics) values by name, weighted by (n,) `weights` if they
    are given; 0 where there are no rows."""
    if weights is None:
        weights = np.ones(len(values))
    means = np.average(values, axis=0, weights=weights) if len(values) else np.zeros(len(names))
    return dict(zip(names, means.tolist(), strict=True))


def check_names(names: Iterable[str], measured: Sequence[str]) -> None:
    """Raise UsageError for a name that is not among the measured metrics."""
    for name in names:
        if name not in measured:
            raise UsageError(
                f"{name!r} is not a metric of this evaluation",
                hint=f"its metrics are {', '.join(measured)}",
            )


def check_thresholds(metrics: Mapping[str, float], thresholds: Mapping[str, float]) -> None:
    """Raise ThresholdError if a metric is below its threshold, UsageError for one that was not
    measured."""
    check_names(thresholds, tuple(metrics))
    for name, threshold in thresholds.items():
        value = metrics[name]
        if not value >= threshold:
            raise ThresholdError(f"{name} is {value:.4f}, below the threshold {threshold:g}")


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


Metrics = dict[str, float]
"""Metric name -> mean."""
