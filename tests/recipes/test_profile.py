"""What is measured of two files, and what is chosen by it."""

import json
from pathlib import Path

from sidtool.data import CatalogNames, EventNames
from sidtool.data.prepare import read_tables, report
from sidtool.recipes import Recipe
from sidtool.recipes.profile import DataProfile, measure
from sidtool.recipes.rules import choose, enough_epochs


def write(folder: Path) -> DataProfile:
    """The profile of a catalog with columns of every kind, and of two events of each user."""
    items = folder / "items.jsonl"
    rows = [
        {
            "item_id": f"b{n}",
            "title": f"lamp {n}",
            "isbn": f"X{n}YZ",
            "price": f"{n}.90",
            "added": "2020-01-01",
            "image": f"https://shop.example/{n}.png",
            "brand": "Acorn" if n % 2 else "Birch",
            "empty": "" if n else "one",
            "constant": "shop",
            "text": f"A long text of item {n}.",
            "a.b": "not for templates",
            "color": "red" if n % 3 else "blue",
            "kind": "lamp" if n % 5 else "rug",
        }
        for n in range(20)
    ]
    items.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    events = folder / "events.csv"
    lines = [f"u{n},b{n + step},{step}" for n in range(10) for step in range(3)]
    events.write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    catalog, table = read_tables(items, events, CatalogNames(), EventNames())
    return measure(catalog, report(catalog, table))


def test_columns_of_text_are_words_that_differ(tmp_path: Path) -> None:
    profile = write(tmp_path)
    assert profile == DataProfile(20, 30, 10, ("brand", "text", "color"))
    template = "{title}. {brand}. {text}. {color}"
    assert choose(profile, Recipe.named("default")).text_template == template


def test_small_data_is_trained_for_more_epochs() -> None:
    def epochs(users: int, events: int, **settings: object) -> float | None:
        batch = {"per_device_train_batch_size": 32, "num_train_epochs": 14}
        return enough_epochs(DataProfile(100, events, users, ()), batch | settings)

    assert epochs(22_000, 200_000) == 14
    assert epochs(640, 4_000) == 50
    assert epochs(40, 400) == 100
    assert epochs(40, 400, num_train_epochs=390) == 390
    assert epochs(40, 400, token_budget=1000) is None
    assert epochs(40, 400, stages=[{}]) is None
