"""A memory has the similarities of item-kNN."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import CompatibilityError, DataError, RefusedError, UsageError
from sidtool.data.items import make_items
from sidtool.data.split import Example, Split
from sidtool.data.split.pairs import cooccurrence
from sidtool.evaluation.tuning.memory_tuning import tune_similarity
from sidtool.memory import similarity
from sidtool.memory.build import build_memory, rebuild_memory
from sidtool.memory.content import ItemContent
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.similarity import item_similarity, largest
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.make.add import add_items
from tests.bundles import small_bundle
from tests.memory.cases import random_histories, small_memory, split_of

BUNDLE = small_bundle()
ITEMS = len(BUNDLE.items)


def grown(bundle: Bundle) -> Bundle:
    """The bundle with four more items, which changes the rows of the earlier ones."""
    ids = tuple(f"i{number}" for number in range(ITEMS, ITEMS + 4))
    vectors = np.random.default_rng(9).normal(size=(4, 8)).astype(np.float32)
    return add_items(bundle, make_items(ids, ids, ids, fields={}, template="{title}"), vectors)


def test_neighbors_are_those_of_item_knn() -> None:
    knn = KnnSettings(distance=0.7, shrinkage=2.0, neighbors=3, reverse=0.3, normalization=0.2)
    histories = random_histories(1, 60, ITEMS)
    memory = build_memory(split_of(histories), BUNDLE, knn)
    sequences = [BUNDLE.items.rows(items) for items in histories]
    expected = item_similarity(sequences, ITEMS, knn).to_scipy().toarray()
    actual = memory.neighbors.to_scipy().toarray()
    np.testing.assert_array_equal(actual, expected.astype(np.float32))
    assert (np.diff(memory.neighbors.offsets) <= 3).all()
    counts = np.bincount(np.concatenate(sequences), minlength=ITEMS)
    assert memory.events.tolist() == counts.tolist()


def test_ids_of_a_large_bundle_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("item_map", "contents"):
        monkeypatch.setattr(f"sidtool.tokenizer.bundle.{name}.LARGE", 1)
    BUNDLE.save(tmp_path / "shop.zarr")
    split = split_of(random_histories(1, 60, ITEMS))
    opened = Bundle.open(tmp_path / "shop.zarr")
    assert build_memory(split, opened).digest == build_memory(split, BUNDLE).digest


def test_the_order_of_users_changes_nothing() -> None:
    histories = random_histories(2, 50, ITEMS)
    train = split_of(histories).train
    one = build_memory(Split("leave-one-out", train, (), ()), BUNDLE)
    other = build_memory(Split("leave-one-out", train[::-1], (), ()), BUNDLE)
    assert one.digest == other.digest


def test_a_whole_number_is_stored_as_the_command_line_reads_it() -> None:
    split = split_of(random_histories(2, 50, ITEMS))
    whole, decimal = (
        build_memory(split, BUNDLE, distance=one, content=ItemContent.of(BUNDLE, weight=one))
        for one in (1, 1.0)
    )
    assert whole.digest == decimal.digest


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    split = split_of(random_histories(3, 60, ITEMS, 30))
    content = ItemContent.of(BUNDLE)
    expected = build_memory(split, BUNDLE, content=content, threads=1)
    monkeypatch.setattr(similarity, "BLOCK_PAIRS", 1)  # as many as items have offsets
    monkeypatch.setattr(similarity, "BLOCK_ENTRIES", 50)
    monkeypatch.setattr(cooccurrence, "BLOCK_EVENTS", 100)
    memory = build_memory(split, BUNDLE, content=content, threads=threads)
    assert memory.digest == expected.digest


def test_the_digest_covers_what_a_memory_was_made_from() -> None:
    one = small_memory()
    assert small_memory(seed=1).digest != one.digest
    assert small_memory(settings=KnnSettings(recency=0.5)).digest != one.digest
    assert small_memory(small_bundle(seed=1)).digest != one.digest


def test_settings_that_were_chosen_on_users_who_may_be_held_out_are_refused() -> None:
    """The validation events of a split may be test events of one that does not extend it."""
    first, other = (split_of(random_histories(seed, 40, ITEMS)) for seed in (0, 1))
    later = replace(other, origin=replace(other.origin, extends=(first.reference.digest,)))
    for tuned_on in (None, 10):
        earlier = build_memory(first, BUNDLE, tuned_on=tuned_on)
        assert build_memory(later, BUNDLE, earlier=earlier).manifest.tuned_on == tuned_on
        build_memory(other, BUNDLE, KnnSettings(recency=0.5), earlier=earlier)
        assert rebuild_memory(earlier, later, BUNDLE).manifest.tuned_on == tuned_on
        for settings in ({}, {"neighbors": 5}):  # the others are still those that were chosen
            if tuned_on is None:
                build_memory(other, BUNDLE, earlier=earlier, **settings)
                continue
            with pytest.raises(CompatibilityError, match="the tuned earlier memory was made from"):
                rebuild_memory(earlier, other, BUNDLE)
            with pytest.raises(CompatibilityError, match="the tuned earlier memory was made from"):
                build_memory(other, BUNDLE, earlier=earlier, **settings)


def test_held_out_events_among_the_training_events_are_refused() -> None:
    split = split_of([["i1", "i2", "i3"]], [Example("u0", ("i1", "i2"), "i3", 2)])
    with pytest.raises(RefusedError, match="1 held-out event"):
        build_memory(split, BUNDLE)


def test_items_that_never_co_occur_are_refused() -> None:
    with pytest.raises(DataError, match=r"no two of the 40 items co-occur"):
        build_memory(split_of([["i1"], ["x", "y"]]), BUNDLE)


def test_of_equal_neighbors_the_first_items_stay() -> None:
    histories = [["i0", f"i{number}"] for number in range(9, 1, -1)]
    memory = build_memory(split_of(histories), BUNDLE, KnnSettings(neighbors=3))
    similar = memory.neighbors.to_scipy()[BUNDLE.items.rows(["i0"])[0]]
    expected = np.sort(BUNDLE.items.rows([item for _, item in histories]))[:3]
    assert sorted(similar.indices.tolist()) == expected.tolist()


def test_settings_are_given_in_one_way() -> None:
    split = split_of(random_histories(0, 20, ITEMS))
    with pytest.raises(UsageError, match="the keyword recency are both given"):
        build_memory(split, BUNDLE, KnnSettings(), recency=0.5)


NAN, INFINITY = float("nan"), float("inf")
OUT_OF_RANGE = {
    "distance": (0.0, 1.5, NAN),
    "recency": (-1.0, INFINITY),
    "reverse": (-0.1, 1.1),
    "normalization": (-0.1, NAN),
    "shrinkage": (-0.1, NAN, INFINITY),
    "neighbors": (0,),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_settings_out_of_range_are_refused(name: str) -> None:
    for value in OUT_OF_RANGE[name]:
        with pytest.raises(UsageError, match=name):
            replace(KnnSettings(), **{name: value})


def test_a_later_version_of_the_bundle_is_accepted_and_another_bundle_is_not() -> None:
    memory = small_memory(BUNDLE)
    memory.check_bundle(BUNDLE)
    memory.check_bundle(GROWN)
    for other in (small_bundle(seed=1), small_bundle(items=41)):
        with pytest.raises(CompatibilityError, match="no later version of it"):
            memory.check_bundle(other)
    with pytest.raises(CompatibilityError, match="no later version of it") as refusal:
        small_memory(GROWN).check_bundle(BUNDLE)
    # a memory of this bundle would lack the new items
    assert str(refusal.value.hint).startswith("use the memory's bundle")


GROWN = grown(BUNDLE)


def test_a_codebook_of_another_split_is_refused() -> None:
    split = split_of(random_histories(0, 20, ITEMS))
    manifest = replace(BUNDLE.manifest, source={"split": split.reference.to_json()})
    bundle = Bundle(manifest, BUNDLE.arrays)
    build_memory(split, bundle)
    histories = random_histories(5, 20, ITEMS)
    valid = (Example("u0", tuple(histories[0]), "i1", len(histories[0])),)
    held_out = split_of(histories, valid)
    with pytest.raises(CompatibilityError, match="the codebook of bundle"):
        build_memory(held_out, bundle)
    with pytest.raises(CompatibilityError, match="the codebook of bundle"):
        tune_similarity(held_out, bundle)


def test_vectors_that_a_memory_does_not_compare_are_refused() -> None:
    bundle = small_bundle()
    memory = small_memory(bundle)
    split = split_of(random_histories(0, 40, len(bundle.items)))
    vectors = np.random.default_rng(0).normal(size=(len(bundle.items), 4)).astype(np.float32)
    with pytest.raises(UsageError, match="compares no vectors"):
        rebuild_memory(memory, split, bundle, vectors)
    assert rebuild_memory(memory, split, bundle).digest == memory.digest


@given(values=st.lists(st.sampled_from([1.0, 2.0, 3.0]), max_size=12), count=st.integers(1, 12))
def test_of_equal_values_the_first_are_the_largest(values: list[float], count: int) -> None:
    array = np.array(values)
    order = np.lexsort((np.arange(len(array)), -array))[:count]
    assert np.arange(len(array))[largest(array, count)].tolist() == np.sort(order).tolist()
