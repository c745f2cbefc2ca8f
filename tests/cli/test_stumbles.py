import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.messy import garden, library, parts
from tests.cli.road import done, refused, run, write_lines
from tests.data.tables.files import write_table

Shop = Callable[[Path], tuple[Path, Path]]
HINTS: dict[Shop, str] = {
    garden: "--id-column Artikelnummer --title-column Bezeichnung --user-column Kunde "
    "--item-column Artikelnummer --order-column Kaufdatum --time-format %d.%m.%Y",
    parts: "--id-column part_no --title-column description --user-column client_id --item-column "
    "part_no --order-column epoch",
    library: "--id-column 'Book ID' --title-column 'Book Title' --user-column Reader --item-column "
    "'Book ID' --order-column Borrowed --time-format '%m/%d/%Y %H:%M'",
}
"""Messy tables -> the flags that the first command on them names."""


@pytest.mark.parametrize("shop", HINTS, ids=lambda shop: shop.__name__)
def test_the_first_command_names_flags_that_work(shop: Shop, tmp_path: Path, encoder: Path) -> None:
    items, events = shop(tmp_path)
    error = refused(2, "check", items, events)
    flags = error.partition("hint: by their cells, columns are ")[2]
    assert flags == HINTS[shop]
    clean = tmp_path / "clean"
    ran = run("check", items, events, *shlex.split(flags))
    assert ran.code == (0 if shop is library else 3)
    assert shop is library or "--fix OUT writes cleaned copies" in ran.last
    done("check", items, events, *shlex.split(flags), "--fix", clean)
    assert done("check", clean / "items.parquet", clean / "events.parquet").code == 0
    split = done("split", clean / "events.parquet", "-o", tmp_path / "split")
    assert "30 examples" in split.out
    build = ("build-codebook", clean / "items.parquet", "-o", tmp_path / "shop.zarr")
    done(*build, "--encoder", encoder, "--levels", "4x4x8")


@pytest.mark.parametrize("shop", HINTS, ids=lambda shop: shop.__name__)
def test_fit_names_the_flags_with_which_its_road_begins(shop: Shop, tmp_path: Path) -> None:
    items, events = shop(tmp_path)
    out = tmp_path / "out"
    error = refused(2, "fit", items, events, "-o", out)
    mends = "; --fix mends what else would stop a build"
    assert error.endswith(f"hint: by their cells, columns are {HINTS[shop]}{mends}")
    assert not out.exists()
    words = ("fit", items, events, "-o", out, *shlex.split(HINTS[shop]), "--fix")
    road = done(*words, "--dry-run").out
    assert f"sidtool check {items} {events}" in road
    assert "sidtool evaluate" in road
    assert not out.exists()


def test_events_before_their_catalog_are_named(tmp_path: Path) -> None:
    items = write_lines(tmp_path / "items.csv", ["item_id,title,brand", "a,A,x", "b,B,x"])
    events = write_lines(tmp_path / "events.csv", ["user_id,item_id,timestamp", "u,a,1", "u,b,2"])
    error = refused(2, "check", events, items)
    assert error == f"error: {events} has events: the catalog comes before them"


def test_events_alone_name_all_flags_at_once(tmp_path: Path) -> None:
    _, events = garden(tmp_path)
    error = refused(2, "split", events, "-o", tmp_path / "split")
    contents = "the user id, the item id, the time or order of an event"
    assert f"no column that looks like {contents}: Kunde, Artikelnummer, Kaufdatum" in error
    assert "hint: name it with --user-column, --item-column, --order-column, or with" in error
    named = ("--user-column", "Kunde", "--item-column", "Artikelnummer", "--order-column")
    words = ("split", events, "-o", tmp_path / "split", *named, "Kaufdatum")
    hint = "--time-format '%d.%m.%Y' of check, fit, prepare and split reads it"
    assert hint in refused(1, *words)
    done(*words, "--time-format", "%d.%m.%Y")


def test_events_without_a_header_are_not_named_by_their_first_line(tmp_path: Path) -> None:
    items = write_table(tmp_path / "i.csv", {"item_id": ["1", "2"], "title": ["A b", "C d"]})
    events = tmp_path / "events.tsv"
    events.write_text("7\t1\t5\t880912604\n8\t2\t4\t880912605\n7\t2\t4\t880912606\n")
    error = refused(2, "check", items, events)
    assert "events.tsv has no header: its first line is an event, 7, 1, 5, 880912604" in error
    assert "hint: write one above it" in error
    named = events.rename(tmp_path / "u.data")
    assert "`sidtool prepare --from movielens` reads u.data" in refused(1, "check", items, named)
    items.write_bytes(b"item_id,title\n1,caf\xe9\n")
    assert "line 2: not UTF-8\nhint: save it as UTF-8, or convert it" in refused(1, "check", items)


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        (["A b", "C d"], "by their cells, columns are --id-column sku --title-column label"),
        (["1.5", "2"], "--title-column names the column that describes the items"),
    ],
)
def test_a_catalog_without_a_known_title_names_the_column(
    labels: list[str], hint: str, tmp_path: Path
) -> None:
    items = write_table(tmp_path / "i.csv", {"sku": ["1", "2"], "label": labels})
    ran = run("check", items)
    assert (ran.code, ran.last) == (3, f"hint: {hint}")


def test_a_folder_that_holds_no_bundle_is_answered_with_what_one_is(tmp_path: Path) -> None:
    assert "hint: a bundle is a .zarr folder" in refused(3, "inspect", tmp_path)


def test_check_of_good_data_says_so(tmp_path: Path) -> None:
    items = write_table(tmp_path / "i.csv", {"sku": ["a", "b"], "name": ["A", "B"]})
    table = {"customer": ["u"] * 3, "sku": ["a", "b", "a"], "ts": ["1", "2", "3"]}
    events = write_table(tmp_path / "e.csv", table)
    shown = done("check", items, events).out
    assert shown.splitlines()[-1] == "no problems"
    assert "user 'customer', item 'sku', time 'ts'" in shown
    assert done("check", items, "--json").json["problems"] == []


def test_check_names_its_own_option_for_a_column(tmp_path: Path) -> None:
    items = write_table(tmp_path / "i.csv", {"sku": ["a", "b"], "name": ["A", "B"]})
    events = write_table(tmp_path / "e.csv", {"who": ["u"] * 3, "sku": ["a"] * 3})
    error = refused(2, "check", items, events)
    assert "looks like the user id" in error
    flags = "--id-column sku --title-column name --user-column who --item-column sku"
    missing = "name it with --user-column, --order-column, or with --order row if the rows are in"
    assert error.splitlines()[-1] == f"hint: by their cells, columns are {flags}; {missing} order"


def test_the_step_after_a_fix_of_items_alone_works(tmp_path: Path, encoder: Path) -> None:
    catalog, _ = garden(tmp_path)
    flags = ("--id-column", "Artikelnummer", "--title-column", "Bezeichnung")
    last = done("check", catalog, *flags, "--fix", tmp_path / "clean").last
    assert last.endswith("--encoder ENCODER")
    pasted = last.removeprefix("next: sidtool ").replace("ENCODER", str(encoder))
    words = pasted.replace("BUNDLE.zarr", str(tmp_path / "shop.zarr")).split()
    done(*words, "--levels", "4x4x8")


def test_check_without_an_order_needs_the_rows_to_be_meant(tmp_path: Path) -> None:
    items = write_table(tmp_path / "i.csv", {"sku": ["a", "b"], "name": ["A", "B"]})
    events = write_table(tmp_path / "e.csv", {"user": ["u", "u", "u"], "sku": ["a", "b", "a"]})
    assert "--order row" in refused(2, "check", items, events)
    fix = ("--order", "row", "--fix", tmp_path / "out")
    done("check", items, events, *fix)
    split = ("split", tmp_path / "out/events.parquet", "-o", tmp_path / "split")
    assert "1 examples" in done(*split).out  # the order of the rows is now a column
