from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError, IntegrityError, UsageError
from sidtool.data import EventNames, FieldName, FieldOptions
from sidtool.data.split import SessionRule, SplitManifest, SplitOptions, read_manifest, read_split
from sidtool.data.split.make import make_split
from sidtool.data.split.parts import PartPlan, group_rows, user_parts
from sidtool.integrations.cluster.split_parts import PartOptions, split_in_parts
from tests.data.tables.files import write_table
from tests.sealed import reseal

TIMES = FieldOptions((FieldName("rating"), FieldName("clicks")), times=True, target=("rating>=2",))
CASES = {
    "leave-one-out": SplitOptions(),
    "rows": SplitOptions(columns=EventNames(order_by="row")),
    "temporal": SplitOptions("temporal", valid_from=1_700_300_000, test_from=1_700_400_000),
    "last-session": SplitOptions("last-session", sessions=SessionRule(gap=40_000.0)),
    "fields": SplitOptions(fields=TIMES, sessions=SessionRule(column="visit")),
}
N_EVENTS = 600


def write_events(folder: Path, n_files: int = 3, **columns: list[str]) -> Path:
    """Events of 40 users in several files, in no order of time, some without a rating."""
    rng = np.random.default_rng(0)
    moments = 1_700_000_000 + rng.integers(0, 500_000, N_EVENTS)
    table = {
        "user_id": [f"ü{user}" for user in rng.integers(0, 40, N_EVENTS)],
        "item_id": [f"{item:04d}" for item in rng.integers(0, 30, N_EVENTS)],
        "timestamp": [str(moment) for moment in moments],
        "rating": [("", "1", "2", "3")[event % 4] for event in range(N_EVENTS)],
        "clicks": [str(event % 5) for event in range(N_EVENTS)],
        "visit": [str(moment // 50_000) for moment in moments],
        **columns,
    }
    folder.mkdir()
    for number in range(n_files):
        rows = slice(number * N_EVENTS // n_files, (number + 1) * N_EVENTS // n_files)
        part = {name: cells[rows] for name, cells in table.items()}
        pq.write_table(pa.table(part), folder / f"{number}.parquet")
    return folder


def divide(events: Path, out: Path, options: SplitOptions, parts: int = 7) -> SplitManifest:
    return split_in_parts(str(events), out, options, run=PartOptions(parts=parts))


@pytest.mark.parametrize("name", CASES)
def test_the_whole_is_that_of_one_process(tmp_path: Path, name: str) -> None:
    events, options = write_events(tmp_path / "events"), CASES[name]
    whole = make_split(events, options)
    manifest = divide(events, tmp_path / "split", options)
    expected = whole.manifest({}).to_json()
    stored = manifest.to_json()
    assert {key for key in expected if expected[key] != stored[key]} == {"events_digest", "files"}
    split = read_split(tmp_path / "split")
    for part in ("train", "valid", "test"):
        mine, theirs = (
            sorted(getattr(source, part), key=lambda row: (row.user, str(row)))
            for source in (split, whole)
        )
        assert mine == theirs
    part_splits = [read_split(tmp_path / "split", only) for only in manifest.folders]
    assert sum(part.counts.train_events for part in part_splits) == whole.counts.train_events
    assert sum(len(part.test) for part in part_splits) == len(whole.test)
    assert {part.reference for part in part_splits} == {whole.reference}


def test_a_part_without_events_has_no_files(tmp_path: Path) -> None:
    events = write_events(tmp_path / "events")
    manifest = divide(events, tmp_path / "split", SplitOptions(), parts=60)
    assert 1 < len(manifest.folders) <= 40
    assert manifest.digest == make_split(events).reference.digest
    assert read_split(tmp_path / "split").reference.digest == manifest.digest


def test_a_part_without_training_events_has_no_sessions(tmp_path: Path) -> None:
    timestamps = [1_700_000_000_000 + 1000 * event for event in range(N_EVENTS)]
    # all users but one have their events behind the cuts
    users = ["early" if event < N_EVENTS // 2 else f"u{event % 9}" for event in range(N_EVENTS)]
    columns = {"user_id": users, "timestamp": list(map(str, timestamps))}
    events = write_events(tmp_path / "events", **columns)
    # dates are in the unit of the times; a number is one of them
    cuts = {"valid_from": "2023-11-14T22:16:40", "test_from": timestamps[400]}
    options = SplitOptions("temporal", sessions=SessionRule(gap=40_000.0), **cuts)
    manifest = divide(events, tmp_path / "split", options)
    part_splits = [read_split(tmp_path / "split", only) for only in manifest.folders]
    assert sorted(part.counts.train_events for part in part_splits)[-2:] == [0, 200]
    assert read_split(tmp_path / "split").reference == make_split(events, options).reference


def test_a_part_may_lack_targets_and_values(tmp_path: Path) -> None:
    users = [event % 40 for event in range(N_EVENTS)]
    columns = {
        "user_id": [f"u{user}" for user in users],
        "rating": ["3" if user < 3 else "1" for user in users],
        "clicks": ["7" if user == 0 else "" for user in users],
    }
    events = write_events(tmp_path / "events", **columns)
    fields = FieldOptions((FieldName("clicks", "int"),), target=("rating>=2",))
    options = SplitOptions(fields=fields)
    manifest = divide(events, tmp_path / "split", options)
    assert manifest.reference == make_split(events, options).reference
    assert len(read_split(tmp_path / "split").test) == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (FieldOptions((FieldName("clicks", "int"),)), "clicks: no event has a value"),
        (FieldOptions((FieldName("rating"),), target=("rating>=2",)), "no event fulfills --target"),
    ],
)
def test_all_parts_may_not(tmp_path: Path, fields: FieldOptions, words: str) -> None:
    columns = {"rating": ["1"] * N_EVENTS, "clicks": [""] * N_EVENTS}
    events = write_events(tmp_path / "events", **columns)
    with pytest.raises(DataError, match=words):
        divide(events, tmp_path / "split", SplitOptions(fields=fields))


def test_a_csv_pattern(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    for number in range(2):
        table = {"user": ["a"] * 4, "item": list("wxyz"), "date": [f"0{number + 1}/05/2020"] * 4}
        write_table(tmp_path / f"events/{number}.csv", table)
    options = SplitOptions(columns=EventNames(time_format="%d/%m/%Y"))
    manifest = divide(tmp_path / "events/*.csv", tmp_path / "split", options)
    assert manifest.digest == make_split(tmp_path / "events/*.csv", options).reference.digest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SplitOptions("temporal"), "the default cuts"),
        (SplitOptions(extends=(Path("earlier"),)), "--extends"),
        (SplitOptions("given", Path("valid.csv"), Path("test.csv")), "--protocol given"),
        (SplitOptions(fields=FieldOptions(users=Path("users.csv"))), "--users"),
        (
            SplitOptions("temporal", valid_from=3, test_from=5, columns=EventNames(order_by="row")),
            "--order row",
        ),
    ],
)
def test_what_needs_all_users_is_refused(options: SplitOptions, words: str) -> None:
    with pytest.raises(UsageError, match=f"a split in parts cannot use .*{words}"):
        PartPlan(options, 4)


def cells(value: str, usual: str, at: int = 500) -> list[str]:
    return [value if row == at else usual for row in range(N_EVENTS)]


MIXED = ["7"] * 400 + ["2020-01-01"] * 200
UNITS = ["1700000000"] * 400 + ["1700000000000"] * 200


@pytest.mark.parametrize(
    ("columns", "fields", "message"),
    [
        ({"user_id": cells("", "u")}, FieldOptions(), r"2\.parquet, row 101: the user id is empty"),
        ({"timestamp": cells("soon", "7")}, FieldOptions(), r"row 101: the order 'soon'"),
        ({"timestamp": MIXED}, FieldOptions(), r"0\.parquet and .*2\.parquet: .* the number '7'"),
        ({"timestamp": UNITS}, FieldOptions(), "units: 400 in seconds, 200 in milliseconds"),
        ({"user_id": list("ab") * 300, "rating": ["2", "2.5"] * 300}, TIMES, "in two parts"),
        ({"clicks": cells("", "")}, TIMES, r"part \d of 7 of .*: clicks has no"),
        ({"user_id": [f"u{row}" for row in range(N_EVENTS)]}, FieldOptions(), "0 valid"),
    ],
)
def test_malformed_events_leave_nothing_whole(
    tmp_path: Path, columns: dict[str, Any], fields: FieldOptions, message: str
) -> None:
    events = write_events(tmp_path / "events", **columns)
    with pytest.raises(DataError, match=message) as caught:
        divide(events, tmp_path / "split", SplitOptions(fields=fields))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "split").exists()


def test_damaged_parts_are_refused(tmp_path: Path) -> None:
    manifest = divide(write_events(tmp_path / "events"), tmp_path / "split", SplitOptions())
    folder, first = tmp_path / "split", manifest.folders[0]
    lost = folder / first / "valid.parquet"
    data = lost.read_bytes()
    lost.write_bytes(b"x" + data[1:])
    for only in (None, first):
        with pytest.raises(IntegrityError, match="has digest"):
            read_split(folder, only)
    read_split(folder, manifest.folders[1])  # another part is whole
    lost.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        read_split(folder)
    lost.write_bytes(data)
    # a signed manifest without the files of a part has another digest, other names are no parts
    files = {name: digest for name, digest in manifest.files.items() if first not in name}
    reseal(folder / "split.json", {"files": files})
    with pytest.raises(IntegrityError, match="holds a split with"):
        read_split(folder)
    reseal(folder / "split.json", {"files": {f"../{name}": sha for name, sha in files.items()}})
    with pytest.raises(IntegrityError, match="lists the files"):
        read_manifest(folder)


def test_files_of_different_columns_are_named(tmp_path: Path) -> None:
    events = write_events(tmp_path / "events")
    last = events / "2.parquet"
    table = pq.read_table(last)
    names = ["ts" if name == "timestamp" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), last)
    message = (
        "2.parquet has its events in the columns user_id, item_id, ts, another file in user_id"
    )
    with pytest.raises(DataError, match=message):
        divide(events, tmp_path / "split", SplitOptions())


def test_grouping_holds_no_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the next rows of a file are read, no copy of those before them is in memory."""
    names = ("user_id", "item_id", "timestamp")
    source = write_table(tmp_path / "events.csv", {name: ["1"] for name in names})
    numbers = np.arange(1 << 14)
    before = pa.total_allocated_bytes()
    held = []

    def batches(*_: Any, **__: Any) -> Iterator[dict[str, pa.ChunkedArray]]:
        for _ in range(8):  # four make a run
            yield {name: pa.chunked_array([pa.array(numbers).cast(pa.string())]) for name in names}
            held.append(pa.total_allocated_bytes() - before)

    monkeypatch.setattr(user_parts, "column_batches", batches)
    monkeypatch.setattr(user_parts, "GROUPED_ROWS", 4 * len(numbers))
    plan = PartPlan(SplitOptions(), 4)
    group_rows(plan, plan.columns_of(source), source, tmp_path / "grouped.arrow")
    assert len(held) == 8
    assert max(held[3], held[7]) < 1.5 * held[0]  # the last batch of the run, which is named still
