from pathlib import Path

import fsspec
import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.data.interactions import read_interactions
from sidtool.data.split.files import open_split, split_events
from sidtool.data.tables.opening import table_files
from sidtool.data.tables.tables import column_names, read_columns
from sidtool.integrations.cluster.shards import list_shards, table_urls
from tests.data.tables.files import CONTAINERS, write_table
from tests.s3 import BUCKET, Wire

TABLE = {"user": list("uuuvvv"), "item": list("abcabc"), "ts": list("123456")}


def parts(folder: Path, name: str) -> Path:
    """The table in two files; returns the pattern of their names."""
    folder.mkdir(exist_ok=True)
    stem, _, suffix = name.partition(".")
    for number, rows in enumerate((slice(0, 2), slice(2, 6))):
        part = {column: cells[rows] for column, cells in TABLE.items()}
        write_table(folder / f"{stem}-{number}.{suffix}", part)
    return folder / f"{stem}-*.{suffix}"


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_pattern_is_the_table_of_its_files(tmp_path: Path, name: str) -> None:
    whole = read_interactions(write_table(tmp_path / name, TABLE))
    pattern = parts(tmp_path / "parts", name)
    assert read_interactions(pattern).digest == whole.digest
    assert sorted(column_names(pattern)) == sorted(TABLE)


def test_a_folder_of_parquet_files_is_a_table(tmp_path: Path) -> None:
    whole = read_interactions(write_table(tmp_path / "x.csv", TABLE))
    parts(tmp_path / "events", "x.parquet")
    for name in ("_SUCCESS", "config.json", "events.meta.json"):
        (tmp_path / "events" / name).touch()
    assert read_interactions(tmp_path / "events").digest == whole.digest
    (tmp_path / "lake").mkdir()
    parts(tmp_path / "lake/x.parquet", "x.parquet")  # one table, as Spark writes it
    for path in ("lake", "lake/**/*.parquet"):
        assert read_interactions(tmp_path / path).digest == whole.digest
    digest = open_split(tmp_path / "x.csv").reference.digest
    assert open_split(tmp_path / "events").reference.digest == digest
    split_events(tmp_path / "events", tmp_path / "split")
    assert open_split(tmp_path / "split").reference.digest == digest


HIDDEN = ("a.parquet", ".b.parquet", ".c/d.parquet", "e/f.parquet", "e/.g.parquet")
LAKE = ("d/x.parquet/a.parquet", "d/e.parquet", "d-1/c.parquet", "d.2/b.pq", "z.PARQUET")


@pytest.mark.parametrize(
    ("files", "path", "names"),
    [
        (HIDDEN, "", "af"),
        (HIDDEN, "*.parquet", "a"),
        (HIDDEN, "**/*.parquet", "af"),
        (HIDDEN, ".b*.parquet", ".b"),
        (HIDDEN, ".c", "d"),
        (HIDDEN, ".c/*.parquet", "d"),
        (HIDDEN, "*/.g*.parquet", ".g"),
        (LAKE, "", "cbeaz"),
        (LAKE, "**/*.parquet", "cea"),
        (LAKE, "d/*.parquet", "ea"),
        (LAKE, "d*/*.p*", "cbea"),
    ],
)
def test_each_way_reads_the_same_files_in_one_order(
    tmp_path: Path, files: tuple[str, ...], path: str, names: str
) -> None:
    folder = tmp_path / "lake"
    for file in (folder / name for name in files):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_table(tmp_path / "file.parquet", {"user": [file.stem]}).rename(file)
    for located in (folder / path, Path(f"file://{folder}/{path}")):
        assert "".join(read_columns(located, ["user"])["user"].to_pylist()) == names
    assert "".join(Path(url).stem for url in table_urls(str(folder / path))) == names


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    pattern = parts(tmp_path, "x.csv")
    write_table(tmp_path / "x-2.csv", {"user": ["u"], "other": ["a"]})
    with pytest.raises(DataError, match=r"x-2\.csv has other columns than .*x-0\.csv"):
        column_names(pattern)
    with pytest.raises(DataError, match=r"no file matches .*y-\*\.csv"):
        column_names(tmp_path / "y-*.csv")
    named = write_table(tmp_path / "a[1].csv", TABLE)  # a name, not a pattern
    assert column_names(named) == tuple(TABLE)


def test_tables_at_a_url_are_read(tmp_path: Path, s3: Wire) -> None:
    whole = read_interactions(write_table(tmp_path / "x.csv", TABLE))
    parts(tmp_path / "parts", "x.parquet")
    store = fsspec.filesystem("s3")
    store.put_file(str(tmp_path / "x.csv"), f"{BUCKET}/data/x.csv")
    for file in (tmp_path / "parts").iterdir():
        store.put_file(str(file), f"{BUCKET}/events/{file.name}")
    store.pipe_file(f"{BUCKET}/data/torn.csv", b"user,item,ts\nu,a\n")
    for location in ("data/x.csv", "data/x*.csv", "events", "events/x-*.parquet"):
        assert read_interactions(Path(f"s3://{BUCKET}/{location}")).digest == whole.digest
    with pytest.raises(DataError, match="does not exist"):
        table_urls(f"s3://{BUCKET}/none.csv")
    store.pipe_file(f"{BUCKET}/torn/0.parquet", b"PAR1")
    with pytest.raises(DataError, match=rf"^s3://{BUCKET}/torn/0.parquet cannot be read"):
        list_shards(f"s3://{BUCKET}/torn")
    with pytest.raises(DataError, match=rf"s3://{BUCKET}/data/torn.csv, line 2"):
        read_columns(Path(f"s3://{BUCKET}/data/torn.csv"), ["user", "item", "ts"])
    with pytest.raises(DataError, match="does not exist"):
        column_names(Path(f"s3://{BUCKET}/data/none.csv"))
    with pytest.raises(UsageError, match=r"nope://x\.csv cannot be opened"):
        column_names(Path("nope://x.csv"))


def test_a_newer_copy_takes_the_place_of_an_older_one() -> None:
    store, url = fsspec.filesystem("memory"), Path("memory://replaced/x.csv")
    folders: list[str] = []
    for user in ("u", "v"):
        store.pipe_file("/replaced/x.csv", f"user\n{user}\n".encode())
        assert read_columns(url, ["user"])["user"].to_pylist() == [user]
        folders += [table_files(url).folder, table_files(url).folder]
    assert folders[0] == folders[1] != folders[2] == folders[3]
    assert [Path(folder).exists() for folder in folders[1:3]] == [False, True]


@pytest.mark.parametrize("method", ["find", "get_file"])
def test_a_store_that_refuses_is_named(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/denied/x.parquet", b"")
    monkeypatch.setattr(type(memory), method, denied)
    with pytest.raises(DataError, match="memory://denied cannot be read: Access Denied"):
        table_files(Path("memory://denied"))
