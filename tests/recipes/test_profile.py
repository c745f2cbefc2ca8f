"""What is measured of two files, and what is chosen by it."""

import json
from pathlib import Path

from sidtool.data import CatalogNames, EventNames
from sidtool.recipes import Recipe
from sidtool.recipes.profile import DataProfile, measure
from sidtool.recipes.rules import choose, recipe_for


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
    return measure(items, events, CatalogNames(), EventNames())[0]


def test_columns_of_text_are_words_that_differ(tmp_path: Path) -> None:
    profile = write(tmp_path)
    assert profile == DataProfile(20, 30, 10, ("brand", "text", "color"))
    template = "{title}. {brand}. {text}. {color}"
    assert choose(profile, Recipe.named("default")).text_template == template


def test_the_length_of_histories_chooses_the_recipe() -> None:
    assert recipe_for(DataProfile(100, 490, 10, ())) == "default"
    assert recipe_for(DataProfile(100, 500, 10, ())) == "long-histories"
