"""A sharded build gives the memory of a build in memory, byte for byte."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Texts
from sidtool.data.split.pairs import cooccurrence, count_blocks
from sidtool.memory import ItemContent, KnnSettings, SplitPairs, build_memory, verify_memory
from sidtool.memory.rows import ITEM, Shards
from sidtool.memory.similarity import BLOCK_ENTRY, GROUP_ENTRY
from tests.bundles import small_bundle
from tests.cli.road import done, refused
from tests.memory.cases import random_histories, split_of

BUNDLE = small_bundle()
ITEMS = len(BUNDLE.items)


def budget_for(pairs: int) -> int:
    """Bytes for so many pairs of a block of items; a group of users has about as many."""
    return ITEM * ITEMS + BLOCK_ENTRY * pairs


@settings(max_examples=8, deadline=None)
@given(
    users=st.integers(1, 12),
    longest=st.sampled_from([2, 9, 70]),
    pairs=st.sampled_from([1, 7, 100, 100_000]),
    neighbors=st.sampled_from([None, 3]),
    with_content=st.booleans(),
    threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 100),
)
def test_a_sharded_build_equals_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    users: int,
    longest: int,
    pairs: int,
    neighbors: int | None,
    with_content: bool,
    threads: int,
    seed: int,
) -> None:
    # two users whose items surely co-occur
    histories = [["i1", "i2"], *random_histories(seed, users, ITEMS, longest + 1), ["i2", "i3"]]
    knn = KnnSettings(shrinkage=0.5, neighbors=neighbors)
    content = ItemContent.of(BUNDLE) if with_content else None
    folder = tmp_path_factory.mktemp("shards")
    shards = Shards(folder, budget_for(threads * pairs))
    build = partial(build_memory, split_of(histories), BUNDLE, knn, content=content)
    expected = build(threads=1)
    actual = build(shards=shards, threads=threads)
    assert actual.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert actual.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(actual.arrays[name], array)
    assert actual.digest == expected.digest
    # the groups of events whose pairs are counted apart
    limit = shards.entries(ITEMS, GROUP_ENTRY, threads)
    sequences = [BUNDLE.items.rows(items) for items in histories]
    groups = len(list(count_blocks(sequences, ITEMS, knn.distance, limit=limit)))
    assert groups > 1 or pairs > 1
    assert groups == 1 or pairs < 100_000


def test_a_weight_that_overflows_over_groups_of_users_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cooccurrence, "UNIT", 2.0**-60)  # an adjacent pair counts 2 ** 60
    shards = Shards(tmp_path, budget_for(1))
    seven, eight = (split_of([["i1", "i2"]] * users) for users in (7, 8))
    assert build_memory(seven, BUNDLE, shards=shards).pairs.weights.tolist() == [7 * 2**60]
    with pytest.raises(DataError, match="two items co-occur too often"):
        build_memory(eight, BUNDLE, shards=shards)


def test_counts_of_another_distance_do_not_change_the_first(tmp_path: Path) -> None:
    split = split_of(random_histories(0, 40, ITEMS))
    ids = Texts(list(BUNDLE.items.ids))
    counters = (SplitPairs(split), SplitPairs(split, Shards(tmp_path, budget_for(50))))
    for distance in (0.85, 0.5, 0.85):
        knn = KnnSettings(distance=distance)
        counts = ((counter, counter.count(ids, distance)) for counter in counters)
        expected, actual = (counter.similar(count, knn, None) for counter, count in counts)
        for one, other in zip(expected, actual, strict=True):
            np.testing.assert_array_equal(one.weights, other.weights)


def test_a_saved_memory_needs_its_files_no_more(tmp_path: Path) -> None:
    split = split_of(random_histories(0, 40, ITEMS))
    with Shards.beside(tmp_path / "memory.zarr", budget_for(50)) as shards:
        build_memory(split, BUNDLE, shards=shards).save(tmp_path / "memory.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["memory.zarr"]
    assert verify_memory(tmp_path / "memory.zarr") == []


def test_what_cannot_be_built_within_the_budget_is_refused(tmp_path: Path) -> None:
    split = split_of(random_histories(0, 40, ITEMS))
    with pytest.raises(UsageError, match=f"a memory of {ITEMS} items needs more than 100 bytes"):
        build_memory(split, BUNDLE, shards=Shards(tmp_path, 100))
    with pytest.raises(DataError, match="no two of the 40 items co-occur"):
        build_memory(split_of([["i1"], ["i2"]]), BUNDLE, shards=Shards(tmp_path, 1 << 30))
    with pytest.raises(DataError, match="cannot be written: No such file"):
        build_memory(split, BUNDLE, shards=Shards(tmp_path / "missing", 1 << 30))


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    split = split_of(random_histories(0, 40, ITEMS))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sidtool.memory.rows._append", full)
    with (
        pytest.raises(DataError, match="No space left on device"),
        Shards.beside(tmp_path / "memory.zarr", budget_for(50)) as shards,
    ):
        build_memory(split, BUNDLE, shards=shards).save(tmp_path / "memory.zarr")
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_a_budget(tmp_path: Path) -> None:
    lines = ["user_id,item_id,timestamp"]
    for user, items in enumerate(random_histories(0, 40, ITEMS)):
        lines += [f"u{user},{item},{time}" for time, item in enumerate(items)]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    BUNDLE.save(tmp_path / "bundle.zarr")
    inputs = ("build-memory", tmp_path / "events.csv", tmp_path / "bundle.zarr")
    plain = done(*inputs, "-o", tmp_path / "plain.zarr", "--json").json
    out = tmp_path / "sharded.zarr"
    sharded = done(*inputs, "-o", out, "--memory-limit", "20kB", "--json").json
    assert sharded["digest"] == plain["digest"]
    assert "20 bytes" in refused(2, *inputs, "-o", tmp_path / "out.zarr", "--memory-limit", "20")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"events.csv", "bundle.zarr", "plain.zarr", "sharded.zarr"}
