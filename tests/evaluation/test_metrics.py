"""Metrics against fractions computed by hand, and against every order of the items of a shared
SID."""

from fractions import Fraction
from itertools import permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import UsageError
from sidtool.evaluation.metrics import (
    TargetRanks,
    averages,
    check_names,
    find_targets,
    metric_names,
    metric_values,
)


def values_at(before: int, group: int, ks: tuple[int, ...]) -> dict[str, float]:
    ranks = TargetRanks(np.array([before]), np.array([group]))
    return averages(metric_names(ks), metric_values(ranks, ks))


# before, group, k -> hit rate and MRR, worked out on paper
BY_HAND = [
    (0, 1, 1, Fraction(1), Fraction(1)),
    (2, 1, 3, Fraction(1), Fraction(1, 3)),
    (3, 1, 3, Fraction(0), Fraction(0)),
    (0, 3, 1, Fraction(1, 3), Fraction(1, 3)),  # first of three with probability 1/3
    (1, 3, 3, Fraction(2, 3), Fraction(5, 18)),  # ranks 2, 3, 4: (1/2 + 1/3) / 3
    (4, 4, 5, Fraction(1, 4), Fraction(1, 20)),  # ranks 5 .. 8: 1/5 / 4
    (4, 4, 10, Fraction(1), Fraction(533, 3360)),  # (1/5 + 1/6 + 1/7 + 1/8) / 4
    (
        9,
        110,
        10,
        Fraction(1, 110),
        Fraction(1, 1100),
    ),  # the largest group of a published MiniOneRec index
    (10, 2, 10, Fraction(0), Fraction(0)),
]


@pytest.mark.parametrize(("before", "group", "k", "hr", "mrr"), BY_HAND)
def test_metrics_equal_values_computed_by_hand(
    before: int, group: int, k: int, hr: Fraction, mrr: Fraction
) -> None:
    assert hr == Fraction(
        min(max(k - before, 0), group), group
    )  # the published formula says the same
    result = values_at(before, group, (k,))
    assert result[f"hr@{k}"] == pytest.approx(float(hr), abs=1e-15)
    assert result[f"mrr@{k}"] == pytest.approx(float(mrr), abs=1e-15)


@given(before=st.integers(0, 6), group=st.integers(1, 5), k=st.integers(1, 9))
def test_a_shared_sid_gives_the_mean_over_every_order_of_its_items(
    before: int, group: int, k: int
) -> None:
    ranks = [before + order.index(0) + 1 for order in permutations(range(group))]
    hits = [rank for rank in ranks if rank <= k]
    result = values_at(before, group, (k,))
    assert result[f"hr@{k}"] == pytest.approx(len(hits) / len(ranks))
    assert result[f"mrr@{k}"] == pytest.approx(sum(1 / rank for rank in hits) / len(ranks))
    assert result[f"ndcg@{k}"] == pytest.approx(
        sum(1 / log2(rank + 1) for rank in hits) / len(ranks)
    )


def test_a_target_that_is_not_ranked_scores_zero() -> None:
    assert not metric_values(TargetRanks(np.array([0]), np.array([0]))).any()


@given(st.data())
def test_find_targets_counts_the_items_before(data: st.DataObject) -> None:
    width, n = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    rows = [data.draw(st.permutations(range(8)))[:width] for _ in range(n)]
    cut = [data.draw(st.integers(0, width)) for _ in range(n)]
    ranked = np.array(
        [row[:stop] + [-1] * (width - stop) for row, stop in zip(rows, cut, strict=True)]
    )
    sizes = np.array(data.draw(st.lists(st.integers(1, 4), min_size=8, max_size=8)))
    targets = np.array(data.draw(st.lists(st.integers(-1, 7), min_size=n, max_size=n)))
    ranks = find_targets(ranked, targets, np.where(ranked >= 0, sizes[ranked], 0))
    for row, stop, target, before, group in zip(
        rows, cut, targets, ranks.before, ranks.group_size, strict=True
    ):
        if target in row[:stop]:
            ahead = row[: row.index(target)]
            assert (before, group) == (sum(sizes[leaf] for leaf in ahead), sizes[target])
        else:
            assert group == 0


def test_an_empty_ranking_has_no_hit() -> None:
    assert find_targets(np.zeros((2, 0), dtype=np.int64), np.array([1, 2])).group_size.tolist() == [
        0,
        0,
    ]


def test_metric_names_are_parsed_and_unknown_ones_refused() -> None:
    assert metric_names((1, 10)) == ("hr@1", "hr@10", "ndcg@1", "ndcg@10", "mrr@1", "mrr@10")
    for wrong in ((), (0, 1), (5, 3), (5, 5)):
        with pytest.raises(UsageError, match="cut-offs"):
            metric_names(wrong)
    check_names(["hr@1"], metric_names())
    with pytest.raises(UsageError, match="'recall@10' is not a metric of this evaluation"):
        check_names(["hr@1", "recall@10"], metric_names())


def test_averages_of_nothing_are_zero() -> None:
    assert averages(("a", "b"), np.zeros((0, 2))) == {"a": 0.0, "b": 0.0}
