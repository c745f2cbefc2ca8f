import csv
from pathlib import Path

from tests.benchmarks.conftest import Run

HEADER = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid"


def row(user: str, items: list[int]) -> str:
    """A window whose last item is the target."""
    lists = [f"{[text.format(item) for item in items[:-1]]}" for text in ("title {}", "<a_{}>")]
    last = items[-1]
    return f'{user},"{lists[0]}",title {last},"{items[:-1]}",{last},"{lists[1]}",<a_{last}>'


def test_windows_are_those_of_the_first_history(tmp_path: Path, script: Run) -> None:
    cut = list(range(20, 31))
    valid = [row("u", [1, 2, 3, 4]), row("u", [1, 2, 3, 4, 5])]
    test = [row("u", [1, 2, 3, 4, 5, 6]), row("v", [7, 8]), row("w", cut)]
    (tmp_path / "valid.csv").write_text("\n".join([HEADER, *valid]) + "\n")
    (tmp_path / "test.csv").write_text("\n".join([HEADER, *test]) + "\n")
    assert "train_partial.csv: 11 windows" in script("industrial_training", tmp_path)
    with (tmp_path / "train_partial.csv").open(newline="") as stream:
        windows = list(csv.DictReader(stream))
    assert list(windows[0]) == [*HEADER.split(","), "exact"]
    shown = [
        (window["user_id"], window["history_item_id"], window["item_id"]) for window in windows
    ]
    assert shown[:3] == [("u", "[1]", "2"), ("u", "[1, 2]", "3"), ("w", "[20]", "21")]
    assert shown[-1] == ("w", str(cut[:9]), "29")
    assert [window["exact"] for window in windows] == ["1"] * 2 + ["0"] * 9
    assert (windows[1]["item_title"], windows[1]["item_sid"]) == ("title 3", "<a_3>")
