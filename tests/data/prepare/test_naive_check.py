"""Dirty random tables are reported and cleaned as by a naive reference: dicts, sets and loops over
the rows, without a thought of memory."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from sidtool.data import CatalogColumns, EventColumns
from sidtool.data.coded import Coded, Texts, coded_texts
from sidtool.data.prepare.check import STOPS, CheckReport, Problem, normal_form, report, spellings
from sidtool.data.prepare.cleaning import clean_catalog, clean_events
from sidtool.data.prepare.tables import CatalogTable, EventTable
from sidtool.data.times import NUMBER, Moments, parse_moments, parse_time
from sidtool.data.unknown_ids import UnknownIds, guess_spelling, known_spellings

Cells = Sequence[str]
PATH = Path("table.csv")
IDS = ["a", " a", "a ", "A", "", " ", "b", "0034", "34", "34.0", "e\u0301", "\u00e9", "A  1", "A 1"]
NUMBERS = ["1", " 1", "1.0", "2", "\u00a03", "+7", "7.", ".5", "-0", "0", "20210101", "9" * 25]
UNITS = ["1600000001", "1600000000", "1600000000500", "1600000001000000", "1600000001000000001"]
DATES = ["2021-01-01", "2021-01-01T00:00Z", "2021-01-01T00:00:00.1234567", "2020-12-31 23:59:59+01"]
OTHERS = ["", " ", "soon", "nan", "inf", "1e999", "1e0001", "2021-13-01", "\uff11", "9999-12-31"]
TIMES = [NUMBERS, UNITS, DATES, DATES[:1], [*NUMBERS, *UNITS, *DATES, *OTHERS]]


@st.composite
def catalogs(draw: st.DrawFn) -> CatalogTable:
    rows = draw(st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(["A", "", "\u2003"]))))
    ids, titles = (column(draw, [row[place] for row in rows]) for place in (0, 1))
    title = draw(st.sampled_from(["name", None, "sku"]))
    return CatalogTable(PATH, CatalogColumns("sku", title), {"sku": ids, "name": titles})


@st.composite
def event_tables(draw: st.DrawFn) -> EventTable:
    """Events in which users, items and times are often equal."""
    users = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=3))
    times = draw(st.lists(st.sampled_from(draw(st.sampled_from(TIMES))), min_size=1, max_size=5))
    row = st.tuples(st.sampled_from(users), st.sampled_from(IDS), st.sampled_from(times))
    rows = draw(st.lists(row, max_size=20))
    cells = {name: column(draw, [row[at] for row in rows]) for at, name in enumerate("uit")}
    order = draw(st.sampled_from(["t", "t", None]))
    return EventTable(PATH, EventColumns("u", "i", order), cells)


def column(draw: st.DrawFn, cells: Cells) -> Coded[str]:
    """The cells, read in two chunks, of which one may be empty."""
    cut = draw(st.integers(0, len(cells)))
    parts = [pa.array(part, pa.string()) for part in (cells[:cut], cells[cut:])]
    return coded_texts(pa.chunked_array(parts))


def lists(cells: Mapping[str, Coded[str]]) -> dict[str, list[str]]:
    return {name: values.tolist() for name, values in cells.items()}


def naive_moments(cells: Cells) -> Moments:
    seconds = []
    for cell in cells:
        try:
            seconds.append(parse_time(cell.strip()))
        except (ValueError, OverflowError):
            seconds.append(np.nan)
    is_number = [bool(NUMBER.fullmatch(cell.strip())) for cell in cells]
    is_empty = [not cell.strip() for cell in cells]
    return Moments(np.array(seconds), np.array(is_number, bool), np.array(is_empty, bool))


def unusable(
    users: Cells, items: Cells, moments: Moments | None, ids: Cells
) -> Iterator[tuple[str, list[int]]]:
    yield "empty_user", [row for row, user in enumerate(users) if not user]
    yield "empty_event_item", [row for row, item in enumerate(items) if not item]
    yield "unknown_item", [row for row, item in enumerate(items) if item and item not in ids]
    if moments is not None:
        is_nan = np.isnan(moments.seconds)
        yield "empty_time", np.flatnonzero(moments.is_empty).tolist()
        yield "unreadable_time", np.flatnonzero(is_nan & ~moments.is_empty).tolist()
        yield "mixed_time", np.flatnonzero(moments.is_other_kind).tolist()


def problem(kind: str, rows: Sequence[int], cells: Cells | None = None) -> Problem:
    shown = [(row, cells[row] if cells else "") for row in rows[:5]]
    examples = tuple(f"row {row + 1}" + (f": {cell!r}" if cell else "") for row, cell in shown)
    stops = kind in STOPS and len(rows) > 0
    is_of_items = kind in ("empty_item_id", "duplicate_item_id", "empty_title")
    return Problem(kind, "items" if is_of_items else "events", len(rows), examples, stops)


def item_problems(catalog: CatalogTable) -> Iterator[Problem]:
    cells = lists(catalog.cells)
    ids, title = cells["sku"], catalog.columns.title
    if not ids:
        yield Problem("no_items", "items", 1, ("sku, name",), True)
    yield problem("empty_item_id", [row for row, item in enumerate(ids) if not item], ids)
    again = [row for row, item in enumerate(ids) if item and item in ids[:row]]
    yield problem("duplicate_item_id", again, ids)
    groups = spellings(ids)
    shown = tuple(" and ".join(map(repr, group)) for group in groups[:5])
    count = sum(len(group) - 1 for group in groups)
    yield Problem("item_id_spelling", "items", count, shown, False)
    if title is None:
        yield Problem("no_titles", "items", 1, ("sku, name",), True)
    else:
        untitled = [row for row, text in enumerate(cells[title]) if not text.strip()]
        yield problem("empty_title", untitled, ids)


def event_problems(events: EventTable, ids: Cells) -> Iterator[Problem]:
    users, items, times = lists(events.cells).values()
    moments = naive_moments(times) if events.columns.order else None
    shown = {"unknown_item": items, "unreadable_time": times, "mixed_time": times}
    for kind, rows in unusable(users, items, moments, ids):
        yield problem(kind, rows, shown.get(kind))
    if moments is not None:
        yield problem("mixed_time_unit", np.flatnonzero(moments.ratios > 1).tolist(), times)
        latest: dict[str, float] = {}
        first: dict[tuple[str, float], str] = {}
        unordered, tied = [], []
        for row, (user, moment) in enumerate(zip(users, moments.seconds.tolist(), strict=True)):
            if moment < latest.get(user, -np.inf):
                unordered.append(row)
            elif moment == moment:  # not NaN
                latest[user] = moment
            if moment == moment and first.setdefault((user, moment), items[row]) != items[row]:
                tied.append(row)
        yield problem("unordered", unordered, times)
        yield problem("tied_time", tied, times)
        events_of_file = list(zip(users, items, times, strict=True))
        again = [row for row, event in enumerate(events_of_file) if event in events_of_file[:row]]
        yield problem("duplicate_event", again, items)
    counts = Counter(filter(None, users))
    alone = [row for row, user in enumerate(users) if counts[user] == 1]
    yield problem("single_event_user", alone, users)
    most = max(counts.values(), default=0)
    if most < 3:
        yield Problem("nothing_to_evaluate", "events", 1, (f"at most {most} events",), True)


def naive_report(catalog: CatalogTable, events: EventTable) -> CheckReport:
    ids = catalog.ids.tolist()
    users, items, _ = lists(events.cells).values()
    unknown_items = [item for item in items if item and item not in ids]
    unknown = None
    if unknown_items:
        guess = guess_spelling(ids, unknown_items, "the catalog", "events")
        text = "events are of items that the catalog lacks"
        unknown = UnknownIds(len(unknown_items), len(items), text, guess)
    problems = []
    for found in [*item_problems(catalog), *event_problems(events, ids)]:
        is_refused = unknown is not None and unknown.is_refused
        stops = is_refused if found.kind == "unknown_item" else found.stops
        problems += [Problem(found.kind, found.table, found.count, found.examples, stops)]
    return CheckReport(
        items=len(ids),
        item_columns=catalog.columns,
        events=len(users),
        event_columns=events.columns,
        users=len(set(users) - {""}),
        problems=tuple(found for found in problems if found.count),
        unknown=unknown,
    )


def naive_cleaned_catalog(catalog: CatalogTable) -> tuple[list[tuple[str, str]], int, int]:
    """Ids and names, repeated rows and respelled ones."""
    cells = lists(catalog.cells)
    ids = list(map(normal_form, cells["sku"]))
    titles = cells[catalog.columns.title] if catalog.columns.title else [""] * len(ids)
    row_by_id: dict[str, int] = {}
    for row, item in enumerate(ids):
        earlier = row_by_id.setdefault(item, row)
        if titles[row].strip() and not titles[earlier].strip():
            row_by_id[item] = row
    rows = sorted(row for item, row in row_by_id.items() if item)
    respelled = sum(ids[row] != cells["sku"][row] for row in rows)
    repeated = len(ids) - ids.count("") - len(rows)
    return [(ids[row], cells["name"][row]) for row in rows], repeated, respelled


def naive_cleaned_events(
    events: EventTable, ids: Cells
) -> tuple[list[tuple[str, ...]], dict[str, int], int, int]:
    """Users, items, times and further cells, and the counts of `CleanedEvents`."""
    cells = lists(events.cells)
    users, items = (list(map(normal_form, cells[name])) for name in "ui")
    known = known_spellings(ids, [item for item in items if item not in ids])
    items = [known.get(item, item) for item in items]
    times = cells["t"] if events.columns.order else [str(row) for row in range(len(users))]
    moments = naive_moments(times)
    ratios = moments.ratios.tolist()
    times = [
        format(Decimal(cell) / int(ratio), "f") if ratio > 1 else cell
        for cell, ratio in zip(map(str.strip, times), ratios, strict=True)
    ]
    dropped = Counter[str]()
    lost = set[int]()
    for reason, unusable_rows in unusable(users, items, moments, ids):
        dropped[reason] = len({*unusable_rows} - lost)
        lost |= {*unusable_rows}
    rows: list[int] = []
    seen = set[tuple[str, str, str]]()
    for row in [row for row in range(len(users)) if row not in lost]:
        event = (users[row], items[row], times[row])
        if event in seen and events.columns.order:
            dropped["duplicate_event"] += 1
        else:
            rows.append(row)
        seen.add(event)
    rows.sort(key=lambda row: (users.index(users[row]), moments.seconds[row] / ratios[row]))
    respelled = sum((users[row], items[row]) != (cells["u"][row], cells["i"][row]) for row in rows)
    columns = [users, items, times] if events.columns.order else [users, items, cells["t"], times]
    written = [tuple(values[row] for values in columns) for row in rows]
    return written, dict(+dropped), respelled, sum(ratios[row] > 1 for row in rows)


@given(catalogs(), event_tables())
def test_dirty_tables_are_reported_as_by_a_naive_reference(
    catalog: CatalogTable, events: EventTable
) -> None:
    with patch("sidtool.data.times.BLOCK", 2):
        assert report(catalog, events) == naive_report(catalog, events)


@given(catalogs(), event_tables())
def test_dirty_tables_are_cleaned_as_by_a_naive_reference(
    catalog: CatalogTable, events: EventTable
) -> None:
    items, dropped, respelled = clean_catalog(catalog)
    rows = list(zip(*lists(items.cells).values(), strict=True))
    expected, n_repeated, n_respelled = naive_cleaned_catalog(catalog)
    if catalog.columns.title == "sku":  # is written twice
        expected = [(item, item, name) for item, name in expected]
    assert (rows, respelled) == (expected, n_respelled)
    assert dropped.get("duplicate_item_id", 0) == n_repeated
    cleaned = clean_events(events, items)
    written = list(zip(*lists(cleaned.events.cells).values(), strict=True))
    assert (written, *cleaned[1:]) == naive_cleaned_events(events, list(items.ids))


@given(st.lists(st.sampled_from(TIMES[-1]) | st.text(max_size=4), max_size=12))
def test_times_are_read_as_one_by_one(cells: list[str]) -> None:
    expected = naive_moments(cells)
    with patch("sidtool.data.times.BLOCK", 3):
        moments = parse_moments(Texts(cells))
    np.testing.assert_array_equal(moments.seconds, expected.seconds)
    assert moments.is_number.tolist() == expected.is_number.tolist()
    assert moments.is_empty.tolist() == expected.is_empty.tolist()
