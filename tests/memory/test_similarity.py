"""Similarity of items, and which are nearest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.memory.manifest import KnnSettings
from sidtool.memory.similarity import history_scores, item_similarity, largest

SEQUENCES = [np.array([0, 1, 2]), np.array([1, 0]), np.array([0, 1])]


def test_with_reverse_zero_only_later_items_are_similar() -> None:
    how = KnnSettings(distance=0.5, reverse=0.0, normalization=0.0)
    expected = [[0, 2, 0.5], [1, 0, 1], [0, 0, 0]]
    assert item_similarity(SEQUENCES, 3, how).to_scipy().toarray().tolist() == expected


def test_reverse_weighs_the_pairs_against_their_order() -> None:
    how = KnnSettings(distance=0.5, reverse=0.25, normalization=0.0)
    expected = [[0, 2.25, 0.5], [1.5, 0, 1], [0.125, 0.25, 0]]
    assert item_similarity(SEQUENCES, 3, how).to_scipy().toarray().tolist() == expected


def test_a_history_recommends_what_followed_its_items() -> None:
    how = KnnSettings(distance=1.0, reverse=0.0, normalization=0.0)
    similarity = item_similarity([np.array([0, 1])], 2, how)
    scores = history_scores(similarity, [np.array([0]), np.array([1])], 1.0).toarray()
    assert scores.tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("normalization", [0.0, 0.3, 0.5, 1.0])
def test_normalization_is_a_power_of_the_events(normalization: float) -> None:
    how = KnnSettings(distance=1.0, normalization=normalization, shrinkage=0.5)
    similarity = item_similarity(SEQUENCES, 3, how).to_scipy().toarray()
    assert similarity[0, 1] == pytest.approx(3 / (9**normalization + 0.5))
    assert similarity[2, 0] == pytest.approx(1 / (3**normalization + 0.5))


@given(values=st.lists(st.sampled_from([1.0, 2.0, 3.0]), max_size=12), count=st.integers(1, 12))
def test_of_equal_values_the_first_are_the_largest(values: list[float], count: int) -> None:
    array = np.array(values)
    order = np.lexsort((np.arange(len(array)), -array))[:count]
    indexes = np.arange(len(array))[largest(array, count)]
    assert indexes.tolist() == np.sort(order).tolist()
