"""Baselines against slow direct computations, and against independently measured figures."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.data.interactions import read_interactions
from sidtool.data.split import UserSequence
from sidtool.data.split.protocols import SplitEvents
from sidtool.evaluation import baselines
from sidtool.evaluation.baselines import UNTUNED, by_popularity, item_knn, popularity
from sidtool.evaluation.metrics import find_targets, metric_names, metric_values
from sidtool.memory import KnnSettings, item_similarity
from tests.shared_data import DATA

BEAUTY = DATA / "beauty"
ITEMS = 9

Lists = list[list[int]]
sequence = st.lists(st.integers(0, ITEMS - 1), max_size=7)
weights = st.builds(
    KnnSettings,
    distance=st.sampled_from([1.0, 0.85, 0.5]),
    reverse=st.sampled_from([1.0, 0.4, 0.0]),
    normalization=st.sampled_from([0.5, 0.3, 0.0]),
    shrinkage=st.sampled_from([0.0, 3.0]),
    neighbors=st.sampled_from([None, 1, 3]),
    recency=st.sampled_from([1.0, 0.75]),
)


def arrays(sequences: Lists) -> list[np.ndarray]:
    return [np.array(items, dtype=np.int64) for items in sequences]


def slow_similarity(sequences: Lists, knn: KnnSettings) -> dict[int, dict[int, float]]:
    together: dict[int, dict[int, float]] = {item: {} for item in range(ITEMS)}
    for items in sequences:
        for i, one in enumerate(items):
            for j, other in enumerate(items):
                if one != other:
                    weight = knn.distance ** (abs(i - j) - 1)
                    if j < i:
                        weight *= knn.reverse
                    together[one][other] = together[one].get(other, 0) + weight
    events = [sum(items.count(item) for items in sequences) for item in range(ITEMS)]
    similar = {
        one: {
            other: w / ((events[one] * events[other]) ** knn.normalization + knn.shrinkage)
            for other, w in row.items()
            if w > 0
        }
        for one, row in together.items()
    }
    if knn.neighbors is None:
        return similar
    # compared as the code compares them: rounding must not decide who is near
    return {
        one: dict(
            sorted(row.items(), key=lambda pair: (-round(pair[1], 12), pair[0]))[: knn.neighbors]
        )
        for one, row in similar.items()
    }


@given(sequences=st.lists(sequence, max_size=6), how=weights)
@settings(max_examples=60, deadline=None)
def test_similarities_agree_with_loops(sequences: Lists, how: KnnSettings) -> None:
    result = item_similarity(arrays(sequences), ITEMS, how).to_scipy().toarray()
    slow = slow_similarity(sequences, how)
    if how.neighbors is None:
        expected = [[slow[one].get(other, 0.0) for other in range(ITEMS)] for one in range(ITEMS)]
        np.testing.assert_allclose(result, expected, rtol=1e-12)
    else:  # which of two equal neighbors stays may hang on rounding; how near they are may not
        for one in range(ITEMS):
            neighbor_scores = sorted(result[one][result[one] > 0])
            np.testing.assert_allclose(neighbor_scores, sorted(slow[one].values()), rtol=1e-9)


@given(
    sequences=st.lists(sequence, min_size=1, max_size=6),
    histories=st.lists(sequence, min_size=1, max_size=4),
    how=weights,
    k=st.integers(1, ITEMS + 2),
    exclude_seen=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_item_knn_ranks_by_score_then_popularity(
    sequences: Lists, histories: Lists, how: KnnSettings, k: int, exclude_seen: bool
) -> None:
    similar = item_similarity(arrays(sequences), ITEMS, how)
    result = item_knn(similar, arrays(histories), k, settings=how, exclude_seen=exclude_seen)
    dense = similar.to_scipy().toarray()
    for history, row in zip(histories, result.tolist(), strict=True):
        scores = np.zeros(ITEMS)
        for age, item in enumerate(reversed(history)):
            scores += how.recency**age * dense[item]
        allowed = [item for item in range(ITEMS) if not (exclude_seen and item in history)]
        given_items = [item for item in row if item >= 0]
        assert len(given_items) == len(set(given_items)) == min(k, len(allowed))
        assert set(given_items) <= set(allowed)
        # best first, and nothing better left out, up to float32
        assert (np.diff(scores[given_items]) <= 1e-6).all()
        left = [item for item in allowed if item not in given_items]
        assert not left or max(scores[left]) <= min(scores[given_items]) + 1e-6
        zeros = [item for item in given_items if scores[item] == 0]
        assert zeros == [item for item in allowed if scores[item] == 0][: len(zeros)]


def test_equal_scores_rank_by_popularity() -> None:
    sequences = arrays([[0, 4, 0, 3, 0, 2], [0, 5], [0, 1]])
    similar = item_similarity(sequences, 6, KnnSettings(distance=1.0))
    both = item_knn(similar, arrays([[0]]), 6, settings=KnnSettings(), exclude_seen=True)
    ties = similar.to_scipy().toarray()[0]
    expected = sorted(range(1, 6), key=lambda item: (-np.float32(ties[item]), item))
    assert both[0].tolist() == [*expected, -1]


@given(
    histories=st.lists(sequence, min_size=1, max_size=4),
    k=st.integers(1, 12),
    exclude_seen=st.booleans(),
)
def test_popularity_is_the_index_in_order(histories: Lists, k: int, exclude_seen: bool) -> None:
    result = popularity(arrays(histories), ITEMS, k, exclude_seen=exclude_seen)
    for history, row in zip(histories, result.tolist(), strict=True):
        expected = [item for item in range(ITEMS) if not (exclude_seen and item in history)][:k]
        assert row == expected + [-1] * (k - len(expected))


def test_items_are_ordered_by_popularity_then_id() -> None:
    users = [
        UserSequence(items, tuple(items), tuple(range(len(items)))) for items in ("cxa", "bc", "x")
    ]
    order, sequences = by_popularity(["d", "c", "b", "a"], users)
    assert order.tolist() == [1, 3, 2, 0]
    assert [items.tolist() for items in sequences] == [[0, 1], [2, 0], []]


def test_the_chunk_size_does_not_change_the_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sequences = arrays([rng.integers(0, 40, size=8).tolist() for _ in range(60)])
    similar = item_similarity(sequences, 40, UNTUNED)
    whole = item_knn(similar, sequences, 10, settings=UNTUNED, exclude_seen=True)
    monkeypatch.setattr(baselines, "CHUNK", 25)
    for threads in (1, 3):
        parts = item_knn(
            similar, sequences, 10, settings=UNTUNED, exclude_seen=True, threads=threads
        )
        assert (whole == parts).all()


@pytest.mark.skipif(not BEAUTY.exists(), reason="the Amazon Beauty benchmark is not at hand")
def test_the_figures_of_amazon_beauty_are_reproduced() -> None:
    """R@5, R@10, N@5, N@10 as measured by an independent script (histories: train and valid; seen
    items removed)."""
    split = SplitEvents(read_interactions(BEAUTY / "interactions.csv")).leave_one_out()
    with (BEAUTY / "items.jsonl").open(encoding="utf-8") as stream:
        ids = [json.loads(line)["item_id"] for line in stream]
    order, sequences = by_popularity(ids, split.train)
    ranks = {ids[place]: rank for rank, place in enumerate(order.tolist())}
    histories = arrays([[ranks[item] for item in example.history] for example in split.test])
    targets = np.array([ranks[example.item] for example in split.test])
    similar = item_similarity(sequences, len(ids), UNTUNED)
    wanted = [metric_names((5, 10)).index(name) for name in ("hr@5", "hr@10", "ndcg@5", "ndcg@10")]

    def measured(ranked: np.ndarray) -> list[float]:
        return metric_values(find_targets(ranked, targets), (5, 10)).mean(axis=0)[wanted].tolist()

    popular = popularity(histories, len(ids), 10, exclude_seen=True)
    near = item_knn(similar, histories, 10, settings=UNTUNED, exclude_seen=True)
    assert measured(popular) == pytest.approx([0.0075, 0.0115, 0.0041, 0.0055], abs=0.00015)
    assert measured(near) == pytest.approx([0.0540, 0.0739, 0.0386, 0.0449], abs=0.0003)
