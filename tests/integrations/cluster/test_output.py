from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fsspec
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.integrations.cluster.output import (
    PartFolder,
    part_folder,
    refuse_input,
    temporary_folder,
)
from sidtool.integrations.cluster.run import RunOptions
from tests.integrations.cluster.jobs import double, read_numbers, write_numbers
from tests.s3 import empty_folder


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> str:
    """The URL of an empty folder of a store."""
    return empty_folder(request)


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """A folder of 20 numbers, five shards."""
    write_numbers(tmp_path / "in")
    return tmp_path / "in"


def put(url: str, data: bytes = b"of somebody") -> None:
    """Write an object of somebody else."""
    filesystem, path = fsspec.core.url_to_fs(url)
    filesystem.pipe_file(path, data)


def content(url: str) -> dict[str, bytes]:
    """The objects below a URL."""
    filesystem, root = fsspec.core.url_to_fs(url)
    filesystem.invalidate_cache(root)
    paths = filesystem.find(root)
    return {path.removeprefix(root).lstrip("/"): filesystem.cat_file(path) for path in paths}


def numbers_at(url: str, folder: Path) -> list[int]:
    """The numbers in an output at a URL."""
    folder.mkdir()
    for name, data in content(url).items():
        (folder / name).write_bytes(data)
    return read_numbers(folder)


@pytest.mark.parametrize(
    "name", ["data/_lineage.json", "data/notes.txt", "data/deep/notes", "data"]
)
def test_what_sidtool_wrote_is_replaced_by_force_alone(
    store: str, numbers: Path, tmp_path: Path, name: str
) -> None:
    put(f"{store}/{name}")
    before = content(store)
    for options in (RunOptions(), RunOptions(resume=True), RunOptions(dry_run=True)):
        with pytest.raises(UsageError, match="data exists already"):
            double(numbers, f"{store}/data", options)
    if "/" in name and "_lineage" not in name:
        with pytest.raises(UsageError, match="data exists already, and is no output of sidtool"):
            double(numbers, f"{store}/data", RunOptions(force=True))
        assert content(store) == before
        return
    double(numbers, f"{store}/data", RunOptions(force=True))
    assert numbers_at(f"{store}/data", tmp_path / "copy") == [2 * n for n in range(20)]


def test_what_appears_while_the_parts_are_made_is_not_removed(store: str, numbers: Path) -> None:
    def write(done: int, _: int) -> None:
        if done == 5:
            put(f"{store}/data/notes.txt")

    with pytest.raises(UsageError, match="exists already"):
        double(numbers, f"{store}/data", RunOptions(progress=write))
    assert content(f"{store}/data") == {"notes.txt": b"of somebody"}


@pytest.mark.parametrize("store", ["memory", "s3"], indirect=True)
def test_a_run_is_resumed_with_the_same_source_alone(store: str, numbers: Path) -> None:
    for path in numbers.iterdir():
        put(f"{store}/in/{path.name}", path.read_bytes())
    with pytest.raises(DataError, match="9 is bad"):
        double(f"{store}/in", f"{store}/data", RunOptions(), bad=9)
    with pytest.raises(DataError, match="9 is bad"):
        double(f"{store}/in", f"{store}/data", RunOptions(resume=True), bad=9)
    changed = numbers / "2.parquet"
    pq.write_table(pq.read_table(changed).take([11, *range(11)]), changed, row_group_size=3)
    put(f"{store}/in/{changed.name}", changed.read_bytes())
    with pytest.raises(UsageError, match="is of a run with other settings"):
        double(f"{store}/in", f"{store}/data", RunOptions(resume=True))
    double(f"{store}/in", f"{store}/data", RunOptions())


def test_parts_without_the_settings_of_their_run_are_made_again(
    store: str, numbers: Path, tmp_path: Path
) -> None:
    """A run that starts again was killed while it removed what an earlier one left."""
    with pytest.raises(DataError, match="15 is bad"):
        double(numbers, f"{store}/data", RunOptions(), bad=15)
    filesystem, root = fsspec.core.url_to_fs(f"{store}/data.partial")
    assert filesystem.exists(f"{root}/part-0000002.parquet")
    filesystem.rm(f"{root}/run.json")
    (numbers / "2.parquet").unlink()
    double(numbers, f"{store}/data", RunOptions(resume=True))
    assert numbers_at(f"{store}/data", tmp_path / "copy") == [2 * n for n in range(8)]


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_was_killed_while_it_moved_its_parts_is_repeated(
    store: str, numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    filesystem, root = fsspec.core.url_to_fs(f"{store}/data")
    move = type(filesystem).mv
    moved: list[str] = []

    def killed(self: Any, source: str, target: str, **options: Any) -> None:
        if target.startswith(f"{root}/"):
            moved.append(target)
        if len(moved) == 3:
            raise KeyboardInterrupt
        move(self, source, target, **options)

    monkeypatch.setattr(type(filesystem), "mv", killed)
    with pytest.raises(KeyboardInterrupt):
        double(numbers, f"{store}/data", RunOptions())
    monkeypatch.undo()
    assert len(content(f"{store}/data")) == 2
    assert double(numbers, f"{store}/data", RunOptions(dry_run=True)).rows == 20
    with pytest.raises(DataError, match="9 is bad"):
        double(numbers, f"{store}/data", RunOptions(resume=resume), bad=9)
    double(numbers, f"{store}/data", RunOptions(resume=resume))
    assert numbers_at(f"{store}/data", tmp_path / "copy") == [2 * n for n in range(20)]
    assert not filesystem.exists(f"{root}.partial")


def test_a_foreign_file_beside_moved_parts_is_not_removed(store: str, numbers: Path) -> None:
    put(f"{store}/data.partial/_lineage.json", b'{"files": {"part-0000000.parquet": "digest"}}')
    put(f"{store}/data/part-0000000.parquet")
    put(f"{store}/data/notes.txt")
    before = content(store)
    with pytest.raises(UsageError, match="exists already"):
        double(numbers, f"{store}/data", RunOptions())
    assert content(store) == before


def test_what_a_store_or_a_disk_refuses_is_one_line(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = Mock(side_effect=FileNotFoundError("no room is left"))
    folder = PartFolder(f"{store}/data")
    filesystem, _ = fsspec.core.url_to_fs(store)  # the same object each time
    monkeypatch.setattr(filesystem, "pipe_file", refuse)
    with pytest.raises(DataError, match=r"/data cannot be written: no room is left"):
        folder.put("part-0", b"rows")
    monkeypatch.setattr("sidtool.integrations.cluster.output.gettempdir", refuse)
    with (
        pytest.raises(DataError, match=r"temporary files on .* cannot be written: no room is left"),
        temporary_folder(),
    ):
        pass


def test_parts_without_a_lineage_are_not_moved(store: str) -> None:
    with (
        pytest.raises(DataError, match=r"data\.partial has no _lineage\.json"),
        part_folder(f"{store}/data", {}, resume=False, force=False) as folder,
    ):
        folder.put("part-0", b"rows")
    assert content(f"{store}/data.partial").keys() == {"run.json", "part-0"}


@pytest.mark.parametrize("out", ["data/in", "data", "data/in/"])
def test_an_input_at_a_url_is_never_replaced(store: str, numbers: Path, out: str) -> None:
    for path in numbers.iterdir():
        put(f"{store}/data/in/{path.name}", path.read_bytes())
    before = content(store)
    for options in (RunOptions(force=True), RunOptions(), RunOptions(force=True, dry_run=True)):
        with pytest.raises(UsageError, match="is the input"):
            double(f"{store}/data/in", f"{store}/{out}", options)
    assert content(store) == before


def test_an_input_folder_is_never_replaced(numbers: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(numbers)
    (tmp_path / "more.partial").symlink_to(numbers)
    for out in (numbers, tmp_path / "link", f"file://{numbers}", tmp_path, tmp_path / "more"):
        with pytest.raises(UsageError, match="is the input"):
            double(numbers, out, RunOptions(force=True))
    assert len(list(numbers.iterdir())) == 3


def test_other_places_than_the_input_are_outputs() -> None:
    for out in ("memory://bucket/input", "memory://bucket/in/out", "s3://bucket/in", "bucket/in"):
        refuse_input(out, "memory://bucket/in")
