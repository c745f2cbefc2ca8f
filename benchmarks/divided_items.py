"""Divide a catalog at random into items that are there from the start and items that come later."""

import csv
import json
from pathlib import Path

import numpy as np

from sidtool import read_items
from sidtool.base.output import new_dir
from sidtool.data.interactions import read_interactions
from sidtool.data.tables.tables import column_names, read_columns

OLD = "old.jsonl"
NEW = "new.jsonl"
EVENTS = "interactions.csv"


def divide_items(items: Path, out: Path, new_share: float, seed: int) -> Path:
    """Write OLD (the items that are there from the start) and NEW (a random share, which come
    later) to a new folder, from a catalog of any type."""
    if out.exists():
        return out
    rows = catalog_rows(items)
    is_new = np.random.default_rng(seed).permutation(len(rows)) >= round(
        (1 - new_share) * len(rows)
    )
    with new_dir(out) as folder:
        for name, is_in_file in ((OLD, ~is_new), (NEW, is_new)):
            lines = [row for row, keep in zip(rows, is_in_file, strict=True) if keep]
            (folder / name).write_text("".join(lines), encoding="utf-8")
    return out


def catalog_rows(items: Path) -> list[str]:
    """The rows of a catalog as lines of JSON: those of JSON Lines as they are, cells of others as
    text."""
    if items.suffix == ".jsonl":
        with items.open(encoding="utf-8") as stream:
            return list(stream)  # not splitlines(), which divides titles at U+2028
    names = column_names(items)
    columns = [column.to_pylist() for column in read_columns(items, names).values()]
    return [
        json.dumps(dict(zip(names, cells, strict=True)), ensure_ascii=False) + "\n"
        for cells in zip(*columns, strict=True)
    ]


def write_events_of(items: Path, events: Path, out: Path, min_events: int) -> Path:
    """Write the events of these items to a new folder, without users who have fewer left."""
    if out.exists():
        return out
    ids = set(read_items(items).ids)
    interactions = read_interactions(events)
    by_user: dict[str, list[tuple[str, str, float]]] = {}
    columns = (interactions.users, interactions.items, interactions.order.tolist())
    for event in zip(*columns, strict=True):
        if event[1] in ids:
            by_user.setdefault(event[0], []).append(event)
    with (
        new_dir(out) as folder,
        (folder / EVENTS).open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream)
        # of the same name: positions of two splits are compared where one column orders both
        writer.writerow(["user_id", "item_id", interactions.columns.order or "timestamp"])
        for user_events in by_user.values():
            if len(user_events) >= min_events:
                writer.writerows(user_events)
    return out
