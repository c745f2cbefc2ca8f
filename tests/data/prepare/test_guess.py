"""Columns that are guessed by their cells."""

from pathlib import Path

import numpy as np

from sidtool.data.prepare.tables import guess_flags


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
