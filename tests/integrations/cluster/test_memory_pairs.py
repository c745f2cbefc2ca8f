"""Pairs that several processes count, by parts of the users and blocks of the items, make the
memory of one process."""

import tracemalloc
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.cli import memory as memory_commands
from sidtool.data import Texts
from sidtool.data.split import open_split, read_split
from sidtool.evaluation.tuning import TuneSimilarityOptions, tune_similarity
from sidtool.integrations.cluster import (
    ClusterPairs,
    PartOptions,
    RunOptions,
    memory_pairs,
    split_in_parts,
)
from sidtool.memory import DEFAULT, Cells, ItemContent, Memory, build_memory, content
from sidtool.memory.content import nearest_items
from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.quantize import Codebook, QuantizerParams, unit
from sidtool.tokenizer.sid import SidSpace
from tests.cli.road import done, refused
from tests.data.split.test_user_parts import write_events
from tests.integrations.cluster.jobs import failing_at_the_third
from tests.pairs import all_pairs

LOCAL = RunOptions()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split in parts, the same one in files of all users, and a bundle with some other items."""
    folder = tmp_path_factory.mktemp("shop")
    events = write_events(folder / "events")
    split_in_parts(str(events), folder / "split", run=PartOptions(parts=5))
    shop_of([f"{item:04d}" for item in range(3, 36)]).save(folder / "shop.zarr")
    return folder


def shop_of(ids: list[str]) -> Bundle:
    """A bundle of items."""
    codes = np.array([(number // 8, number % 8) for number in range(len(ids))], dtype=np.uint16)
    levels = tuple(np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32))
    codebook = Codebook("rq-kmeans", levels, {}, QuantizerParams(fit={"seed": 0}))
    return Bundle.of(ItemMap.of(SidSpace((8, 8)), ids, codes), codebook, "allow", name="shop")


def count(
    shop: Path, out: Path, options: RunOptions = LOCAL, split: str = "split", **build_options: Any
) -> Memory:
    """The memory that workers count, saved and opened again."""
    bundle = Bundle.open(shop / "shop.zarr")
    place = str(shop / "shop.zarr")
    with ClusterPairs.opened(shop / split, place, out, options) as counter:
        build_memory(counter.manifest, bundle, counter=counter, **build_options).save(out)
    return Memory.open(out)


def same(one: Memory, other: Memory) -> bool:
    """Whether two memories are equal to the last bit, also in what they were made from."""
    names = one.arrays.keys()
    return one.digest == other.digest and all(
        np.array_equal(one.arrays[name], other.arrays[name])
        and one.arrays[name].dtype == other.arrays[name].dtype
        for name in names | other.arrays.keys()
    )


@pytest.mark.parametrize(
    ("block_pairs", "read_pairs", "with_content"),
    all_pairs([1, 200, memory_pairs.BLOCK_PAIRS], [7, memory_pairs.READ_PAIRS], [False, True]),
)
def test_the_memory_is_that_of_one_process(
    shop: Path,
    tmp_path: Path,
    block_pairs: int,
    read_pairs: int,
    with_content: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_pairs, "BLOCK_PAIRS", block_pairs)
    monkeypatch.setattr(memory_pairs, "READ_PAIRS", read_pairs)
    bundle = Bundle.open(shop / "shop.zarr")
    settings = replace(DEFAULT, neighbors=5, shrinkage=2.0)
    by_content = ItemContent.of(bundle, weight=0.5) if with_content else None
    one = build_memory(open_split(shop / "split"), bundle, settings, content=by_content)
    (tmp_path / "m.zarr.pairs").touch()  # somebody's; the work is in m.zarr.pairs.partial
    counted = count(shop, tmp_path / "m.zarr", settings=settings, content=by_content)
    assert same(one, counted)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["m.zarr"]


@pytest.mark.parametrize("most_compared", [0, 50_000])
def test_content_is_compared_as_in_one_process(
    shop: Path, tmp_path: Path, most_compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "MOST_COMPARED", most_compared)
    monkeypatch.setattr(content, "BLOCK_VALUES", 64)
    monkeypatch.setattr(memory_pairs, "MAX_PARTS", 3)
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    vectors[10:150] = vectors[10]  # more than NEIGHBORS are equal
    directions = unit(vectors)
    expected = nearest_items(directions)
    out = tmp_path / "m.zarr"
    with ClusterPairs.opened(shop / "split", str(shop / "shop.zarr"), out, LOCAL) as counter:
        compared = counter.nearest_items(directions)
        monkeypatch.setattr(Cells, "nearest", None)  # all are compared
        again = counter.nearest_items(directions)
    for result in (compared, again):
        assert (result != expected).nnz == 0
        assert np.array_equal(result.indptr, expected.indptr)


@pytest.mark.parametrize("users", [7, 5000])
def test_settings_are_chosen_on_users_of_some_parts(shop: Path, tmp_path: Path, users: int) -> None:
    """By the counts of all users, as one process chooses them on the same examples."""
    bundle = Bundle.open(shop / "shop.zarr")
    search = TuneSimilarityOptions(users=users, fixed={"distance": 0.85, "shrinkage": 0.0})
    split = open_split(shop / "split")
    out = tmp_path / "m.zarr"
    with ClusterPairs.opened(shop / "split", bundle, out, LOCAL) as counter:
        tuned = tune_similarity(counter.manifest, bundle, None, search, counter=counter)
        examples = counter.validation_examples(users)
    if users == 7:
        first = read_split(shop / "split", counter.manifest.folders[0]).valid
        assert {example.user for example in examples} < {example.user for example in first}
        split = replace(split, valid=tuple(examples))
    expected = tune_similarity(split, bundle, None, search)
    assert (tuned.settings, tuned.ndcg) == (expected.settings, expected.ndcg)
    assert tuned.users == expected.users == len(examples)


def test_memory_grows_with_the_items_of_a_part(shop: Path, tmp_path: Path) -> None:
    """Not with all items: their ids are mapped."""
    text = np.char.encode([f"stranger {number:07d}" for number in range(300_000)])
    catalog_ids = np.char.encode([f"{item:04d}" for item in range(3, 36)])
    data = np.concatenate([array.view(np.uint8) for array in (text, catalog_ids)])
    sizes = np.repeat([16, 4], [len(text), len(catalog_ids)])
    ids = Texts.of_utf8(data, np.concatenate([[0], np.cumsum(sizes)]))
    split = open_split(shop / "split")
    memory_pairs.count_part(split, ids, 0.85, tmp_path / "warm.arrow")
    tracemalloc.start()
    n_pairs = memory_pairs.count_part(split, ids, 0.85, tmp_path / "part.arrow")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_pairs > 100
    assert peak < len(ids)  # bytes


def test_blocks_have_equally_many_pairs_at_any_popularity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's memory follows from the pairs of a block. Items without pairs fill blocks, too."""
    monkeypatch.setattr(memory_pairs, "BLOCK_PAIRS", 200)
    sizes = np.sort(np.random.default_rng(0).pareto(1, 3000) * 10).astype(np.int64)[::-1]
    for catalog in (sizes, np.zeros(1000, dtype=np.int64), np.append(np.int64(10**6), sizes)):
        bounds = memory_pairs.item_blocks(catalog)
        assert [first for first, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
        assert bounds[-1][1] == len(catalog)
        for first, stop in bounds:
            assert (catalog[first + 1 : stop] + 1).sum() <= 200


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_other_events_of_some_users_are_counted_anew(shop: Path, tmp_path: Path, seed: int) -> None:
    """With an earlier memory, whose settings are kept."""
    rng = np.random.default_rng(seed)
    bundle = Bundle.open(shop / "shop.zarr")
    earlier = build_memory(open_split(shop / "split"), bundle, recency=0.4, neighbors=7)
    rows = pa.concat_tables(map(pq.read_table, sorted((shop / "events").iterdir())))
    changed = rng.choice(40, rng.integers(1, 20), replace=False)
    is_changed = np.isin(rows["user_id"].to_pylist(), [f"ü{user}" for user in changed])
    rows = rows.filter(~is_changed | (rng.random(len(rows)) < 0.7))
    (tmp_path / "events").mkdir()
    pq.write_table(rows, tmp_path / "events" / "0.parquet")
    split_in_parts(str(tmp_path / "events"), tmp_path / "split", run=PartOptions(parts=5))
    counted = count(shop, tmp_path / "m.zarr", split=str(tmp_path / "split"), earlier=earlier)
    fresh = build_memory(open_split(tmp_path / "split"), bundle, earlier.manifest.settings)
    assert same(counted, fresh)
    assert not np.array_equal(fresh.arrays["pairs/weight"], earlier.arrays["pairs/weight"])


def test_a_run_continues_with_what_is_counted(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.zarr"
    monkeypatch.setattr(memory_pairs, "BLOCK_PAIRS", 200)
    write = memory_pairs.write_block
    monkeypatch.setattr(memory_pairs, "write_block", failing_at_the_third(write, []))
    with pytest.raises(DataError, match="the disk is full"):
        count(shop, out)
    assert not out.exists()
    monkeypatch.setattr(memory_pairs, "write_block", write)
    monkeypatch.setattr(memory_pairs, "count_part", None)  # all are counted
    resumed = count(shop, out, RunOptions(resume=True))
    one = build_memory(open_split(shop / "split"), Bundle.open(shop / "shop.zarr"))
    assert same(resumed, one)


def test_one_display_shows_all_stages(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once erase lines of each other on a terminal."""
    progress = Mock(side_effect=lambda *stages: nullcontext({}))
    monkeypatch.setattr(memory_commands, "progress", progress)
    ids = list(Bundle.open(shop / "shop.zarr").items.ids)
    vectors = np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "v.ids.txt").write_text("\n".join(ids))
    words = ("-o", tmp_path / "m.zarr", "--embeddings", tmp_path / "v.npy")
    done("build-memory", shop / "split", shop / "shop.zarr", *words)
    progress.assert_called_once_with("embed", "build-memory", "tune")


def test_options_and_inputs_workers_do_not_take_are_refused(shop: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    words = (shop / "shop.zarr", "-o", tmp_path / "m.zarr", "--engine", "ray")
    for flag, value in (("--memory-limit", "1GiB"), ("--threads", 1)):
        said = refused(2, "build-memory", shop / "split", *words, flag, value)
        assert f"{flag} is for one process" in said
    table = shop / "events" / "0.parquet"
    for more in ((), ("--dry-run",)):
        assert "is no split folder" in refused(2, "build-memory", table, *words, *more)
    catalog = ("--items", shop / "events" / "0.parquet")
    assert "no column 'title'" in refused(2, "build-memory", shop / "split", *words, *catalog)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_counted_is_refused(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no split folder"):
        count(shop, tmp_path / "m.zarr", split="events")
    strangers = shop_of(["a", "b"])
    place = str(shop / "shop.zarr")
    out = tmp_path / "none.zarr"
    with ClusterPairs.opened(shop / "split", place, out, LOCAL) as counter:
        manifest = counter.manifest
    strangers.save(tmp_path / "strangers.zarr")
    with (
        pytest.raises(DataError, match="no two of the 2 items co-occur"),
        ClusterPairs.opened(shop / "split", str(tmp_path / "strangers.zarr"), out, LOCAL) as other,
    ):
        build_memory(manifest, strangers, counter=other)
