import hashlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidtool.base import documents
from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, UsageError
from sidtool.data.columns import EventColumns, EventNames
from sidtool.data.split.files import open_split, read_split, split_events, write_split
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.packing import pack_parts, parts_of_windows
from sidtool.data.split.record import Cuts, SessionRule, SplitManifest, SplitReference, check_split
from sidtool.data.split.split import Split
from sidtool.data.split.values import UserSequence
from tests.data.split.cases import write_windows
from tests.data.split.lines import of_lines, write_lines
from tests.data.tables.files import write_table
from tests.pairs import all_pairs
from tests.sealed import reseal

LINES = [(f"u{user}", f"i{(3 * user + step) % 11}", step) for user in range(9) for step in range(6)]

X = Path("x")


def events(folder: Path, lines: list[tuple[str, str, int]], name: str = "events.csv") -> Path:
    users, items, times = zip(*lines, strict=True)
    columns = {"user_id": list(users), "item_id": list(items), "timestamp": list(map(str, times))}
    return write_table(folder / name, columns)


def windows(folder: Path) -> tuple[Path, SplitOptions]:
    train, valid, test = write_windows(folder, LINES)
    return train, SplitOptions("given", valid=valid, test=test)


def splits(folder: Path) -> list[Split]:
    path = events(folder, LINES)
    return [
        make_split(path),
        make_split(path, SplitOptions("temporal")),
        make_split(*windows(folder)),
    ]


def lines(folder: Path, split: Split) -> Path:
    """The folder of a split in JSON Lines."""
    write_lines(split, folder / "split")
    return folder / "split"


def refused(folder: Path, message: str = ".") -> IntegrityError:
    """Read a split, which must be refused in one line."""
    with pytest.raises(IntegrityError, match=message) as caught:
        read_split(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_written_split_is_read_back(tmp_path: Path) -> None:
    for split in splits(tmp_path):
        folder = tmp_path / split.protocol
        manifest = write_split(split, folder)
        assert read_split(folder) == open_split(folder) == split
        assert (manifest.digest, manifest.counts) == (split.reference.digest, split.counts)
        stored = json.loads((folder / "split.json").read_text())
        assert SplitManifest.from_json(stored) == manifest
        assert set(manifest.files) == {"train.parquet", "valid.parquet", "test.parquet"}
        assert set(manifest.files) | {"split.json"} == {path.name for path in folder.iterdir()}


def test_windows_have_no_memory_budget(tmp_path: Path) -> None:
    train, options = windows(tmp_path)
    with pytest.raises(UsageError, match="a memory budget is for events"):
        split_events(train, tmp_path / "split", options, memory_limit=1 << 30)


def test_a_split_of_lines_is_read_with_its_digests(tmp_path: Path) -> None:
    for split in splits(tmp_path):
        folder = tmp_path / split.protocol
        manifest = write_lines(split, folder)
        assert read_split(folder) == of_lines(split)
        assert manifest.digest == read_split(folder).reference.digest != split.reference.digest
        assert ("windows.jsonl" in manifest.files) == (split.protocol == "given")


def test_events_in_place_of_a_folder_are_the_default_split(tmp_path: Path) -> None:
    path = events(tmp_path, LINES)
    manifest = split_events(path, tmp_path / "split")
    assert open_split(path) == open_split(tmp_path / "split")
    assert open_split(path).reference.digest == manifest.digest
    assert (manifest.columns.user, manifest.columns.order) == ("user_id", "timestamp")


def test_the_digest_depends_on_values_and_not_on_paths_or_order(tmp_path: Path) -> None:
    first = split_events(events(tmp_path, LINES), tmp_path / "one")
    users = [f"u{user}" for user in range(9)]
    random.Random(0).shuffle(users)
    shuffled = [line for user in users for line in LINES if line[0] == user]
    other = split_events(events(tmp_path, shuffled, "other.tsv"), tmp_path / "two")
    assert (other.digest, other.counts) == (first.digest, first.counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidtool.data.split.digests.RUN_EVENTS", 1)
        in_runs = split_events(events(tmp_path, LINES), tmp_path / "runs")
    assert in_runs.digest == first.digest
    for changed in range(6):
        lines = [(u, "new" if n == changed else i, t) for n, (u, i, t) in enumerate(LINES)]
        third = make_split(events(tmp_path, lines, "third.csv")).manifest({})
        assert third.digest != first.digest
        assert (third.train_digest == first.train_digest) == (changed >= 4)
        assert (third.held_out_digest == first.held_out_digest) == (changed < 4)


def test_two_protocols_with_equal_parts_have_one_digest(tmp_path: Path) -> None:
    by_events, _, by_windows = splits(tmp_path)
    assert by_windows.reference.digest == by_events.reference.digest


def test_a_changed_or_missing_file_is_refused(tmp_path: Path) -> None:
    folder = lines(tmp_path, splits(tmp_path)[2])
    for name in ("train.jsonl", "valid.jsonl", "test.jsonl", "windows.jsonl"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"i1", b"i2", 1))
        refused(folder, f"{name} has digest")
        (folder / name).unlink()
        refused(folder, f"{name} is missing")
        (folder / name).write_bytes(content)
    read_split(folder)


@pytest.mark.parametrize("place", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_manifest_that_has_no_end_is_refused(
    tmp_path: Path, place: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIPE_SECONDS", 0.1)
    place(tmp_path / "split.json")
    with pytest.raises(DataError, match=r"^cannot read .*split\.json: "):
        open_split(tmp_path)


def test_a_manifest_that_contradicts_the_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "split"
    write_split(splits(tmp_path)[1], folder)
    path = folder / "split.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"format": 99}))
    with pytest.raises(CompatibilityError, match="format 99"):
        read_split(folder)
    reseal(path, {"format": 4, "digest": "0" * 64})
    refused(folder, "says 000000000000")
    path.write_text(json.dumps(stored | {"extends": ["0" * 64]}))
    refused(folder, r"split\.json is damaged: it differs from its own")
    for broken in ("{", "[]", "{}", json.dumps(stored | {"counts": {}})):
        path.write_text(broken)
        refused(folder)
    path.write_text(json.dumps(stored))
    reseal(path, {"later": "keys are ignored"})
    read_split(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"it has no split\.json"):
        open_split(folder)


def test_an_output_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = events(tmp_path, LINES)
    assert split_events(path, tmp_path / "split", dry_run=True).files == {}
    assert not (tmp_path / "split").exists()
    written = split_events(path, tmp_path / "split")
    with pytest.raises(UsageError, match="exists already"):
        split_events(path, tmp_path / "split")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("sidtool.data.split.files.write_logs", fail)
    with pytest.raises(OSError, match="disk full"):
        split_events(path, tmp_path / "split", SplitOptions("temporal"), force=True)
    assert read_split(tmp_path / "split").reference.digest == written.digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "magic"}, "protocol must be one of leave-one-out"),
        ({"protocol": "given"}, "requires --valid and --test"),
        ({"protocol": "given", "valid": Path("x")}, "must be given together"),
        ({"valid": Path("x"), "test": Path("x")}, "require --protocol given"),
        ({"valid_from": "3"}, "require --protocol temporal"),
        ({"protocol": "temporal", "valid_from": "3"}, "must be given together"),
        (
            {"protocol": "given", "valid": X, "test": X, "columns": EventNames(item="asin")},
            "--item-column does not apply",
        ),
        (
            {"protocol": "given", "valid": X, "test": X, "sessions": SessionRule(gap=5)},
            "windows have no sessions",
        ),
        ({"protocol": "last-session"}, "requires --session-gap or --session-column"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SplitOptions(**options)  # type: ignore[arg-type]


def test_cuts_are_numbers_or_dates(tmp_path: Path) -> None:
    options = SplitOptions("temporal", valid_from="1970-01-01T00:00:03", test_from=4.0)
    assert make_split(events(tmp_path, LINES), options).origin.cuts == Cuts(3.0, 4.0)
    with pytest.raises(UsageError, match="someday"):
        make_split(tmp_path / "none.csv", replace(options, valid_from="someday"))


@pytest.mark.parametrize(
    ("cuts", "other", "order", "excluded"),
    [
        ((1.525e9, 1.528e9), (1.6e9, 1.7e9), "time", True),
        ((1.525e9, 1.528e9), (1.507e12, 1.513e12), "time", False),  # milliseconds of 2017
        ((160, 180), (320, 360), "day", True),
        ((160, 180), (320, 360), None, False),  # row 320 of another file may be older
        ((3, 4), (1.525e9, 1.528e9), "time", False),
        ((5e7, 2e8), (5e7, 2e8), "time", False),
        ((3, 4), (4, 5), "time", True),
        ((3, 4), (5, 6), "time", True),
        # events from 3.5 to 4 are held out that the earlier split was validated on
        ((3, 4), (3.5, 9), "time", False),
        ((3, 4), (3, 4), "time", False),
    ],
)
def test_cuts_compare_in_one_unit_of_time_and_only_if_one_split_ends_first(
    cuts: tuple[float, float], other: tuple[float, float], order: str | None, excluded: bool
) -> None:
    columns = EventColumns("user", "item", order)
    early = SplitReference("temporal", "a", Cuts(*cuts), columns=columns)
    late = SplitReference("temporal", "b", Cuts(*other), columns=columns)
    assert early.excludes_held_out(late) == excluded
    assert not replace(early, columns=None).excludes_held_out(late)


def test_splits_of_other_protocols_exclude_each_other_by_their_digests() -> None:
    reference = SplitReference("leave-one-out", "a")
    assert reference.excludes_held_out(SplitReference("given", "a"))
    assert not reference.excludes_held_out(SplitReference("leave-one-out", "b"))
    by_time = EventColumns("user", "item", "time")
    early = SplitReference("temporal", "c" * 64, Cuts(3, 4), columns=by_time)
    assert not early.excludes_held_out(reference)
    assert not reference.excludes_held_out(early)
    assert SplitReference.from_json(early.to_json()) == early


def test_the_refusal_names_both_splits() -> None:
    one = SplitReference("leave-one-out", "1" * 64)
    two = SplitReference("given", "2" * 64)
    check_split("bundle b", None, "events.csv", two)
    check_split("bundle b", one, "events.csv", None)
    check_split("bundle b", one, "events.csv", one)
    message = r"bundle b .* 111111111111 \(leave-one-out\), events.csv .* 222222222222 \(given\)"
    with pytest.raises(CompatibilityError, match=message):
        check_split("bundle b", one, "events.csv", two)
    with pytest.raises(CompatibilityError) as caught:
        check_split("bundle b", one, "events.csv", replace(two, extends=("3" * 64,)))
    assert str(caught.value.shell_hint).endswith(f"one more --extends, which names split {one}")
    later = replace(one, extends=("2" * 64, "3" * 64))
    with pytest.raises(CompatibilityError) as caught:
        check_split("bundle b", later, "events.csv", replace(two, extends=("3" * 64,)))
    assert str(caught.value.shell_hint).startswith("make both from one split")


@pytest.mark.parametrize(
    "changes",
    [
        *({key: ...} for key in ("format", "protocol", "digest", "counts", "cuts", "files")),
        *({"format": value} for value in ("1", True, 0, 1.0, None)),
        *({"protocol": value} for value in ("magic", "temporal", "given")),
        {"protocol": "given", "parts": 2},
        *({key: "0" * 64} for key in ("train_digest", "held_out_digest")),
        {"digest": 1},
        {"counts": {"users": 9, "train_events": 36, "valid": 9, "test": 10}},
        {"counts": {"users": "9", "train_events": 36, "valid": 9, "test": 9}},
        {"counts": []},
        {"cuts": [1, 2]},
        {"cuts": {"valid_from": True, "test_from": 2}},
        {"columns": {"user": 1, "item": "i", "order": None}},
        *({"files": files} for files in ({}, [], {"train.jsonl": None})),
        *({"files": {name: "0" * 64}} for name in ("../outside.jsonl", "/etc/hostname")),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    write_split(splits(tmp_path)[0], tmp_path / "split")
    reseal(tmp_path / "split" / "split.json", changes)
    refused(tmp_path / "split")


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": 1, "format": 1}',
        b'{"format": NaN}',
        b'{"format": 1, "a": "\\ud800"}',
        b"\xff",
        b"",
    ],
)
def test_a_manifest_that_is_no_json_is_refused(tmp_path: Path, text: bytes) -> None:
    write_split(splits(tmp_path)[0], tmp_path / "split")
    (tmp_path / "split" / "split.json").write_bytes(text)
    refused(tmp_path / "split", r"split\.json is damaged")


def rewritten(folder: Path, name: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the rows of a file, and recompute its digest in the manifest."""
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    change(rows)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / name).write_bytes(content)
    files = json.loads((folder / "split.json").read_text())["files"]
    reseal(folder / "split.json", {"files": {**files, name: hashlib.sha256(content).hexdigest()}})


HISTORY_CHANGES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "another item": lambda rows: rows[0]["history"].__setitem__(0, "other"),
    "the last item is the target": lambda rows: rows[0]["history"].__setitem__(-1, rows[0]["item"]),
    "no history": lambda rows: rows[0]["history"].clear(),
    "one item less": lambda rows: rows[3]["history"].pop(0),
    "one item more": lambda rows: rows[3]["history"].append(rows[3]["item"]),
    "reversed": lambda rows: rows[5]["history"].reverse(),
    "of another user": lambda rows: rows[1].update(history=rows[2]["history"]),
}


@pytest.mark.parametrize(
    ("name", "change", "protocol"),
    all_pairs(["valid.jsonl", "test.jsonl"], HISTORY_CHANGES, [0, 1]),
)
def test_a_signed_history_that_the_events_contradict_is_refused(
    tmp_path: Path, name: str, change: str, protocol: int
) -> None:
    folder = lines(tmp_path, splits(tmp_path)[protocol])
    rewritten(folder, name, HISTORY_CHANGES[change])
    refused(folder, "user 'u")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("windows", lambda history: history.__setitem__(0, "other"), "the windows show other"),
        ("test", lambda history: history.extend(["a"] * 9), "test: user 'u0' has a target before"),
    ],
)
def test_a_window_that_contradicts_the_events_is_refused(
    tmp_path: Path, name: str, change: Callable[[list[str]], None], message: str
) -> None:
    folder = lines(tmp_path, splits(tmp_path)[2])
    rewritten(folder, f"{name}.jsonl", lambda rows: change(rows[0]["history"]))
    refused(folder, message)


def test_a_window_that_shows_a_held_out_event_is_refused(tmp_path: Path) -> None:
    split = splits(tmp_path)[2]
    windows = (*(split.windows or ()), *split.valid)
    packed = pack_parts((), split.valid, split.test, windows)
    parts = parts_of_windows(packed.windows, packed.valid, packed.test)
    with pytest.raises(IntegrityError, match="training events are held out"):
        write_split(replace(split, **vars(parts)), tmp_path / "leaking")


def test_an_example_with_other_fields_than_the_others_is_refused(tmp_path: Path) -> None:
    folder = lines(tmp_path, splits(tmp_path)[0])
    rewritten(folder, "test.jsonl", lambda rows: rows[0].update(fields={"user": {"age": 3}}))
    assert refused(folder, f"{folder}: user 'u0' has other fields").hint == "make the split again"


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_a_user_without_events_is_refused(tmp_path: Path, protocol: int) -> None:
    split = splits(tmp_path)[protocol]
    with_empty = replace(split, train=(*split.train, UserSequence("u10", (), ())))
    refused(lines(tmp_path, with_empty), "user 'u10'")


def test_an_impossible_leave_one_out_is_refused(tmp_path: Path) -> None:
    split = splits(tmp_path)[0]
    for message, parts in (
        ("'u0' twice", {"train": (*split.train, split.train[0])}),
        ("empty", {"test": ()}),
        ("one example of each user", {"test": split.test[1:]}),
        ("not all 2 events", {"valid": split.valid[1:]}),
        ("4 targets and no example", {"valid": split.valid[1:], "test": split.test[1:]}),
    ):
        refused(lines(tmp_path, replace(split, **parts)), message)


def test_a_temporal_split_without_some_first_events_is_read_back(tmp_path: Path) -> None:
    late = [("late", f"i{step}", 4 + step) for step in range(4)]
    options = SplitOptions("temporal", valid_from=4, test_from=5)
    split = make_split(events(tmp_path, [*LINES, *late]), options)
    assert split.origin.left_out == 1
    write_split(split, tmp_path / "split")
    assert read_split(tmp_path / "split") == split
