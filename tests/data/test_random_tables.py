"""Random tables, clean and dirty, are read as a naive reference reads them: the csv module, sets
and sorted(), without a thought of memory."""

import csv
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from sidtool.base.errors import DataError
from sidtool.data.event_sort import EVENT_BYTES, Spill
from sidtool.data.interactions import read_interactions
from sidtool.data.prepare.cleaning import clean_catalog, clean_events
from sidtool.data.prepare.tables import read_catalog_table, read_event_table
from tests.data.tables.files import write_table

NAMES = ("user_id", "item_id", "timestamp", "rating")
IDS = ["a", "0034", "34", " a ", "\u00e9", "e\u0301", "x,y", 'q"t', "two\nlines", "NULL", "9" * 40]
Write = Callable[[random.Random], str]
TIMES: dict[str, Write] = {
    "ties": lambda rng: rng.choice(["1", "2", "3", " 3", "2.0"]),
    "decimals": lambda rng: rng.choice(["1.5", "1.50", "-2", "1e3", ".5", "7.", "+7"]),
    "nanoseconds": lambda rng: str(1609459200000000000 + rng.randrange(4)),
    "huge": lambda rng: str(2**63 + rng.randrange(4)),
    "digits": lambda rng: f"9007199254740993.{rng.randrange(3)}",
    "dates": lambda rng: rng.choice(
        ["2021-01-01", "2021-01-01T00:00:00Z", "2020-12-31T23:59:59", "2021-01-01 01:00:00+01:00"]
    ),
    "moments": lambda rng: f"2021-01-01T00:00:00.{123456000 + rng.randrange(3)}",
}


@dataclass(frozen=True)
class Reference:
    """What a table holds, or every reason to refuse it."""

    events: list[tuple[str, str, float, str, int]]
    """User, item, order, rating and row, sorted."""
    reasons: list[str]


def reference(content: bytes) -> Reference:
    stream = io.StringIO(content.decode("utf-8-sig"), newline="")
    reader = csv.reader(stream, strict=True)
    header = next(reader)
    rows: list[list[str]] = []
    reasons: list[str] = []
    line = reader.line_num + 1
    try:
        for cells in reader:
            if cells and len(cells) != len(header):
                reasons.append(f"line {line}: {len(cells)} cells, the header has")
                break
            rows += [cells] if cells else []
            line = reader.line_num + 1
    except csv.Error:
        reasons.append(f"line {line}: cannot be read")
    users, items, times, ratings = ([row[header.index(name)] for row in rows] for name in NAMES)
    moments = [exact(time.strip()) for time in times]
    reasons += [f"row {row}: the user id is empty" for row, user in enumerate(users, 1) if not user]
    reasons += [f"row {row}: the item id is empty" for row, item in enumerate(items, 1) if not item]
    reasons += [f"row {row}: the order" for row, moment in enumerate(moments, 1) if not moment]
    kinds = [moment[0] for moment in moments if moment]
    if len(set(kinds)) > 1:
        number, date = kinds.index("number") + 1, kinds.index("date") + 1
        reasons += [f" in row {number} and the date ", f" in row {date}"]
    if reasons or not rows:
        return Reference([], reasons or ["holds no events"])
    exacts = [moment[1] for moment in moments if moment]
    places = {user: place for place, user in enumerate(dict.fromkeys(users))}
    order = sorted(range(len(rows)), key=lambda row: (places[users[row]], exacts[row], row))
    events = [(users[at], items[at], float(exacts[at]), ratings[at].strip(), at) for at in order]
    return Reference(events, [])


def exact(text: str) -> tuple[str, Decimal] | None:
    """Whether a time is a number or a date, and its number with all digits; None for neither."""
    try:
        return "number", Decimal(text)
    except ArithmeticError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    seconds = moment.replace(tzinfo=moment.tzinfo or UTC).replace(microsecond=0).timestamp()
    return "date", Decimal(seconds) + Decimal("0." + (text.partition(".")[2] or "0"))


def random_table(rng: random.Random, size: int = 12) -> bytes:
    """A table of up to `size` rows; one in three has something wrong."""
    is_dirty = rng.random() < 0.33
    write_time = TIMES[rng.choice(sorted(TIMES))]
    rows = [
        [rng.choice(IDS), rng.choice(IDS), write_time(rng), rng.choice(["", "1", " 2.5"])]
        for _ in range(rng.randrange(1, size))
    ]
    if is_dirty:
        rows[rng.randrange(len(rows))][rng.randrange(3)] = rng.choice(["", "soon", "2021-01-01"])
    places = rng.sample(range(4), 4)
    stream = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if rng.random() < 0.2 else csv.QUOTE_MINIMAL
    line_end = rng.choice(["\n", "\r\n"])
    writer = csv.writer(stream, quoting=quoting, lineterminator=line_end)
    for row in [NAMES, *rows]:
        writer.writerow([row[place] for place in places])
        stream.write(line_end if rng.random() < 0.1 and row is not NAMES else "")
    if is_dirty and rng.random() < 0.5:
        stream.write(rng.choice(['"open,b,1,1\n', "too,few\n", 'a"b,c,1,1\n', '"a"b,c,1,1\n']))
    mark = b"\xef\xbb\xbf" if rng.random() < 0.2 else b""
    return mark + stream.getvalue().encode()


def check_table(content: bytes, path: Path, spill: Spill | None, threads: int = 1) -> None:
    expected = reference(content)
    path.write_bytes(content)
    try:
        events = read_interactions(path, further=["rating"], spill=spill, threads=threads)
    except DataError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert any(reason in message for reason in expected.reasons), (message, expected, content)
        return
    columns = (events.order.tolist(), events.cells["rating"], events.rows.tolist())
    rows = list(zip(events.users, events.items, *columns, strict=True))
    assert rows == expected.events, content
    assert not expected.reasons, content
    assert list(events.users.names) == list(dict.fromkeys(user for user, *_ in expected.events))
    by_row = sorted(expected.events, key=lambda event: event[-1])
    assert list(events.items.names) == list(dict.fromkeys(item for _, item, *_ in by_row))


def check_tables(folder: Path, seeds: range, patch: pytest.MonkeyPatch) -> None:
    """Half of the tables in memory, half in files, a quarter by three threads; in runs and ranges
    of a few events."""
    for seed in seeds:
        rng = random.Random(seed)
        patch.setattr("sidtool.data.interactions.RUN_EVENTS", rng.choice([1, 5, 1 << 20]))
        patch.setattr("sidtool.data.event_sort.RANGE_EVENTS", rng.choice([1, 1 << 20]))
        patch.setattr("sidtool.data.tables.delimited.BLOCK_BYTES", rng.choice([200, 1 << 20]))
        spill = None
        if rng.random() < 0.5:
            (folder / str(seed)).mkdir()
            spill = Spill(folder / str(seed), 12 * EVENT_BYTES)
        threads = rng.choice([1, 1, 1, 3])
        check_table(random_table(rng), folder / "events.csv", spill, threads)


def test_random_tables_are_read_as_by_a_naive_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_tables(tmp_path, range(150), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_random_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    check_tables(tmp_path, range(part * 10_000, (part + 1) * 10_000), monkeypatch)


@pytest.mark.parametrize("seed", range(20))
def test_cleaning_drops_or_keeps_every_row(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    (tmp_path / "events.csv").write_bytes(random_table(rng, 40))
    expected = reference((tmp_path / "events.csv").read_bytes())
    if any(reason.startswith("line") for reason in expected.reasons):
        return
    items = {"item_id": rng.sample(IDS, 8), "title": ["A"] * 8}
    catalog, *_ = clean_catalog(read_catalog_table(write_table(tmp_path / "items.csv", items)))
    events = read_event_table(tmp_path / "events.csv")
    cleaned, dropped, _, _ = clean_events(events, catalog)
    assert len(cleaned.users) + sum(dropped.values()) == len(events.users)
