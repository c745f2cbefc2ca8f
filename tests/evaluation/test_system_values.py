"""Coverage and the effective number of items against hand-computed values."""

import numpy as np
import pytest

from sidtool.evaluation.metrics import coverage, effective_items


def test_coverage_is_the_share_of_items_that_anyone_sees() -> None:
    assert coverage(np.array([[0, 1], [1, -1], [1, 2]]), 6) == 0.5
    assert coverage(np.full((2, 2), -1), 6) == 0


def test_effective_items_of_equal_and_unequal_shares() -> None:
    assert effective_items(np.array([[0, 1], [2, 3]])) == pytest.approx(4)
    assert effective_items(np.array([[7, 7], [7, -1]])) == pytest.approx(1)
    # shares 3/4 and 1/4: exp(3/4 log(4/3) + 1/4 log 4) = 4 / 3**(3/4)
    assert effective_items(np.array([[0, 0], [0, 1]])) == pytest.approx(4 / 3**0.75)
    assert effective_items(np.full((2, 2), -1)) == 0
