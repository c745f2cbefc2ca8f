"""Training examples of parts of the users, one behind the other, are the file of one process."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError, RefusedError, UsageError
from sidtool.base.jobs import run_here
from sidtool.data.fields.field_columns import FieldName, FieldOptions
from sidtool.data.items import Items
from sidtool.data.split.files import read_split, stored_manifest, write_split
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.split import Split
from sidtool.examples import sft_run
from sidtool.examples.blocks import EventBlock
from sidtool.examples.event_weights import WeightOptions
from sidtool.examples.general_text import GeneralOptions
from sidtool.examples.parts import ExampleParts, read_any_lineage, validation_users
from sidtool.examples.sft_options import SftOptions, TaskCatalogOptions, read_catalog
from sidtool.examples.sft_run import SftInputs, make_sft
from sidtool.integrations.cluster import example_shards, run, training_examples
from sidtool.integrations.cluster.example_shards import share_catalog
from sidtool.integrations.cluster.run import RunOptions
from sidtool.integrations.cluster.split_parts import PartOptions, split_in_parts
from sidtool.integrations.cluster.training_examples import ClusterExamples
from sidtool.registry import push
from sidtool.tokenizer.bundle.bundle import Bundle
from tests.data.split.cases import windows_of, write_rows
from tests.data.tables.files import write_table
from tests.examples.cases import ALL_TASKS, RATING_TASKS
from tests.integrations.cluster.jobs import failing_at_the_third
from tests.models import tiny_tokenizer
from tests.s3 import empty_folder
from tests.training_fixtures import bundle, catalog, split

pytestmark = pytest.mark.filterwarnings("ignore::sidtool.base.errors.SidtoolWarning")

__all__ = ["bundle", "catalog", "split"]
WRITE_SHARD = example_shards._write_shard
Inputs = Callable[..., SftInputs]


def write_inputs(
    folder: Path, bundle: Bundle, catalog: Items, split: Split, **options: Any
) -> SftInputs:
    """The inputs in files."""
    bundle.save(folder / "shop.zarr")
    table = {"item_id": list(catalog.ids), "title": list(catalog.titles)}
    table |= {name: list(cells) for name, cells in catalog.fields.items()}
    pq.write_table(pa.table(table), folder / "items.parquet")
    write_split(split, folder / "split")
    queries = folder / "queries.jsonl"
    queries.write_text('{"item": "i3", "text": "three"}\n{"item": "i5", "text": "five"}\n')
    weights = options.pop("weights", None)
    return SftInputs(
        str(folder / "shop.zarr"),
        folder / "items.parquet",
        folder / "split",
        SftOptions(allow_unknown=True, **options),
        TaskCatalogOptions(queries=queries if "query-to-sid" in options.get("tasks", {}) else None),
        weights=weights,
    )


@pytest.fixture
def inputs_of(tmp_path: Path, bundle: Bundle, catalog: Items) -> Inputs:
    """Writes the inputs of a split."""
    return partial(write_inputs, tmp_path, bundle, catalog)


@pytest.fixture
def in_parts(tmp_path: Path, inputs_of: Inputs) -> Inputs:
    """Writes the inputs of a split of rated events in parts."""

    def write(parts: int = 4, fields: SplitOptions | None = None, **options: Any) -> SftInputs:
        events = rated_events(tmp_path / "events.csv")
        split_in_parts(str(events), tmp_path / "in-parts", fields, run=PartOptions(parts=parts))
        inputs = inputs_of(make_split(events), **options)
        return replace(inputs, split=tmp_path / "in-parts")

    return write


def make(
    inputs: SftInputs, out: Path | str, writer: ClusterExamples | None = None, **more: Any
) -> dict[str, Any]:
    """Make the examples of inputs -> their lineage."""
    lineage = make_sft(
        inputs.bundle,
        inputs.items,
        inputs.split,
        out,
        inputs.options,
        catalog_options=inputs.catalog_options,
        weights=inputs.weights,
        writer=writer,
        **more,
    )
    return lineage.to_json()


def test_workers_open_the_version_that_a_tag_named_at_the_start(
    inputs_of: Inputs, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(split, tasks={"next-item": 1})
    push(inputs.bundle, tmp_path / "shop", tag="prod")
    share_with_workers = Mock(side_effect=share_catalog)
    monkeypatch.setattr(training_examples, "share_catalog", share_with_workers)
    published = replace(inputs, bundle=f"{tmp_path}/shop@prod")
    make(published, tmp_path / "train.jsonl", ClusterExamples(published, RunOptions()))
    assert share_with_workers.call_args.args[0].bundle == f"{tmp_path}/shop@1.0"


def check_same(inputs: SftInputs, folder: Path, users: int = 7) -> None:
    """Check that both ways give the same files and the same lineage."""
    for name in ("one", "parts"):
        (folder / name).mkdir()
    one = make(inputs, folder / "one" / "train.jsonl")
    writer = ClusterExamples(inputs, RunOptions(), users)
    assert make(inputs, folder / "parts" / "train.jsonl", writer) == one
    files = [
        {path.name: path.read_bytes() for path in (folder / name).iterdir()}
        for name in ("one", "parts")
    ]
    assert files[0] == files[1]


def test_all_tasks(tmp_path: Path, inputs_of: Inputs, split: Split) -> None:
    weights = {task: 1.0 + number % 2 for number, task in enumerate(ALL_TASKS)}
    check_same(inputs_of(split, tasks=weights), tmp_path)


def test_workers_map_the_catalog_that_the_command_reads(
    tmp_path: Path, inputs_of: Inputs, catalog: Items, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = {"query-to-sid": 1.0, "item-text": 1.0, "title-history-to-sid": 1.0}
    inputs = inputs_of(split, tasks=tasks)
    columns = TaskCatalogOptions(query_text="like {title}", fields=tuple(catalog.fields))
    inputs = replace(inputs, catalog_options=columns)
    check_same(inputs, tmp_path)
    read = Mock(side_effect=read_catalog)
    monkeypatch.setattr(sft_run, "read_catalog", read)
    writer = ClusterExamples(inputs, RunOptions(), users=7)
    make(inputs, tmp_path / "parts" / "train.jsonl", writer, force=True)
    read.assert_called_once()
    assert not list(tmp_path.glob("**/*.arrow"))


def test_a_worker_reads_one_part_of_a_split_in_parts(
    tmp_path: Path, in_parts: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = {"sequence": 1.0, "title-history-to-sid": 2.0, "sid-to-title": 1.0}
    tasks["history-text"] = 1.0
    inputs = in_parts(tasks=tasks)
    folder = tmp_path / "in-parts"
    manifest = stored_manifest(folder)
    write = Mock(side_effect=WRITE_SHARD)
    monkeypatch.setattr(example_shards, "_write_shard", write)
    monkeypatch.setattr(sft_run, "open_split", None)  # reads all parts
    one = make(replace(inputs, split=read_split(folder)), tmp_path / "one.jsonl")
    parts = make(inputs, tmp_path / "parts.jsonl", ClusterExamples(inputs, RunOptions()))
    assert {**parts, "files": None} == {**one, "files": None}
    for name in ("{}.jsonl", "{}.valid.jsonl"):
        made = [(tmp_path / name.format(way)).read_bytes() for way in ("one", "parts")]
        assert made[0] == made[1]
    sizes = [len(call.args[0].split.train) for call in write.call_args_list]
    assert len(sizes) == len(manifest.folders) + 1  # of the catalog's task
    assert max(sizes) < manifest.counts.users


def test_queries_may_be_at_a_url(tmp_path: Path, inputs_of: Inputs, split: Split) -> None:
    inputs = inputs_of(split, tasks={"query-to-sid": 1.0})
    url = f"memory://{tmp_path.name}/queries.jsonl"
    with fsspec.open(url, "wb") as stream:
        stream.write((tmp_path / "queries.jsonl").read_bytes())
    check_same(replace(inputs, catalog_options=TaskCatalogOptions(queries=Path(url))), tmp_path)


def test_a_column_may_have_a_slash_in_its_name(
    tmp_path: Path, inputs_of: Inputs, split: Split, catalog: Items
) -> None:
    inputs = inputs_of(split, tasks={"sid-to-and/or": 1.0})
    table = {"item_id": list(catalog.ids), "title": list(catalog.titles)}
    items = write_table(tmp_path / "items.csv", table | {"and/or": list(catalog.titles)})
    check_same(replace(inputs, items=items), tmp_path)


@pytest.mark.parametrize("tasks", [{"sequence": 1.0}, {"query-to-sid": 1.0, "next-item": 1.0}])
def test_splits_in_parts(tmp_path: Path, in_parts: Inputs, tasks: dict[str, float]) -> None:
    fields = SplitOptions(fields=FieldOptions((FieldName("rating"),), target=("rating>=2",)))
    inputs = in_parts(fields=fields, tasks=tasks)
    check_same(replace(inputs, weights=WeightOptions("rating")), tmp_path)


def test_a_run_continues_with_finished_parts(
    tmp_path: Path, in_parts: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = in_parts(parts=64, tasks={"sequence": 1.0})
    out = tmp_path / "train.jsonl"
    calls: list[Any] = []
    failing = failing_at_the_third(WRITE_SHARD, calls)
    monkeypatch.setattr(example_shards, "_write_shard", failing)
    with pytest.raises(DataError, match="the disk is full"):
        make(inputs, out, ClusterExamples(inputs, RunOptions()))
    assert not out.exists()
    others = replace(inputs, options=replace(inputs.options, seed=5))
    resumed = RunOptions(resume=True)
    with pytest.raises(UsageError, match="different options"):
        make(others, out, ClusterExamples(others, resumed))
    (done, *_) = (tmp_path / "train.jsonl.parts.partial").glob("part-*")
    (done / "sequence.jsonl").rename(tmp_path / "lost")
    with pytest.raises(DataError, match="jsonl is lost"):
        make(inputs, out, ClusterExamples(inputs, resumed))
    (tmp_path / "lost").rename(done / "sequence.jsonl")
    make(inputs, out, ClusterExamples(inputs, resumed))
    make(inputs, tmp_path / "one.jsonl")
    assert out.read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    shards = len(stored_manifest(tmp_path / "in-parts").folders)
    assert len(calls) == 3 + shards - 2  # the two that were finished are not made again
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_does_not_continue_with_other_inputs(
    tmp_path: Path, inputs_of: Inputs, catalog: Items, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the users is not in the digest of a split, and columns not in that of items."""
    inputs = inputs_of(split, tasks={"sequence": 1.0, "item-text": 1.0})
    column, cells = next(iter(catalog.fields.items()))
    inputs = replace(inputs, catalog_options=TaskCatalogOptions(fields=(column,)))
    monkeypatch.setattr(example_shards, "_write_shard", failing_at_the_third(WRITE_SHARD, []))
    with pytest.raises(DataError, match="the disk is full"):
        make(inputs, tmp_path / "train.jsonl", ClusterExamples(inputs, RunOptions(), 2))
    reordered = Split.of(split.protocol, list(split.train)[::-1], split.valid, split.test)
    assert reordered.reference == split.reference
    write_split(reordered, tmp_path / "reordered")
    events = rated_events(tmp_path / "events.csv")
    texts = {"item_id": list(catalog.ids), "title": list(catalog.titles), column: list(cells)[::-1]}
    items = write_table(tmp_path / "other.parquet", texts)
    for others, words in (
        (replace(inputs, split=tmp_path / "reordered"), "different files"),
        (replace(inputs, split=events), "different files"),
        (replace(inputs, items=items), "different catalog"),
    ):
        writer = ClusterExamples(others, RunOptions(resume=True), 2)
        with pytest.raises(UsageError, match=words):
            make(others, tmp_path / "train.jsonl", writer)


def test_too_many_unknown_ids_are_refused_as_soon_as_they_are_known(
    tmp_path: Path, in_parts: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = in_parts(tasks={"sequence": 1.0, "sid-to-title": 1.0})
    inputs = replace(inputs, options=replace(inputs.options, allow_unknown=False))
    other_ids = write_table(tmp_path / "other.csv", {"item_id": ["x"], "title": ["other"]})
    items = ["i1", "i2", *"abcdef"]
    table = {"user_id": ["u"] * 8, "item_id": items, "timestamp": list("12345678")}
    events = write_table(tmp_path / "unknown.csv", table)
    split_in_parts(str(events), tmp_path / "unknown", run=PartOptions(parts=4))
    write = Mock(side_effect=WRITE_SHARD)
    monkeypatch.setattr(example_shards, "_write_shard", write)
    in_unknown_parts = replace(inputs, split=tmp_path / "unknown")
    for words, others, out, n_shards in (
        ("the catalog", replace(inputs, items=other_ids), "train.jsonl", 0),
        ("the catalog", replace(inputs, items=other_ids), "made/", 0),
        ("the bundle lacks", replace(inputs, split=events), "train.jsonl", 0),
        ("the bundle lacks", in_unknown_parts, "train.jsonl", 2),
        ("the bundle lacks", in_unknown_parts, "made/", 2),
    ):
        write.reset_mock()
        with pytest.raises(RefusedError, match=words):
            make(others, f"{tmp_path}/{out}", ClusterExamples(others, RunOptions()))
        assert write.call_count == n_shards
    # what was made until then is kept
    allowed = replace(in_unknown_parts, options=replace(inputs.options, allow_unknown=True))
    writer = ClusterExamples(allowed, RunOptions(resume=True))
    assert make(allowed, f"{tmp_path}/train.jsonl", writer)["dropped_events"] == 4
    assert write.call_count == n_shards


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a folder of parts may be."""
    if request.param == "folder":
        return f"{tmp_path}/made/"
    return f"{empty_folder(request)}/made"


def test_examples_in_parts_are_those_of_one_file(
    tmp_path: Path, in_parts: Inputs, place: str
) -> None:
    tasks = {"sequence": 1.0, "sid-to-title": 1.0, "next-item": 2.0, "title-to-sid": 1.0}
    inputs = in_parts(tasks=tasks)
    manifest = stored_manifest(tmp_path / "in-parts")
    one = make(inputs, tmp_path / "train.jsonl")
    writer = ClusterExamples(inputs, RunOptions())
    made = make(inputs, place, writer)
    assert {**made, "files": None, "parts": None} == {**one, "files": None, "parts": None}
    in_threads = ClusterExamples(inputs, RunOptions(), threads=3)
    assert make(inputs, f"{tmp_path}/threads/", in_threads) == made
    folder = Path(place)
    lineage = read_any_lineage(folder)
    assert {**made, "sha256": None} == {**lineage.to_json(), "sha256": None}
    parts = ExampleParts(folder, lineage)
    # every part has every task
    read = [
        [parts.example(number, line) for line in parts.lines(number)]
        for number in range(len(parts.sizes))
    ]
    assert len(read) == len(manifest.folders)
    assert all({example["task"] for example in part} == set(tasks) for part in read)
    lines = [json.dumps(example, sort_keys=True) for part in read for example in part]
    stored = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert sorted(lines) == sorted(json.dumps(example, sort_keys=True) for example in stored)
    # the users of one part, of all that the lineage counts
    assert 0 < len(validation_users(folder, lineage).read_text().splitlines()) < made["valid"]
    with pytest.raises(UsageError, match="exists already"):
        make(inputs, place, writer)
    make(inputs, place, writer, force=True)
    assert read_any_lineage(folder) == lineage


def test_tasks_that_are_not_of_users_have_all_validation_users(
    tmp_path: Path, in_parts: Inputs
) -> None:
    inputs = in_parts(tasks={"sid-to-title": 1.0, "title-to-sid": 1.0})
    check_same(inputs, tmp_path)
    one = json.loads((tmp_path / "one" / "train.jsonl.meta.json").read_text())
    made = make(inputs, f"{tmp_path}/made/", ClusterExamples(inputs, RunOptions()))
    differing = {"files": None, "parts": None, "sha256": None}
    assert made | differing == one | differing
    folder = tmp_path / "made"
    assert validation_users(folder, read_any_lineage(folder)).read_text()


def test_workers_end_when_their_examples_cannot_be_joined(
    tmp_path: Path, inputs_of: Inputs, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = True

    def losing_a_file(job: Any, shards: Any, _: RunOptions) -> Iterator[tuple[int, Any]]:
        nonlocal running
        try:
            for made in run_here(job, shards):
                next(tmp_path.glob("train.jsonl.parts.partial/part-*/*.jsonl")).unlink()
                yield made
        finally:
            running = False

    monkeypatch.setattr(run, "run_job", losing_a_file)
    inputs = inputs_of(split, tasks={"sequence": 1.0})
    with pytest.raises(DataError) as caught:
        make(inputs, tmp_path / "train.jsonl", ClusterExamples(inputs, RunOptions(), users=7))
    assert not running
    assert "is lost" in str(caught.value)  # its traceback is still there


def test_a_folder_of_parts_continues_and_names_a_lost_file(
    tmp_path: Path, inputs_of: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = rated_events(tmp_path / "events.csv")
    tasks = {"sequence": 1.0, "sid-to-title": 1.0}
    inputs = inputs_of(make_split(events), tasks=tasks)
    out = f"{tmp_path}/made/"
    for is_dry in (False, True):
        with pytest.raises(UsageError, match="the parts of a split in parts"):
            make(inputs, out, ClusterExamples(inputs, RunOptions()), dry_run=is_dry)
    with pytest.raises(UsageError, match="is a folder of parts, which a writer makes"):
        make(inputs, out)
    split_in_parts(str(events), tmp_path / "in-parts", run=PartOptions(parts=16))
    inputs = replace(inputs, split=tmp_path / "in-parts")
    with pytest.raises(UsageError, match="contains the input"):
        make(inputs, f"{tmp_path}/", ClusterExamples(inputs, RunOptions()), force=True)
    with pytest.raises(UsageError, match=r"shop\.zarr is an input"):
        make(inputs, f"{inputs.bundle}/", ClusterExamples(inputs, RunOptions()), force=True)
    whole = make(inputs, f"{tmp_path}/whole/", ClusterExamples(inputs, RunOptions()))
    failing = failing_at_the_third(WRITE_SHARD, [])
    monkeypatch.setattr(example_shards, "_write_shard", failing)
    resumed = ClusterExamples(inputs, RunOptions(resume=True))
    with pytest.raises(DataError, match="the disk is full"):
        make(inputs, out, ClusterExamples(inputs, RunOptions()))
    assert not Path(out).exists()
    (lost, *_) = (tmp_path / "made.partial").glob("part-*/*.jsonl")
    lost.rename(tmp_path / "lost")
    with pytest.raises(DataError, match="is lost"):
        make(inputs, out, resumed)
    (tmp_path / "lost").rename(lost)
    assert make(inputs, out, resumed) == whole
    names = {path.name for path in Path(out).iterdir() if not path.name.startswith("part-")}
    assert names == {"_lineage.json"}


def rated_events(path: Path) -> Path:
    """Events of nine users, with ratings."""
    rows = [(f"u{n % 9}", f"i{(7 * n) % 50}", 1_700_000_000 + n, 1 + n % 5) for n in range(120)]
    names = ("user_id", "item_id", "timestamp", "rating")
    columns = zip(names, zip(*rows, strict=True), strict=True)
    table = {name: list(map(str, cells)) for name, cells in columns}
    return write_table(path, table)


def test_fields_and_weights(tmp_path: Path, inputs_of: Inputs) -> None:
    events = rated_events(tmp_path / "events.csv")
    fields = FieldOptions((FieldName("rating"),), times=True, target=("rating>=2",))
    rated = make_split(events, SplitOptions(fields=fields))
    tasks = {"sequence": 1.0, **dict.fromkeys(RATING_TASKS, 2.0)}
    weights = WeightOptions("rating")
    inputs = inputs_of(rated, tasks=tasks, weights=weights)
    check_same(inputs, tmp_path, users=2)


@pytest.mark.parametrize(("protocol", "rating"), [("leave-one-out", "0"), ("temporal", "2")])
def test_parts_without_a_weight_above_0(
    tmp_path: Path, inputs_of: Inputs, protocol: Any, rating: str
) -> None:
    """Only one user has weights, or training events before the cuts."""
    table: dict[str, list[str]] = {"user_id": [], "item_id": [], "timestamp": [], "rating": []}
    rows = [(f"u{n % 6}", n, n + 60 * (n % 6 > 0), rating if n % 6 else "3") for n in range(120)]
    for user, item, time, value in (*rows, ("late", 1, 150, rating)):  # its event is in no part
        row = (user, f"i{item % 50}", str(time), value)
        for cells, cell in zip(table.values(), row, strict=True):
            cells.append(cell)
    events = write_table(tmp_path / "events.csv", table)
    cuts = {"valid_from": 60, "test_from": 100} if protocol == "temporal" else {}
    target = ("rating>=2",) if protocol == "temporal" else ()
    fields = FieldOptions((FieldName("rating", "int"),), target=target)
    options = SplitOptions(protocol, fields=fields, **cuts)  # type: ignore[arg-type]
    split_in_parts(str(events), tmp_path / "in-parts", options, run=PartOptions(parts=64))
    tasks = {"sequence": 1.0, "next-item": 1.0}
    inputs = inputs_of(make_split(events, options), tasks=tasks)
    inputs = replace(inputs, split=tmp_path / "in-parts", weights=WeightOptions("rating"))
    check_same(inputs, tmp_path)


def test_windows(tmp_path: Path, inputs_of: Inputs) -> None:
    parts: dict[str, list[tuple[str, Sequence[str], str]]] = {"train": [], "valid": [], "test": []}
    for user in range(6):
        walk = [f"i{3 * user + step}" for step in range(8)]
        for window, at in windows_of(f"u{user}", walk, 4):
            part = {6: "valid", 7: "test"}.get(at, "train")
            parts[part].append((window.user, window.history, window.item))
    train, valid, test = (write_rows(tmp_path / f"{part}.csv", parts[part]) for part in parts)
    windows = make_split(train, SplitOptions("given", valid, test))
    tasks = {"sequence": 1.0, "next-item": 1.0, "title-history-to-sid": 2.0, "history-text": 1.0}
    tasks["list"] = 1.0
    check_same(inputs_of(windows, tasks=tasks), tmp_path, users=4)


@pytest.mark.parametrize("options", [{"tasks": {"sequence": 1.5}}, {"max_tokens": 100}])
def test_draws_over_all_users_are_refused(
    inputs_of: Inputs, split: Split, options: dict[str, Any]
) -> None:
    inputs = inputs_of(split, **options)
    with pytest.raises(UsageError, match="workers make whole copies"):
        ClusterExamples(inputs, RunOptions())


def test_general_text_threads_and_leaks_are_refused(
    tmp_path: Path, inputs_of: Inputs, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(split)
    writer = ClusterExamples(inputs, RunOptions(), 7)
    (tmp_path / "general.txt").write_text("One.\n\nTwo.\n\nThree.\n")
    out = tmp_path / "train.jsonl"
    general = GeneralOptions(tmp_path / "general.txt")
    with pytest.raises(UsageError, match="--general"):
        make(inputs, out, writer, general=general, tokenizer=tiny_tokenizer())
    with pytest.raises(UsageError, match="--threads is for one process"):
        make(inputs, out, writer, threads=2)
    monkeypatch.setattr(EventBlock, "count_held_out", lambda *_: 1)
    with pytest.raises(RefusedError, match="held-out events are in"):
        make(inputs, out, writer)
    assert [path.name for path in tmp_path.glob("*train*")] == ["train.jsonl.parts.partial"]
