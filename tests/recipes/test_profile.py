import json
from pathlib import Path

from sidtool.data import CatalogNames, EventNames
from sidtool.data.prepare import read_tables, report
from sidtool.recipes import Recipe
from sidtool.recipes.profile import DataProfile, choose, enough_epochs, measure


def write(folder: Path, title_column: str | None = None) -> DataProfile:
    """The profile of a catalog with columns of every kind, and of two events of each user."""
    items = folder / "items.jsonl"
    rows = []
    for n in range(20):
        row = {"item_id": f"b{n}", "title": f"lamp {n}", "isbn": f"X{n}YZ", "price": f"{n}.90"}
        row |= {"added": "2020-01-01", "image": f"https://shop.example/{n}.png"}
        row |= {"brand": "Acorn" if n % 2 else "Birch", "empty": "" if n else "one"}
        row |= {"constant": "shop", "text": f"A long text of item {n}.", "a.b": "not for templates"}
        rows.append(row | {"color": "red" if n % 3 else "blue", "kind": "lamp" if n % 5 else "rug"})
    items.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    events = folder / "events.csv"
    lines = [f"u{n},b{n + step},{step}" for n in range(10) for step in range(3)]
    events.write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    catalog, table = read_tables(
        items, events, CatalogNames(title_column=title_column), EventNames()
    )
    assert table is not None
    return measure(catalog, table, report(catalog, table))


def test_columns_of_text_are_words_that_differ(tmp_path: Path) -> None:
    profile = write(tmp_path)
    assert profile == DataProfile(20, 30, 10, ("brand", "text", "color"), longest=3)
    template = "{title}. {brand}. {text}. {color}"
    assert choose(profile, Recipe.named("default"), 10).text_template == template


def test_a_text_has_the_title_column_once_whatever_other_column_is_called_title(
    tmp_path: Path,
) -> None:
    profile = write(tmp_path, title_column="text")
    assert profile.text_columns == ("brand", "color", "kind")


def test_a_text_template_of_a_recipe_is_kept_however_its_key_is_spelled(tmp_path: Path) -> None:
    for key in ("text_template", "text-template"):
        (tmp_path / "codebook.yaml").write_text(json.dumps({key: "{title}"}))
        profile = DataProfile(100, 1000, 50, ("brand",), 15)
        assert choose(profile, Recipe(tmp_path), 10).text_template is None


def test_small_data_is_trained_for_more_epochs(tmp_path: Path) -> None:
    def epochs(users: int, events: int, **settings: object) -> float | None:
        batch = {"per_device_train_batch_size": 32, "num_train_epochs": 14}
        (tmp_path / "train.yaml").write_text(json.dumps(batch | settings))
        return enough_epochs(DataProfile(100, events, users, ()), Recipe(tmp_path))

    assert epochs(22_000, 200_000) == 14
    assert epochs(640, 4_000) == 50
    assert epochs(40, 400) == 100
    assert epochs(40, 400, num_train_epochs=390) == 390
    assert epochs(40, 400, token_budget=1000) is None
    assert epochs(40, 400, stages=[{}]) is None


def test_a_history_is_as_long_as_the_longest_and_twenty_at_most() -> None:
    def history(longest: int, recipe: str = "default") -> int | None:
        profile = DataProfile(100, 1000, 50, (), longest)
        return choose(profile, Recipe.named(recipe), 10).history

    assert [history(longest) for longest in (1, 6, 20, 21, 500)] == [1, 5, 19, None, None]
    assert history(15, "minionerec") is None


def test_an_empty_length_of_histories_is_left_to_make_sft(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("history_length:\n")
    assert choose(DataProfile(100, 1000, 50, (), 15), Recipe(tmp_path), 10).history is None


def test_a_model_is_wider_with_a_million_events_and_the_time_for_them() -> None:
    def setting(events: int, minutes: float, recipe: str = "default") -> str | None:
        profile = DataProfile(100_000, events, events // 10, (), 100)
        return choose(profile, Recipe.named(recipe), minutes).model_setting

    assert setting(999_999, 10_000) is None
    assert setting(1_000_000, 10) is None
    assert setting(1_000_000, 1000) == "hidden_size=256"
    assert setting(1_000_000, 1000, "encoder-decoder") is None
