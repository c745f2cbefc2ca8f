import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import SidtoolWarning, UsageError
from sidtool.data import CatalogColumns, EventNames, read_items
from sidtool.data.coded import Texts, coded_texts
from sidtool.data.interactions import read_interactions
from sidtool.data.prepare.check import check, normal_form, report, spellings
from sidtool.data.prepare.cleaning import clean, clean_catalog, clean_events, clean_tables
from sidtool.data.prepare.tables import (
    CatalogTable,
    EventTable,
    guess_flags,
    read_catalog_table,
    read_event_table,
)
from tests.data.tables.files import Table, write_table

ITEMS = {
    "sku": ["a", "b", "", "a", "b ", "cafe\u0301", "caf\u00e9", "d"],
    "name": ["", "Bed", "x", "Art", "Bed again", "Coffee", "Coffee", ""],
    "price": list("12345678"),
}
EVENTS = {
    "customer": ["u", "u", "u", "v", "", "u", "u", "w", "w", "u"],
    "sku": ["a", "b", "a", "d", "a", "", "zz", "b ", "a", "a"],
    "bought_at": ["9", "5", "7", "3", "1", "1", "1", "2", "soon", "9"],
}


def tables(tmp_path: Path) -> tuple[CatalogTable, EventTable]:
    catalog = read_catalog_table(write_table(tmp_path / "items.csv", ITEMS))
    return catalog, read_event_table(write_table(tmp_path / "events.csv", EVENTS))


def test_every_problem_is_counted_with_examples(tmp_path: Path) -> None:
    checked = report(*tables(tmp_path))
    counts = {problem.kind: problem.count for problem in checked.problems}
    once = {
        *("empty_item_id", "duplicate_item_id", "empty_user", "empty_event_item", "unknown_item"),
        *("unreadable_time", "tied_time", "duplicate_event", "single_event_user"),
    }
    several = {"item_id_spelling": 2, "empty_title": 2, "unordered": 4}
    assert counts == dict.fromkeys(once, 1) | several
    examples = {problem.kind: problem.examples for problem in checked.problems}
    assert examples["duplicate_item_id"] == ("row 4: 'a'",)
    assert examples["item_id_spelling"][0] == "'b' and 'b '"
    assert examples["unreadable_time"] == ("row 9: 'soon'",)
    stops = ["empty_item_id", "duplicate_item_id", "empty_user", "empty_event_item"]
    assert [problem.kind for problem in checked.stops] == [*stops, "unreadable_time"]
    assert (checked.items, checked.events, checked.users) == (8, 10, 3)
    assert check(tmp_path / "items.csv", tmp_path / "events.csv") == checked


def test_what_the_report_calls_a_stop_stops_the_readers(tmp_path: Path) -> None:
    """Each stopping problem alone is refused by the reader, and none of the others is."""
    good_items = {"sku": ["a", "b"], "name": ["A", "B"]}
    good_events = {"user": ["u"] * 3, "sku": ["a", "b", "a"], "ts": ["1", "2", "3"]}
    for change in (
        {},
        {"ts": ["1", "", "3"]},
        {"ts": ["1", "soon", "3"]},
        {"ts": ["1", "2021-01-01", "3"]},
        {"ts": ["1600000000", "1600000000000", "1600000001"]},
        {"ts": ["1600000000000000", "1600000000000", "1"]},
        {"ts": ["99999999999", "100000000000", "100000000001"]},
        {"ts": ["2020-01-01", "9999-12-31", "2020-01-01T10:00:00"]},
        {"ts": ["3", "2", "1"]},
        {"sku": ["a", "zz", "a"]},
        {"sku": ["a", "", "a"]},
        {"user": ["u", "", "u"]},
    ):
        events = write_table(tmp_path / "events.csv", good_events | change)
        check_report = check(write_table(tmp_path / "items.csv", good_items), events)
        later = {"nothing_to_evaluate", "unknown_item"}  # of which the readers know nothing
        stops = [problem.kind for problem in check_report.stops if problem.kind not in later]
        try:
            read_interactions(events)
        except Exception:
            assert stops, change
        else:
            assert not stops, change
    for items in ({"sku": ["a", ""]}, {"sku": ["a", "a"]}):
        path = write_table(tmp_path / "items.csv", good_items | items)
        assert check(path).stops
        with pytest.raises(Exception, match="row"):
            read_items(path)


def test_cleaning_leaves_no_problem_that_stops(tmp_path: Path) -> None:
    cleaned = clean_tables(*tables(tmp_path), tmp_path / "out", allow_losses=True)
    assert cleaned.left.stops == ()
    assert cleaned.dropped_items == {"empty_item_id": 1, "duplicate_item_id": 3}
    assert cleaned.respelled_items == 1  # the decomposed form of café comes first
    reasons = ("empty_user", "empty_event_item", "unknown_item", "unreadable_time")
    assert cleaned.dropped_events == dict.fromkeys((*reasons, "duplicate_event"), 1)
    with pytest.warns(SidtoolWarning, match="1 of 4 items have no text"):
        items = read_items(tmp_path / "out/items.parquet", fields=["price"])
    assert (items.ids, items.titles) == (("b", "a", "caf\u00e9", "d"), ("Bed", "Art", "Coffee", ""))
    assert items.fields["price"] == ("2", "4", "6", "8")
    events = read_interactions(tmp_path / "out/events.parquet")
    rows = list(zip(events.users, events.items, events.order.tolist(), strict=True))
    assert rows == [("u", "b", 5), ("u", "a", 7), ("u", "a", 9), ("v", "d", 3), ("w", "b", 2)]
    assert cleaned.left == check(tmp_path / "out/items.parquet", tmp_path / "out/events.parquet")


def cleaned_events(folder: Path, table: Table) -> tuple[EventTable, dict[str, int], int]:
    """Events of the items a and b, cleaned: what was dropped, and the times that were converted."""
    items = {"sku": ["a", "b"], "name": ["A", "B"]}
    catalog = read_catalog_table(write_table(folder / "items.csv", items))
    events = read_event_table(write_table(folder / "events.csv", table))
    cleaned, dropped, _, converted = clean_events(events, catalog)
    return cleaned, dropped, converted


@pytest.mark.parametrize(
    ("cells", "cleaned_cells"),
    [
        (["1600000002", "1600000001500", "1"], ("1", "1600000001.5", "1600000002")),
        (
            ["1600000002000", "1600000001500000001", "1600000001000000"],
            ("1600000001000", "1600000001500.000001", "1600000002000"),
        ),
    ],
)
def test_times_are_written_in_the_coarsest_unit(
    tmp_path: Path, cells: list[str], cleaned_cells: tuple[str, ...]
) -> None:
    table = {"user": list("uuu"), "item": list("aba"), "ts": cells}
    cleaned, dropped, converted = cleaned_events(tmp_path, table)
    assert (converted, dropped) == (len([cell for cell in cells if cell not in cleaned_cells]), {})
    assert cleaned.times is not None
    assert tuple(cleaned.times) == cleaned_cells


def test_the_rarer_kind_of_time_is_left_out(tmp_path: Path) -> None:
    times = ["2021-01-02", "5", "2021-01-01", ""]
    table = {"user": list("uuuu"), "item": list("abab"), "ts": times}
    cleaned, dropped, _ = cleaned_events(tmp_path, table)
    assert dropped == {"empty_time": 1, "mixed_time": 1}
    assert cleaned.times is not None
    assert tuple(cleaned.times) == ("2021-01-01", "2021-01-02")


def test_a_column_with_the_name_of_another_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.csv", {"code": ["a"], "item_id": ["b"], "title": ["T"]})
    with pytest.raises(UsageError, match="has a column 'item_id' beside"):
        clean_catalog(read_catalog_table(path, "code"))


def test_a_catalog_without_titles_and_events_of_short_users(tmp_path: Path) -> None:
    items = write_table(tmp_path / "i.csv", {"sku": ["a"], "price": ["1"]})
    events = write_table(tmp_path / "e.csv", {"user": ["u"], "item": ["a"], "ts": ["1"]})
    report = check(items, events)
    kinds = {problem.kind for problem in report.stops}
    assert kinds == {"no_titles", "nothing_to_evaluate"}
    hint = report.mending_hint(items, events, read_event_table(events), "clean them")
    assert "--user-column names the column of users" in hint
    assert "clean them" not in hint  # which mends neither
    cleaned = clean_tables(read_catalog_table(items), read_event_table(events), tmp_path / "out")
    assert {problem.kind for problem in cleaned.left.stops} == kinds
    assert pq.read_table(tmp_path / "out/items.parquet").column_names == ["item_id", "price"]


def test_blanks_inside_ids_are_reported_and_stay(tmp_path: Path) -> None:
    items = {"sku": ["A  1", "A 1", " A\u00a01"], "name": list("abc")}
    catalog = read_catalog_table(write_table(tmp_path / "items.csv", items))
    events = {"user": ["u"] * 3, "sku": ["A  1", "A 1", "A  1"], "ts": list("123")}
    table = read_event_table(write_table(tmp_path / "events.csv", events))
    cleaned = clean_tables(catalog, table, tmp_path / "out")
    assert read_items(tmp_path / "out/items.parquet").ids == ("A  1", "A 1", "A\u00a01")
    assert set(read_interactions(tmp_path / "out/events.parquet").items) == {"A  1", "A 1"}
    counts = {problem.kind: problem.count for problem in cleaned.left.problems}
    assert counts == {"item_id_spelling": 2}


@given(st.lists(st.sampled_from(["a", "b", " a", "a ", "e\u0301", "\u00e9", ""])))
def test_cleaned_ids_are_unique_and_in_normal_form(ids: list[str]) -> None:
    path = Path("x.csv")
    names = [str(n) for n in range(len(ids))]
    columns = {
        name: coded_texts(pa.chunked_array([pa.array(cells, pa.string())]))
        for name, cells in (("sku", ids), ("name", names))
    }
    table, dropped, _ = clean_catalog(CatalogTable(path, CatalogColumns("sku", "name"), columns))
    assert sorted(table.ids) == sorted({normal_form(item) for item in ids} - {""})
    assert sum(dropped.values()) + len(table.ids) == len(ids)
    assert spellings(table.ids) == []


def test_files_are_cleaned_as_their_tables(tmp_path: Path) -> None:
    expected = clean_tables(*tables(tmp_path), tmp_path / "by-tables", allow_losses=True)
    files = (str(tmp_path / "items.csv"), str(tmp_path / "events.csv"))
    with patch("sidtool.data.prepare.cleaning.BLOCK", 2):
        cleaned = clean(*files, str(tmp_path / "out"), user_column="customer", allow_losses=True)
    assert cleaned == expected
    assert check(*files, user_column="customer") == check(
        *files, event_names=EventNames(user="customer")
    )
    for name in ("items.parquet", "events.parquet"):
        written = (tmp_path / "out" / name).read_bytes()
        assert written == (tmp_path / "by-tables" / name).read_bytes()
    for function, paths in ((clean, (*files, tmp_path / "x")), (check, files)):
        with pytest.raises(UsageError, match="there is no option column"):
            function(*paths, column="customer")
    with pytest.raises(UsageError, match="exists already"):
        clean(*files, tmp_path / "out")


def test_no_column_is_made_to_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Texts, "objects")
    catalog, events = tables(tmp_path)
    before = report(catalog, events)
    assert before.mending_hint(catalog.path, events.path, events, "clean them") == "clean them"
    assert clean_tables(catalog, events, tmp_path / "out", allow_losses=True).left.stops == ()


def test_the_order_of_rows_replaces_no_column(tmp_path: Path) -> None:
    table = {"user_id": ["u", "u"], "item_id": ["a", "a"], "timestamp": ["5", "4"]}
    source = write_table(tmp_path / "events.csv", table)
    events = read_event_table(source, EventNames(order_by="row"))
    catalog = read_catalog_table(write_table(tmp_path / "items.csv", {"item_id": ["a"]}))
    with pytest.raises(UsageError, match="a column 'timestamp', which the number of each row"):
        clean_tables(catalog, events, tmp_path / "out")


@pytest.mark.parametrize(("times", "is_warned"), [("123456", False), ("112345", True)])
def test_many_equal_times_are_warned_about(tmp_path: Path, times: str, is_warned: bool) -> None:
    items = write_table(tmp_path / "items.csv", {"sku": list("abcdef"), "name": list("ABCDEF")})
    table = {"user": ["u"] * 6, "sku": list("abcdef"), "ts": list(times)}
    checked = check(items, write_table(tmp_path / "events.csv", table))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checked.refuse_stops("", allow_unknown=False)
    warned = ["17% of events are at the time of another"] if is_warned else []
    assert [str(warning.message)[:40] for warning in caught] == warned


def test_nothing_is_guessed_of_a_table_without_rows(tmp_path: Path) -> None:
    items = write_table(tmp_path / "items.csv", {"sku": ["a", "b"], "label": ["A", "B"]})
    (tmp_path / "events.csv").write_text("foo,bar,baz\n")
    assert guess_flags(items, tmp_path / "events.csv") == "--id-column sku --title-column label"


def test_the_user_is_the_column_with_the_most_values_in_shuffled_events(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = tmp_path / "items.csv"
    rows = [f"{n:03d};<b>lamp</b> {n}" for n in range(300)]
    items.write_text("\n".join(["Product ID;Product Name", *rows]) + "\n")
    events = tmp_path / "events.csv"
    pairs = [(user, int(rng.integers(300))) for user in range(1200) for _ in range(3)]
    lines = [
        f"{item};lamp {item};{3 + user % 3};R{user};{1 + item % 28:02d}/07/2024"
        for user, item in (pairs[place] for place in rng.permutation(len(pairs)))
    ]
    events.write_text("\n".join(["Product ID;Name;Stars;Reviewer;Day", *lines]) + "\n")
    flags = guess_flags(items, events)
    assert flags is not None
    assert "--user-column Reviewer --item-column 'Product ID' --order-column Day" in flags


def test_a_column_of_sessions_is_no_user_unasked(tmp_path: Path) -> None:
    items = write_table(tmp_path / "items.csv", {"Nr": list("abc"), "Name": ["A", "B", "C"]})
    rows = [(f"k{n // 8}", f"s{n // 4}", f"c{n // 100}", "abc"[n % 3]) for n in range(400)]
    cells = dict(zip(("Kunde", "Sitzung", "Land", "Nr"), zip(*rows, strict=True), strict=True))
    table = {name: list(column) for name, column in cells.items()}
    flags = guess_flags(items, write_table(tmp_path / "events.csv", table))
    assert flags is not None
    assert flags.endswith("--item-column Nr, or --user-column Kunde if 'Sitzung' is a session")
    assert "--user-column Sitzung" in flags
