"""Metrics against every order of the items of a shared SID, and values computed by hand."""

from itertools import permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import UsageError
from sidtool.evaluation import check_names
from sidtool.evaluation.metrics import (
    TargetRanks,
    averages,
    coverage,
    effective_items,
    find_targets,
    metric_names,
    metric_values,
)


@given(before=st.integers(0, 6), group=st.integers(1, 5), k=st.integers(1, 9))
def test_a_shared_sid_gives_the_mean_over_orders_of_items(before: int, group: int, k: int) -> None:
    ranks = [before + order.index(0) + 1 for order in permutations(range(group))]
    hits = [rank for rank in ranks if rank <= k]
    targets = TargetRanks(np.array([before]), np.array([group]))
    result = averages(metric_names((k,)), metric_values(targets, (k,)))
    assert result[f"hr@{k}"] == pytest.approx(len(hits) / len(ranks))
    assert result[f"mrr@{k}"] == pytest.approx(sum(1 / rank for rank in hits) / len(ranks))
    gains = sum(1 / log2(rank + 1) for rank in hits)
    assert result[f"ndcg@{k}"] == pytest.approx(gains / len(ranks))


@given(st.data())
def test_find_targets_counts_the_items_before(data: st.DataObject) -> None:
    width, n = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    rows = [data.draw(st.permutations(range(8)))[:width] for _ in range(n)]
    cut = [data.draw(st.integers(0, width)) for _ in range(n)]
    padded = (row[:stop] + [-1] * (width - stop) for row, stop in zip(rows, cut, strict=True))
    ranked = np.array([*padded])
    sizes = np.array(data.draw(st.lists(st.integers(1, 4), min_size=8, max_size=8)))
    targets = np.array(data.draw(st.lists(st.integers(-1, 7), min_size=n, max_size=n)))
    ranks = find_targets(ranked, targets, np.where(ranked >= 0, sizes[ranked], 0))
    columns = (rows, cut, targets, ranks.before, ranks.group_size)
    for row, stop, target, before, group in zip(*columns, strict=True):
        if target in row[:stop]:
            ahead = row[: row.index(target)]
            assert (before, group) == (sum(sizes[leaf] for leaf in ahead), sizes[target])
        else:
            assert group == 0


def test_an_empty_ranking_has_no_hit_and_averages_of_nothing_are_zero() -> None:
    ranks = find_targets(np.zeros((2, 0), dtype=np.int64), np.array([1, 2]))
    assert ranks.group_size.tolist() == [0, 0]
    assert not metric_values(ranks).any()
    assert averages(("a", "b"), np.zeros((0, 2))) == {"a": 0.0, "b": 0.0}


def test_metric_names_are_parsed_and_unknown_ones_refused() -> None:
    assert metric_names((1, 10)) == ("hr@1", "hr@10", "ndcg@1", "ndcg@10", "mrr@1", "mrr@10")
    for wrong in ((), (0, 1), (5, 3), (5, 5), ("5",), (1.5,), (None,)):
        with pytest.raises(UsageError, match="cut-offs"):
            metric_names(wrong)
    check_names(["hr@1"], metric_names())
    with pytest.raises(UsageError, match="'recall@10' is not a metric of this evaluation"):
        check_names(["hr@1", "recall@10"], metric_names())


def test_coverage_is_the_share_of_items_that_anyone_sees() -> None:
    assert coverage(np.array([[0, 1], [1, -1], [1, 2]]), 6) == 0.5
    assert coverage(np.full((2, 2), -1), 6) == 0


def test_effective_items_of_equal_and_unequal_shares() -> None:
    assert effective_items(np.array([[0, 1], [2, 3]])) == pytest.approx(4)
    assert effective_items(np.array([[7, 7], [7, -1]])) == pytest.approx(1)
    # shares 3/4 and 1/4: exp(3/4 log(4/3) + 1/4 log 4) = 4 / 3**(3/4)
    assert effective_items(np.array([[0, 0], [0, 1]])) == pytest.approx(4 / 3**0.75)
    assert effective_items(np.full((2, 2), -1)) == 0
