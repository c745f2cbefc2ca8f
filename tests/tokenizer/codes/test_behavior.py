"""What training events say about codes: each figure against counts by hand or a known value."""

from collections import Counter
from itertools import product
from math import log2

import numpy as np
import pytest

from sidtool.base.errors import DataError
from sidtool.data.split.values import UserSequence
from sidtool.tokenizer.codes.measure import (
    level_use,
    mutual_information,
    prefix_alignment,
    prefix_spread,
)
from sidtool.tokenizer.make.compare import Behavior


def events(*histories: str) -> list[UserSequence]:
    """One user per history, written as the letters of the items."""
    return [
        UserSequence(f"u{number}", tuple(items), tuple(range(len(items))))
        for number, items in enumerate(histories)
    ]


def test_mutual_information_equals_its_definition() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 5, size=(60, 2)).astype(np.uint16)
    steps = rng.integers(0, 60, size=(200, 2))
    figures, _ = mutual_information(codes, steps)
    for level in range(2):
        pairs = Counter((int(codes[a, level]), int(codes[b, level])) for a, b in steps)
        now, after = Counter(), Counter()
        for (a, b), count in pairs.items():
            now[a] += count
            after[b] += count
        expected = sum(n / 200 * log2(n * 200 / (now[a] * after[b])) for (a, b), n in pairs.items())
        assert figures[level] == pytest.approx(expected)


def test_mutual_information_is_complete_or_zero_in_the_extremes() -> None:
    rng = np.random.default_rng(2)
    codes = np.stack(
        [np.arange(64) % 8, rng.integers(0, 8, size=64), np.full(64, 65535)], axis=1
    ).astype(np.uint16)
    first = rng.integers(0, 64, size=20000)
    steps = np.stack([first, (first + 1 + 8 * rng.integers(0, 8, size=20000)) % 64], axis=1)
    figures, chance = mutual_information(codes, steps, seed=5)
    assert figures[0] == pytest.approx(
        level_use(codes[first, :1], (8,))[0].entropy
    )  # the next code is certain
    assert figures[2] == chance[2] == 0
    assert chance[0] < 0.01
    assert mutual_information(codes, steps, seed=5) == (figures, chance)


def test_steps_stay_within_a_user_and_the_catalog() -> None:
    assert Behavior.of(events("abc", "ca", "b", "axb"), ["a", "b", "c"]).steps.tolist() == [
        [0, 1],
        [1, 2],
        [2, 0],
    ]
    with_gap = UserSequence("u", ("a", "b", "c"), (0, 2, 3))  # an event between is held out
    assert Behavior.of([with_gap], ["a", "b", "c"]).steps.tolist() == [[1, 2]]
    with pytest.raises(DataError, match="no user has two consecutive training events"):
        Behavior.of(events("a", "b"), ["a", "b"])


def test_events_of_each_item_are_counted() -> None:
    behavior = Behavior.of(events("abxb", "ba"), ["b", "a", "d"])
    assert behavior.events.tolist() == [3, 2, 0]


def test_alignment_equals_its_definition() -> None:
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 3, size=(20, 2)).astype(np.uint16)
    steps = rng.integers(0, 20, size=(60, 2))
    found = prefix_alignment(codes, (3, 3), steps)
    steps = steps[steps[:, 0] != steps[:, 1]]
    for depth in (1, 2):
        same = [tuple(codes[a, :depth]) == tuple(codes[b, :depth]) for a, b in steps]
        assert found[0][depth - 1] == pytest.approx(np.mean(same))
        pairs = [(a, b) for a, b in product(steps[:, 0], steps[:, 1]) if a != b]
        same = [tuple(codes[a, :depth]) == tuple(codes[b, :depth]) for a, b in pairs]
        assert found[1][depth - 1] == pytest.approx(np.mean(same))


def test_alignment_is_one_within_a_prefix_and_chance_elsewhere() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.uint16)
    within = np.array([[0, 1], [1, 0], [2, 3], [3, 2]])
    assert prefix_alignment(codes, (2, 2), within) == ([1.0, 0.0], [pytest.approx(1 / 3), 0.0])
    assert prefix_alignment(codes, (2, 2), np.array([[1, 1]])) == ([None, None], [None, None])


def test_the_spread_of_head_and_tail() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 0], [1, 0]], dtype=np.uint16)
    # of 10 events the first two items have 8: the second one is needed for half of them
    assert prefix_spread(codes, (2, 2), np.array([4, 4, 1, 1, 0])) == ([1 / 2, 1.0], [1 / 3, 1 / 3])
    assert prefix_spread(codes[:1], (2, 2), np.array([3])) == ([1.0, 1.0], [None, None])
