"""A memory without the events of the requesting user equals one that is built without that user."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import CompatibilityError, DataError, IntegrityError
from sidtool.data.split.split import Split
from sidtool.data.split.values import UserSequence
from sidtool.memory import leave_out
from sidtool.memory.build import build_memory
from sidtool.memory.content import ItemContent
from sidtool.memory.distribution import ItemDistribution, MemoryIndex
from sidtool.memory.leave_out import LeaveOneOutMemory
from sidtool.memory.memory import Memory
from sidtool.memory.similarity import KnnSettings
from sidtool.tokenizer.bundle.bundle import Bundle
from tests.bundles import small_bundle
from tests.memory.cases import random_histories, small_memory, split_of

BUNDLE = small_bundle(12)
ITEMS = len(BUNDLE.items)
POWER = 1.5

history = st.lists(st.integers(0, ITEMS + 1).map("i{}".format), min_size=1, max_size=9)
"""Some of the items are not in the bundle."""
knn_settings = st.builds(
    KnnSettings,
    distance=st.sampled_from([1.0, 0.7]),
    reverse=st.sampled_from([1.0, 0.3, 0.0]),
    normalization=st.sampled_from([0.5, 0.3]),
    shrinkage=st.sampled_from([0.0, 3.0]),
    neighbors=st.sampled_from([None, 1, 3]),
    recency=st.sampled_from([1.0, 0.6]),
)


def rows_of(bundle: Bundle, items: tuple[str, ...]) -> np.ndarray:
    rows = bundle.items.rows(items)
    return rows[rows >= 0]


def prefixes(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[:stop] for stop in range(len(rows) + 1)]


def assert_same(actual: ItemDistribution, expected: ItemDistribution) -> None:
    assert actual.positions.tolist() == expected.positions.tolist()
    np.testing.assert_allclose(actual.log_probs, expected.log_probs, rtol=1e-12, atol=1e-12)


def without(split: Split, user: UserSequence) -> Split:
    return Split("leave-one-out", tuple(each for each in split.train if each != user), (), ())


@given(st.lists(history, min_size=1, max_size=7), knn_settings, st.booleans(), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_it_equals_counting_again_without_the_user(
    histories: list[list[str]], how: KnnSettings, has_content: bool, chunk: int
) -> None:
    split = split_of(histories)
    content = ItemContent.of(BUNDLE) if has_content else None
    try:
        memory = build_memory(split, BUNDLE, how, content=content)
    except DataError:
        return  # no two items co-occur
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leave_out, "CHUNK", chunk)
        left_out = LeaveOneOutMemory.of(memory, BUNDLE, split)
    for number, user in enumerate(split.train):
        rows = rows_of(BUNDLE, user.items)
        requests = [left_out.rows(number, prefix) for prefix in prefixes(rows)]
        assert all((request >= 0).all() for request in requests)
        actual = left_out.distributions(requests, POWER)
        try:
            recounted = build_memory(without(split, user), BUNDLE, how, content=content)
        except DataError:
            assert has_content or not any(map(len, actual))
            continue
        index = MemoryIndex.of(recounted, BUNDLE)
        expected = index.distributions(prefixes(rows), POWER)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)


def test_the_only_user_of_a_pair_is_told_nothing_by_it() -> None:
    split = split_of([["i0", "i1"], ["i2", "i3"], ["i2", "i3"]])
    memory = build_memory(split, BUNDLE)
    left_out = LeaveOneOutMemory.of(memory, BUNDLE, split)
    row_of = dict(zip(BUNDLE.items.ids, range(ITEMS), strict=True))
    for user, item, n_neighbors in ((0, "i0", 0), (1, "i2", 1), (2, "i2", 1)):
        rows = left_out.rows(user, np.array([row_of[item]]))
        (distribution,) = left_out.distributions([rows], 1.0)
        assert len(distribution) == n_neighbors
    assert len(MemoryIndex.of(memory, BUNDLE).distributions([np.array([row_of["i0"]])], 1.0)[0])


def test_items_that_are_not_the_users_have_no_row() -> None:
    split = split_of([["i0", "i1"], ["i1", "i2"]])
    left_out = LeaveOneOutMemory.of(build_memory(split, BUNDLE), BUNDLE, split)
    row_of = dict(zip(BUNDLE.items.ids, range(ITEMS), strict=True))
    items = np.array([row_of[item] for item in ("i0", "i1", "i2")])
    assert (left_out.rows(0, items) >= 0).tolist() == [True, True, False]
    assert (left_out.rows(1, items) >= 0).tolist() == [False, True, True]
    assert set(left_out.rows(0, items[:2])).isdisjoint(left_out.rows(1, items[1:]))


def test_another_split_or_bundle_is_refused() -> None:
    split = split_of(random_histories(0, 40, ITEMS))
    memory = small_memory(BUNDLE)
    LeaveOneOutMemory.of(memory, BUNDLE, split)
    with pytest.raises(CompatibilityError, match="the memory counts training events"):
        LeaveOneOutMemory.of(memory, BUNDLE, split_of(random_histories(1, 40, ITEMS)))
    with pytest.raises(CompatibilityError, match="no later version"):
        LeaveOneOutMemory.of(memory, small_bundle(12, seed=8), split)
    pairs = memory.pairs
    arrays = {**memory.arrays, "pairs/weight": pairs.weights // 2}
    with pytest.raises(IntegrityError, match="counts other pairs"):
        LeaveOneOutMemory.of(Memory(memory.manifest, arrays), BUNDLE, split)
