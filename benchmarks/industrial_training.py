"""Rebuild the training windows of a data set of MiniOneRec that its validation and test windows
show.

    python benchmarks/industrial_training.py DATA/industrial

Reads valid.csv and test.csv, whose rows are a history, cut to its last ten items, and a target, and
writes train_partial.csv. The history of a user's first row has training events only; each of them
but the first is the target of a window. `exact` is 1 where the history is not cut."""

import argparse
import ast
import csv
from collections.abc import Iterator
from pathlib import Path

LONGEST = 10
"""Items of a history at most."""
CONTENTS = ("title", "id", "sid")
"""What a window has of each item: columns `history_item_title`, `item_title` ..."""


def first_histories(folder: Path) -> dict[str, dict[str, list[object]]]:
    """The history of the first row of each user, by its contents; validation precedes test."""
    texts: dict[str, dict[str, str]] = {}
    for part in ("valid", "test"):
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                history = {name: row[f"history_item_{name}"] for name in CONTENTS}
                texts.setdefault(row["user_id"], history)
    return {
        user: {name: ast.literal_eval(text) for name, text in history.items()}
        for user, history in texts.items()
    }


def training_windows(folder: Path) -> Iterator[dict[str, object]]:
    """The windows of each user's first history, from the shortest on."""
    for user, history in first_histories(folder).items():
        n_items = len(history["id"])
        for length in range(1, n_items):
            window: dict[str, object] = {"user_id": user}
            for content in CONTENTS:
                window[f"history_item_{content}"] = history[content][:length]
                window[f"item_{content}"] = history[content][length]
            yield window | {"exact": int(n_items < LONGEST)}


def main() -> None:
    """Write the file, and print how many windows it has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    windows = list(training_windows(folder))
    with (folder / "train_partial.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(windows[0]))
        writer.writeheader()
        writer.writerows(windows)
    print(f"{folder / 'train_partial.csv'}: {len(windows)} windows")


if __name__ == "__main__":
    main()
