"""Means over the lists for which a metric is defined, and paired differences."""

import numpy as np
import pytest

from sidtool.evaluation.bootstrap import intervals, paired_differences
from sidtool.evaluation.lists.list_evaluation import differences, means

RNG = np.random.default_rng(4)
USERS = [f"u{n % 30}" for n in range(40)]
NAMES = ("recall", "tau", "length")


def with_gaps(share: float) -> np.ndarray:
    values = RNG.normal(size=(40, 3))
    values[RNG.random(40) < share, 1] = np.nan
    return values


def test_a_mean_is_over_the_examples_that_have_a_value() -> None:
    values = with_gaps(0.5)
    result = means(NAMES, values, USERS, seed=3)
    assert list(result) == list(NAMES)
    defined = np.isfinite(values[:, 1])
    assert result["tau"].n == defined.sum() < 40
    assert result["tau"].mean == pytest.approx(np.nanmean(values[:, 1]))
    ends = intervals(("tau",), values[defined, 1:2], np.array(USERS)[defined], seed=3)
    spread = ends["all"]["tau"][1] - ends["all"]["tau"][0]
    assert result["tau"].high - result["tau"].low == pytest.approx(spread, rel=0.2)
    whole = intervals(("recall", "length"), values[:, [0, 2]], USERS, seed=3)["all"]
    assert (result["recall"].low, result["recall"].high) == whole["recall"]


def test_a_metric_without_a_value_has_no_mean() -> None:
    values = with_gaps(1.0)
    assert set(means(NAMES, values, USERS, seed=0)) == {"recall", "length"}


def test_a_difference_is_over_the_examples_that_both_have() -> None:
    one, other = with_gaps(0.3), with_gaps(0.3)
    result = differences(NAMES, one, other, USERS, seed=1)
    both = np.isfinite(one[:, 1] - other[:, 1])
    assert result["tau"].mean == pytest.approx((one - other)[both, 1].mean())
    chosen = [0, 2]
    whole = paired_differences(
        ("recall", "length"), one[:, chosen], other[:, chosen], USERS, seed=1
    )["all"]
    assert result["recall"] == whole["recall"]
