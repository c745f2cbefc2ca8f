"""Hit rate, NDCG and MRR of one target among ranked items, exact where items share a place.

Knows places and cut-offs; knows nothing of items, semantic IDs or models. Each question has one
right answer, so recall is the hit rate and the ideal DCG is 1. Items that share a semantic ID share
a place: their order is nobody's claim, so a metric is its expectation over a uniformly random order
among them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import UsageError

KS = (1, 3, 5, 10, 20, 50)
KINDS = ("hr", "ndcg", "mrr")


@dataclass(frozen=True)
class Places:
    """Where n targets stand. `before`: (n,) int64, the items ranked before the target's group;
    `group`: (n,) int64, the items that share its place, itself included, or 0 where the target was
    not ranked at all."""

    before: NDArray[np.int64]
    group: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.before)


def metric_names(ks: Sequence[int] = KS) -> tuple[str, ...]:
    """ "hr@1", "hr@3" ... "ndcg@1" ... "mrr@50". Raises UsageError unless the cut-offs are positive
    and ascending."""
    if not ks or min(ks) < 1 or list(ks) != sorted(set(ks)):
        raise UsageError(f"cut-offs are positive, ascending numbers, not {list(ks)}")
    return tuple(f"{kind}@{k}" for kind in KINDS for k in ks)


def metric_values(places: Places, ks: Sequence[int] = KS) -> NDArray[np.float64]:
    """(n, len(metric_names(ks))): the value of each metric for each target, in the order of
    `metric_names`.

    A group of G items after P others takes the ranks P+1 .. P+G in random order, so the expectation
    of a metric that gains g(r) at rank r <= K is the sum of g over those ranks up to K, divided by
    G. With g(r) = 1 that is the hit rate, min(max(K - P, 0), G) / G; with 1 / log2(r + 1) it is
    NDCG, with 1 / r MRR."""
    metric_names(ks)
    ranks = np.arange(1, max(ks) + 1)
    gains = {"hr": np.ones(len(ranks)), "ndcg": 1 / np.log2(ranks + 1), "mrr": 1 / ranks}
    size, ranked = np.maximum(places.group, 1), places.group > 0
    columns = []
    for kind in KINDS:
        gained = np.concatenate(
            [[0.0], np.cumsum(gains[kind])]
        )  # gained[r]: the gains of ranks 1 .. r together
        for k in ks:
            first, last = np.minimum(places.before, k), np.minimum(places.before + size, k)
            columns.append(np.where(ranked, (gained[last] - gained[first]) / size, 0.0))
    return np.stack(columns, axis=1)


def find_targets(
    ranked: NDArray[np.int64], targets: NDArray[np.int64], sizes: NDArray[np.int64] | None = None
) -> Places:
    """The places of (n,) targets in (n, k) ranked entries, best first; -1 is no entry, and as a
    target never found.

    `sizes`: (n, k), how many items each entry stands for (a semantic ID may stand for several); one
    each without it."""
    if ranked.shape[1] == 0:
        return Places(
            np.zeros(len(targets), dtype=np.int64), np.zeros(len(targets), dtype=np.int64)
        )
    sizes = (ranked >= 0).astype(np.int64) if sizes is None else sizes
    hits = (ranked == targets[:, None]) & (targets[:, None] >= 0)  # (n, k)
    at = hits.argmax(axis=1)[:, None]
    own = np.take_along_axis(sizes, at, axis=1)[:, 0]
    through = np.take_along_axis(sizes.cumsum(axis=1), at, axis=1)[:, 0]
    found = hits.any(axis=1)
    return Places(np.where(found, through - own, 0), np.where(found, own, 0))


def averages(names: Sequence[str], values: NDArray[np.float64]) -> dict[str, float]:
    """The mean of each column of (n, metrics) values, by name; 0 where there are no rows."""
    means = values.mean(axis=0) if len(values) else np.zeros(len(names))
    return dict(zip(names, means.tolist(), strict=True))


def check_names(names: Iterable[str], measured: Sequence[str]) -> None:
    """Raise UsageError for a name that is not among the measured metrics."""
    unknown = [name for name in names if name not in measured]
    if unknown:
        raise UsageError(
            f"{unknown[0]!r} is not measured", hint=f"measured are {', '.join(measured)}"
        )
