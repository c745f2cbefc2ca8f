import json
from pathlib import Path

from tests.cli.road import Road, done, refused, run, tree
from tests.data.tables.files import write_table

Tables = tuple[Path, Path]


def shop(folder: Path, ids: list[str], *, bad: int = 0, dates: str = "2020-12-{:02d}") -> Tables:
    """Items with these ids, and for each of 20 users an event of every item; the last `bad` items
    of a user have no zeros in front of their ids."""
    events: dict[str, list[str]] = {"user_id": [], "item_id": [], "timestamp": []}
    for user in range(20):
        for place, item in enumerate(ids):
            is_bad = place >= len(ids) - bad
            events["user_id"].append(f"u{user}")
            events["item_id"].append(item.lstrip("0") if is_bad else item)
            events["timestamp"].append(dates.format(13 + place))
    items = {"item_id": ids, "title": [f"item {item}" for item in ids]}
    items_file = write_table(folder / "items.csv", items)
    return items_file, write_table(folder / "events.csv", events)


IDS = [f"{number:04d}" for number in range(34, 44)]
GUESS = "ids of the catalog look like '0034', those of events like '34'"


def test_check_refuses_events_that_lost_their_leading_zeros(tmp_path: Path) -> None:
    ran = run("check", *shop(tmp_path, IDS, bad=10))
    assert ran.code == 3
    message = "error: 100.0% of events are of items that the catalog lacks (200 of 200); "
    assert message + GUESS in ran.err
    assert "check ITEMS EVENTS --fix OUT` writes them as the catalog does" in ran.last
    assert "--allow-unknown" in ran.last
    report = run("check", *shop(tmp_path, IDS, bad=10), "--json").json
    assert [entry["kind"] for entry in report["problems"] if entry["stops"]] == ["unknown_item"]
    ran = done("check", *shop(tmp_path, IDS, bad=10), "--allow-unknown")
    assert "warning: 100.0% of events" in ran.err


def test_check_warns_of_a_fifth_of_the_events_below_its_report(tmp_path: Path) -> None:
    ran = done("check", *shop(tmp_path, IDS, bad=2))
    assert "warning: 20.0% of events are of items that the catalog lacks (40 of 200)" in ran.last
    assert run("check", *shop(tmp_path, IDS, bad=3)).code == 3


def test_a_fix_that_loses_more_than_a_fifth_of_the_events_is_refused(tmp_path: Path) -> None:
    tables = shop(tmp_path, IDS, bad=10)
    write_table(tables[0], {"item_id": ["x", "y"], "title": ["X", "Y"]})
    out = tmp_path / "clean"
    message = refused(3, "check", *tables, "--fix", out)
    assert "cleaning would lose 200 of 200 events: 200 events of items that the" in message
    assert not out.exists()
    ran = run("check", *tables, "--fix", out, "--allow-losses")
    assert ran.code == 3  # nothing is left to evaluate
    before = tree(out)
    message = refused(3, "check", *tables, "--fix", out, "--force")
    assert message.endswith("hint: `sidtool check --allow-losses` writes the others")
    assert tree(out) == before
    assert "requires --fix OUT" in refused(2, "check", *tables, "--allow-losses")
    assert "EVENTS" in refused(2, "check", tables[0], "--fix", tmp_path / "x", "--allow-losses")
    run("check", *tables, "--fix", out, "--allow-losses", "--force")
    assert tree(out) == before
    done("check", *shop(tmp_path, IDS, bad=2), "--fix", tmp_path / "other")


def test_a_fix_writes_ids_as_the_catalog_does(tmp_path: Path) -> None:
    out = tmp_path / "clean"
    ran = done("check", *shop(tmp_path, IDS, bad=10), "--fix", out)
    assert "ids in their normal form or as in the catalog: 0 items, 200 events" in ran.out
    done("check", out / "items.parquet", out / "events.parquet")
    items, events = shop(tmp_path, IDS, bad=10)
    write_table(items, {"item_id": [*IDS, "034"], "title": [*IDS, "34"]})
    assert "lose 20 of 200" not in done("check", items, events, "--fix", tmp_path / "one").out
    left = done("check", items, events, "--fix", tmp_path / "two").out
    assert "left out: 20 events of items that the catalog lacks" in left  # 0034 or 034?
    report = done("check", items, events, "--fix", tmp_path / "three", "--json").json
    assert (report["before"]["events"], report["dropped_events"]) == (200, {"unknown_item": 20})


def test_a_catalog_with_a_header_alone_is_refused(tmp_path: Path) -> None:
    items, events = shop(tmp_path, IDS)
    write_table(items, {"item_id": [], "title": []})
    for words in (("check", items), ("check", items, events)):
        ran = run(*words)
        assert (ran.code, "a build would stop: no row below the header" in ran.err) == (3, True)


def test_problems_of_ids_and_times_are_counted(tmp_path: Path) -> None:
    items, events = shop(tmp_path, IDS)
    write_table(items, {"item_id": [*IDS, f"{IDS[0]} ", ""], "title": [*IDS, "blank", "none"]})
    header, *rows = events.read_text().splitlines()
    text = "\n".join([header, *reversed(rows)]).replace("2020-12-13", "1607817600")
    events.write_text(text.replace("2020-12-14", "soon", 1))
    problems = run("check", items, events, "--json").json["problems"]
    counts = {problem["kind"]: problem["count"] for problem in problems}
    # every event but the last one of each of 20 users stands below a later one
    times = {"mixed_time": 20, "unreadable_time": 1, "unordered": 179}
    assert counts == times | {"item_id_spelling": 1, "empty_item_id": 1}


def test_dates_in_another_format_are_named_and_read(tmp_path: Path) -> None:
    items, events = shop(tmp_path, IDS, dates="{:02d}/12/2020")
    ran = run("check", items, events)
    assert ran.code == 3
    assert "hint: the times look like '%d/%m/%Y': --time-format '%d/%m/%Y' of" in ran.last
    out = tmp_path / "clean"
    assert "cleaning would lose 200 of 200" in refused(3, "check", items, events, "--fix", out)
    assert "'%d/%m/%Y'" in refused(1, "split", events, "-o", tmp_path / "split")
    words = ("check", items, events, "--time-format")
    done(*words, "%d/%m/%Y")
    done(*words, "%d/%m/%Y", "--fix", out)
    done("split", out / "events.parquet", "-o", tmp_path / "split")
    assert run(*words, "%Y").code == 3  # a format that no time has


def test_split_and_prepare_read_dates_of_a_format(tmp_path: Path) -> None:
    items, events = shop(tmp_path, IDS, dates="{:02d}/12/2020")
    (tmp_path / "iso").mkdir()
    _, iso = shop(tmp_path / "iso", IDS)
    one, other, raw = tmp_path / "one", tmp_path / "other", tmp_path / "raw"
    done("split", iso, "-o", one)
    done("split", events, "-o", other, "--time-format", "%d/%m/%Y")
    digests = {json.loads((split / "split.json").read_text())["digest"] for split in (one, other)}
    assert len(digests) == 1
    columns = json.loads((other / "split.json").read_text())["columns"]
    assert columns["time_format"] == "%d/%m/%Y"
    done("prepare", events, "-o", raw, "--items", items, "--time-format", "%d/%m/%Y")
    done("split", raw / "events.parquet", "-o", tmp_path / "again")


def test_prepared_data_can_be_split_and_checked(road: Road, tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = ("prepare", road.events, "--items", road.items, "-o", data, "--k-core", 3)
    shown = done(*command, "--dry-run", "--json").json
    assert not data.exists()
    assert done(*command, "--json").json == shown
    assert shown["steps"][-1]["name"] == "core"
    assert done("check", data / "items.parquet", data / "events.parquet").code == 0
    split = tmp_path / "split"
    done("split", data / "events.parquet", "-o", split)
    before = tree(data)
    assert "core" in done(*command, "--force").out
    assert tree(data) == before


def test_rows_of_the_catalog_that_are_left_out_are_counted(tmp_path: Path) -> None:
    items = {"item_id": ["a", "", "b", "a", "a", "c"], "title": list("ABCDEF")}
    events = {"user_id": ["u"] * 3, "item_id": ["a", "b", "a"], "timestamp": ["1", "2", "3"]}
    catalog = write_table(tmp_path / "items.csv", items)
    source = write_table(tmp_path / "events.csv", events)
    command = ("prepare", source, "--items", catalog, "-o", tmp_path / "data", "--force")
    dropped = {"empty_item_id": 1, "duplicate_item_id": 2}
    assert done(*command, "--all-items", "--json").json["dropped_items"] == dropped
    dropped |= {"item_without_events": 1}
    for more in (["--dry-run"], []):
        prepared = done(*command, *more, "--json").json
        assert prepared["dropped_items"] == dropped
        assert prepared["items"] + sum(dropped.values()) == len(items["item_id"])
    out = done(*command).out
    assert "left out: 1 items without an id\n" in out
    assert "left out: 2 rows that repeat the id of an earlier row\n" in out
    assert "left out" not in done("prepare", source, "-o", tmp_path / "data", "--force").out
