import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.digests import file_digest
from sidtool.base.errors import DataError, UsageError
from sidtool.integrations.cluster import run
from sidtool.integrations.cluster.engines import ray_cluster
from sidtool.integrations.cluster.output import PartFolder, PartReport
from sidtool.integrations.cluster.run import RunOptions, parts_in_order
from sidtool.integrations.cluster.shards import _pieces, list_shards
from tests.cli.road import tree
from tests.integrations.cluster.jobs import double, read_numbers, write_numbers


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 5))
def test_pieces_cover_every_row_once(sizes: list[int], rows: int) -> None:
    files = [(str(number), size) for number, size in enumerate(sizes)]
    total = sum(sizes)
    covered = [
        (piece.url, row)
        for first in range(0, total, rows)
        for piece in _pieces(files, first, min(first + rows, total))
        for row in range(piece.first, piece.stop)
    ]
    assert covered == [(url, row) for url, size in files for row in range(size)]


def test_a_shard_has_its_rows_of_all_files(tmp_path: Path) -> None:
    numbers = write_numbers(tmp_path / "in")
    shards = list_shards(str(tmp_path / "in"), 6)
    assert [shard.first for shard in shards] == [0, 6, 12, 18]
    tables = [pq.read_table(shard.fetch(tmp_path)) for shard in shards]
    assert pa.concat_tables(tables)["n"].to_pylist() == numbers
    (whole,) = list_shards(str(tmp_path / "in" / "2.parquet"), 100)
    assert whole.rows == 12


def test_files_of_a_shard_may_lack_columns_but_not_differ_in_their_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"n": [2], "more": ["x"]}), tmp_path / "1.parquet")
    (shard,) = list_shards(str(tmp_path))
    rows = pq.read_table(shard.fetch(tmp_path)).to_pylist()
    assert rows == [{"n": 1, "more": None}, {"n": 2, "more": "x"}]
    pq.write_table(pa.table({"n": ["3"]}), tmp_path / "1.parquet")
    (tmp_path / "rows-0.parquet").unlink()
    (shard,) = list_shards(str(tmp_path))
    message = r"0\.parquet and 1 more cannot be read: .* Field n has inc"
    with pytest.raises(DataError, match=message):
        shard.fetch(tmp_path)


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
)
def test_files_of_a_shard_may_store_texts_in_many_ways(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["a", None, "c"])
    other = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts.cast(kind)
    lists = pa.array([["a"], None, []])
    pq.write_table(pa.table({"x": texts, "y": lists}), tmp_path / "0.parquet")
    large = lists.cast(pa.large_list(pa.large_string()))
    pq.write_table(pa.table({"x": other.cast(kind), "y": large}), tmp_path / "1.parquet")
    (shard,) = list_shards(str(tmp_path))
    table = pq.read_table(shard.fetch(tmp_path))
    assert table["x"].to_pylist() == 2 * ["a", None, "c"]
    assert table["y"].to_pylist() == 2 * [["a"], None, []]


def test_a_file_that_shrank_is_refused(tmp_path: Path) -> None:
    write_numbers(tmp_path / "in")
    *_, last = list_shards(str(tmp_path / "in"), 6)
    pq.write_table(pa.table({"n": [1]}), tmp_path / "in" / "2.parquet")
    with pytest.raises(DataError, match="it changed"):
        last.fetch(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "is no Parquet file, and no folder of such files"),
        ("text.csv", "is no Parquet file, and no folder of such files"),
        ("empty", "holds no rows"),
    ],
)
def test_a_source_without_rows_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.csv").write_text("a\n1\n")
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), tmp_path / "empty" / "0.parquet")
    with pytest.raises(DataError, match=message):
        list_shards(str(tmp_path / name))
    with pytest.raises(UsageError, match="cannot be opened"):
        list_shards("nowhere://x")


def test_reports_come_in_order_while_parts_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    order = [1, 0, 3, 2]

    def out_of_order(job: Any, shards: Sequence[Any], _: RunOptions) -> Iterator[tuple[int, Any]]:
        work = job()
        return ((index, work(shards[index])) for index in order)

    def touch(number: int, shard: str, place: Path) -> PartReport:
        made.append(number)
        (place / shard).touch()
        return PartReport(shard, 1)

    monkeypatch.setattr(run, "run_job", out_of_order)
    folder = PartFolder(str(tmp_path))
    reports = parts_in_order(lambda: touch, ["a", "b", "c", "d"], folder, RunOptions())
    counts = [(report.name, len(made)) for report in reports]
    assert counts == [("a", 2), ("b", 2), ("c", 4), ("d", 4)]
    again = parts_in_order(lambda: touch, ["a", "b", "c", "d"], folder, RunOptions())
    monkeypatch.setattr(run, "run_job", lambda *_: iter(()))
    assert [report.name for report in again] == ["a", "b", "c", "d"]


def test_the_output_has_a_part_per_shard_and_a_lineage(tmp_path: Path) -> None:
    numbers = write_numbers(tmp_path / "in")
    seen: list[tuple[int, int]] = []
    options = RunOptions(progress=lambda done, total: seen.append((done, total)))
    report = double(tmp_path / "in", tmp_path / "out", options)
    assert read_numbers(tmp_path / "out") == [2 * n for n in numbers]
    assert (report.rows, report.counts) == (len(numbers), {"sum": sum(numbers)})
    assert seen == [(n, 5) for n in range(1, 6)]
    lineage = json.loads((tmp_path / "out" / "_lineage.json").read_text())
    assert (lineage["command"], lineage["rows"]) == ("double", len(numbers))
    parts = sorted((tmp_path / "out").glob("part-*"))
    assert lineage["files"] == {part.name: file_digest(part) for part in parts}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*lineage["files"], "_lineage.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_an_interrupted_run_is_resumed_from_its_parts(tmp_path: Path) -> None:
    write_numbers(tmp_path / "in")
    with pytest.raises(DataError, match="9 is bad"):
        double(tmp_path / "in", tmp_path / "out", RunOptions(), bad=9)
    assert not (tmp_path / "out").exists()
    done = tmp_path / "out.partial" / "part-0000000.parquet"
    before = done.stat().st_mtime_ns
    # a part without its report, as a killed worker leaves it
    (tmp_path / "out.partial" / "part-0000002.parquet").write_bytes(b"half")
    (tmp_path / "out.partial" / "part-0000001.parquet").unlink()  # lost, its report is there
    write_numbers(tmp_path / "other", (3,))
    with pytest.raises(UsageError, match="different rows"):
        double(tmp_path / "other", tmp_path / "out", RunOptions(resume=True))
    double(tmp_path / "in", tmp_path / "out", RunOptions(resume=True))
    assert (tmp_path / "out" / "part-0000000.parquet").stat().st_mtime_ns == before
    double(tmp_path / "in", tmp_path / "again", RunOptions())
    assert tree(tmp_path / "out") == tree(tmp_path / "again")


def test_a_remote_file_is_copied_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_numbers(tmp_path / "in", (40,))
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "in"), "/once/in", recursive=True)
    copy = Mock(side_effect=memory.get_file)
    monkeypatch.setattr(type(memory), "get_file", copy)
    shards = list_shards("memory://once/in", 3)
    tables = [pq.read_table(shard.fetch(tmp_path)) for shard in shards]
    assert pa.concat_tables(tables)["n"].to_pylist() == list(range(40))
    copy.assert_called_once()
    memory.rm("/once", recursive=True)


def test_too_many_claimed_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_numbers(tmp_path / "in", (40,))
    monkeypatch.setattr("sidtool.integrations.cluster.shards.FREE_ROWS", 0)
    monkeypatch.setattr("sidtool.integrations.cluster.shards.ROWS_PER_BYTE", 0)
    with pytest.raises(DataError, match="claims 40 rows"):
        list_shards(str(tmp_path / "in"))


def test_workers_need_an_engine() -> None:
    with pytest.raises(UsageError, match="--workers requires --engine ray"):
        RunOptions(workers=2)
    with pytest.raises(UsageError, match="at least 1, not 0"):
        RunOptions("ray", 0)


def test_a_missing_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:1")
    failure = Exception("The node timed out.\nDetails")
    monkeypatch.setattr(ray, "init", Mock(side_effect=failure))
    message = r"no Ray cluster at nowhere:1: The node timed out\.$"
    with pytest.raises(DataError, match=message), ray_cluster():
        pass
