"""Files of a split in columns: what is written is read back, in any groups of rows, and files that
no writer made are refused although their digests are right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.digests import file_digest
from sidtool.base.errors import DataError, IntegrityError
from sidtool.data.fields.field_columns import FieldName, FieldOptions
from sidtool.data.split import SessionRule, Split, SplitOptions, read_split, write_parts
from sidtool.data.split.files import write_split
from sidtool.data.split.make import make_split
from tests.data.tables.files import write_table
from tests.sealed import reseal

N_EVENTS = 70
NOTHING: dict[str, list[Any]] = {
    name: []
    for name in ("items", "positions", "times", "event_rating", "event_clicks", "event_device")
}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Sessions of up to three events of seven users, with fields of every type."""
    folder = tmp_path_factory.mktemp("events")
    table = {
        "user_id": [f"u{event % 7}" for event in range(N_EVENTS)],
        "item_id": [f"i{event * event % 11}" for event in range(N_EVENTS)],
        "timestamp": [
            str(1_700_000_000 + 86_400 * (event // 21) + event) for event in range(N_EVENTS)
        ],
        "rating": [("", "1", "2.5")[event % 3] for event in range(N_EVENTS)],
        "clicks": [str(event % 4) for event in range(N_EVENTS)],
        "device": [("tv", "")[event % 5 == 0] for event in range(N_EVENTS)],
    }
    users = write_table(folder / "users.csv", {"user_id": ["u0", "u3"], "age": ["30", "40"]})
    fields = FieldOptions(
        (FieldName("rating"), FieldName("clicks")), (FieldName("device"),), users=users, times=True
    )
    options = SplitOptions("last-session", fields=fields, sessions=SessionRule(gap=3600.0))
    with pytest.warns(match="have no row"):
        return make_split(write_table(folder / "events.csv", table), options)


@pytest.mark.parametrize("group_events", [1, 7, 1000])
def test_any_groups_of_rows_hold_the_same_split(
    split: Split, tmp_path: Path, group_events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_parts, "GROUP_EVENTS", group_events)
    write_split(split, tmp_path / "split")
    n_groups = pq.ParquetFile(tmp_path / "split" / "train.parquet").num_row_groups
    assert (n_groups == 1) == (group_events == 1000)
    assert read_split(tmp_path / "split") == split


def rewritten(split: Split, folder: Path, part: str, change: Callable[[Path], object]) -> Path:
    """The folder of a split with a file that is changed, and signed again."""
    files = dict(write_split(split, folder / "split").files)
    path = folder / "split" / f"{part}.parquet"
    change(path)
    reseal(folder / "split" / "split.json", {"files": files | {path.name: file_digest(path)}})
    return folder / "split"


def without(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([name])


def changed(name: str, change: Callable[[list[Any]], Any], kind: Any = None) -> Any:
    """A table whose column `name` is changed in place."""

    def apply(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        change(values)
        stored = table.schema.field(name).type
        if pa.types.is_list(stored):  # a writer may let its members lack a value
            stored = pa.list_(stored.value_type)
        column = pa.array(values, kind or stored)
        return table.set_column(table.schema.get_field_index(name), name, column)

    return apply


CHANGES: list[tuple[str, Callable[[pa.Table], pa.Table], str]] = [
    ("train", without("positions"), "not the columns"),
    ("train", lambda t: t.append_column("more", t["user"]), "not the columns"),
    ("train", lambda t: t.slice(0, 0), "lacks an event|no rows"),
    ("train", changed("user", lambda v: v.__setitem__(0, None)), "user lacks a value"),
    ("train", changed("user", lambda v: v.__setitem__(0, v[1])), "two rows of a user"),
    ("train", changed("items", lambda v: v.__setitem__(0, None)), "a row without a list"),
    ("train", changed("items", lambda v: v[0].__setitem__(0, None)), "items lacks a value"),
    ("train", changed("items", lambda v: v[0].pop()), "items differ in length"),
    ("train", lambda t: pa.Table.from_pylist([t.to_pylist()[0] | NOTHING], t.schema), "without"),
    ("train", changed("positions", lambda v: v[0].reverse()), "are not 0, 1, 2"),
    ("train", changed("positions", lambda v: v[0].__setitem__(0, -1)), "are not 0, 1, 2"),
    ("train", changed("event_rating", lambda v: v[0].pop()), "items differ in length"),
    ("train", lambda t: without("user")(t.append_column("person", t["user"])), "not the columns"),
    ("train", changed("sessions", lambda v: v[0].__setitem__(0, 1)), "do not divide"),
    ("train", changed("sessions", lambda v: v[0].append(900)), "do not divide"),
    ("train", changed("sessions", lambda v: v[0].clear()), "do not divide"),
    ("train", changed("positions", list.reverse, pa.list_(pa.int64())), "of type int64, not int32"),
    ("valid", changed("user_age", lambda v: v.__setitem__(0, 77)), "differs between two files"),
    ("valid", changed("positions", lambda v: v[0].__setitem__(0, 0)), "do not ascend"),
    ("valid", changed("targets", lambda v: v[0].__setitem__(0, 0)), "not among the events"),
    ("valid", changed("targets", lambda v: v[0].clear()), "no target"),
    ("valid", changed("history", lambda v: v.__setitem__(0, -5)), "no history"),
    ("valid", changed("history", lambda v: v.__setitem__(0, 900)), "history lacks an event"),
    ("test", changed("history", lambda v: v.__setitem__(0, v[0] - 1)), "history"),
    ("test", changed("items", lambda v: v[0].__setitem__(0, "other")), "holds a split"),
]


@pytest.mark.parametrize(("part", "change", "message"), CHANGES)
def test_a_signed_file_that_no_writer_made_is_refused(
    split: Split, tmp_path: Path, part: str, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    def apply(path: Path) -> None:
        pq.write_table(change(pq.read_table(path)), path)

    folder = rewritten(split, tmp_path, part, apply)
    with pytest.raises((IntegrityError, DataError), match=message) as caught:
        read_split(folder)
    assert "\n" not in str(caught.value)


def test_users_may_be_coded_in_any_order(split: Split, tmp_path: Path) -> None:
    def code_backwards(path: Path) -> None:
        table = pq.read_table(path)
        users = table["user"].combine_chunks()
        backwards = pa.array(range(len(users) - 1, -1, -1), pa.int32())
        coded = pa.DictionaryArray.from_arrays(backwards, users.take(backwards))
        pq.write_table(table.set_column(table.column_names.index("user"), "user", coded), path)

    assert read_split(rewritten(split, tmp_path, "train", code_backwards)) == split


def replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    """A file without compression, a piece of which is changed in place."""

    def apply(path: Path) -> None:
        pq.write_table(pq.read_table(path), path, compression="none", write_statistics=False)
        content = path.read_bytes()
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))

    return apply


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b"garbage"), "footer"),
    (lambda path: path.write_bytes(path.read_bytes()[:-9]), "footer"),
    # the codes of seven users, of which the last one becomes 7
    (replaced(b"\x88\xc6\x1a", b"\x88\xc6\x1e"), "out of bounds"),
    (replaced(b"\x02\0\0\0u6", b"\x02\0\0\0\xff6"), "UTF8"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_signed_file_that_is_damaged_is_refused_by_name(
    split: Split, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = rewritten(split, tmp_path, "train", damage)
    with pytest.raises(DataError, match=f"train.parquet cannot be read: .*{message}"):
        read_split(folder)
