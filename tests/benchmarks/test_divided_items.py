import csv
import json
import runpy
import sys
from pathlib import Path

import pytest

ROWS = [{"item_id": f"i{number}", "title": f"Title,\u2028{number}"} for number in range(20)]


@pytest.fixture(params=["items.jsonl", "items.csv"])
def items(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    with path.open("w", encoding="utf-8", newline="") as stream:
        if path.suffix == ".jsonl":
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
        else:
            writer = csv.DictWriter(stream, ["item_id", "title"])
            writer.writeheader()
            writer.writerows(ROWS)
    return path


def test_every_item_is_either_old_or_new(items: Path, tmp_path: Path) -> None:
    from divided_items import NEW, OLD, divide_items

    folder = divide_items(items, tmp_path / "divided", 0.2, seed=0)
    old, new = [
        [json.loads(line) for line in (folder / name).read_text("utf-8").rstrip("\n").split("\n")]
        for name in (OLD, NEW)
    ]
    assert (len(old), len(new)) == (16, 4)
    assert sorted(old + new, key=ROWS.index) == ROWS


def test_events_of_old_items_stay_with_users_who_have_enough(tmp_path: Path) -> None:
    from divided_items import EVENTS, write_events_of

    items = tmp_path / "old.jsonl"
    items.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))
    events = tmp_path / "events.tsv"
    rows = ["u\ti0\t3", "u\ti1\t1", "u\ti9\t2", "v\ti0\t1", "v\ti9\t2"]
    events.write_text("\n".join(["user_id\titem_id\torder", *rows]) + "\n")
    folder = write_events_of(items, events, tmp_path / "events", min_events=2)
    with (folder / EVENTS).open(newline="") as stream:
        stored = [(row["user_id"], row["item_id"], row["order"]) for row in csv.DictReader(stream)]
    assert stored == [("u", "i1", "1.0"), ("u", "i0", "3.0")]


@pytest.mark.parametrize("items", ["items.jsonl"], indirect=True)
def test_items_stand_in_the_order_of_their_first_events(
    items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "first_appearance.py"
    events, out = tmp_path / "events.csv", tmp_path / "out.jsonl"
    events.write_text("user_id,item_id,order\nu,i3,1\nu,i1,2\n")
    monkeypatch.setattr(sys, "argv", [script.name, *map(str, (items, events, out))])
    runpy.run_path(str(script))
    written = out.read_text("utf-8").rstrip("\n").split("\n")
    assert [json.loads(line)["item_id"] for line in written] == ["i3", "i1"]

    events.write_text("user_id,item_id,order\nu,i3,1\nu,gone,2\n")
    with pytest.raises(SystemExit):
        runpy.run_path(str(script))
    assert "lacks 1 items with events, such as 'gone'" in capsys.readouterr().err
