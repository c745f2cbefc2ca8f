"""The selection of the best SIDs from scores."""

import numpy as np
import pytest

from sidtool.base.errors import DataError
from sidtool.recommendation.search.results import best_leaves


def test_the_best_leaves_are_ordered_by_score_then_by_leaf() -> None:
    leaves = np.array([7, 3, 5, 1])
    scores = np.array([-1.0, -2.0, -1.0, -3.0], dtype=np.float32)
    best = best_leaves(leaves, scores, 3)
    assert best.leaves.tolist() == [5, 7, 3]
    assert best.scores.tolist() == [-1.0, -1.0, -2.0]


def test_impossible_leaves_are_dropped() -> None:
    scores = np.array([-np.inf, -1.0], dtype=np.float32)
    assert best_leaves(np.array([0, 1]), scores, 2).leaves.tolist() == [1]


def test_scores_that_are_nan_are_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        best_leaves(np.array([0]), np.array([np.nan], dtype=np.float32), 1)
