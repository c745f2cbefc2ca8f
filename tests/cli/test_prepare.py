"""The prepare command."""

from pathlib import Path

from tests.cli.road import Road, done, refused, tree
from tests.data.tables.files import write_table


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
    assert "exists already" in refused(2, *command)
    table = done(*command, "--force").out
    assert "core" in table
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
