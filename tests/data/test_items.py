import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, SidtoolWarning, UsageError
from sidtool.data.items import plain_text, read_items, render, template_columns
from sidtool.data.split import open_split
from tests.data.tables.files import CONTAINERS, write_table

TABLE = {
    "asin": ["B1", "B2", "B3"],
    "title": ["Red  lamp", "Blue lamp", "<s_a_1> lamp"],
    "brand": ["Lux", "", "Lux"],
}


@pytest.mark.parametrize("name", [*CONTAINERS, "x.item"])
def test_a_catalog_is_the_same_in_every_container(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / name, TABLE)
    items = read_items(path, text_template="{title} ({brand})", fields=["brand"])
    assert items.ids == ("B1", "B2", "B3")
    assert items.titles == ("Red lamp", "Blue lamp", "<s_a_1> lamp")
    assert items.texts == ("Red lamp (Lux)", "Blue lamp", "<s_a_1> lamp (Lux)")
    assert items.fields == {"brand": ("Lux", "", "Lux")}
    other = read_items(write_table(tmp_path / "y.csv", TABLE), text_template="{title} ({brand})")
    assert items.digest == other.digest


def test_the_digest_depends_on_every_value(tmp_path: Path) -> None:
    digests = {read_items(write_table(tmp_path / "x.csv", TABLE)).digest}
    for column, value in (("asin", "B9"), ("title", "Lamp")):
        changed = TABLE | {column: [*TABLE[column][:2], value]}
        digests.add(read_items(write_table(tmp_path / "x.csv", changed)).digest)
    path = write_table(tmp_path / "x.csv", TABLE)
    digests.add(read_items(path, text_template="{asin} {title}").digest)
    assert len(digests) == 4


def test_the_title_placeholder_means_the_title_column(tmp_path: Path) -> None:
    table = {"movie_id": ["1"], "movie_title": ["Heat"], "alias": ["Hot"]}
    path = write_table(tmp_path / "x.csv", table)
    assert read_items(path).texts == ("Heat",)
    both = read_items(path, title_column="alias", text_template="{title} / {movie_title}")
    assert both.texts == ("Hot / Heat",)
    assert read_items(path, id_column="alias").ids == ("Hot",)


def test_a_catalog_without_titles_needs_a_template(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.csv", {"item_id": ["1"], "genre": ["Noir"]})
    with pytest.raises(UsageError, match="no column 'title'") as caught:
        read_items(path)
    assert "item_id, genre" in str(caught.value.shell_hint)
    items = read_items(path, text_template="{genre}")
    assert (items.titles, items.texts) == (("",), ("Noir",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_items(path, text_template="").texts == ("1",)


def test_an_unknown_column_is_named_with_the_known_ones(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.jsonl", TABLE)
    for wrong in ({"text_template": "{color}"}, {"fields": ["color"]}, {"id_column": "color"}):
        with pytest.raises(UsageError, match="'color'") as caught:
            read_items(path, **wrong)  # type: ignore[arg-type]
        assert "asin, title, brand" in str(caught.value.shell_hint)


def test_a_table_is_no_path() -> None:
    table: Any = pd.DataFrame({"item_id": ["a"]})
    for read in (read_items, open_split):
        with pytest.raises(UsageError, match="a path is a text or a Path, not a DataFrame"):
            read(table)


def test_an_empty_id_and_no_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 2: the item id is empty"):
        read_items(write_table(tmp_path / "x.csv", {"id": ["a", ""], "title": ["x", "y"]}))
    (tmp_path / "x.csv").write_text("id,title\n")
    with pytest.raises(DataError, match="no items"):
        read_items(tmp_path / "x.csv")


def test_empty_texts_are_replaced_by_ids(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.csv", {"id": ["a", "b", "c"], "title": ["x", " ", "z"]})
    with pytest.warns(SidtoolWarning, match=r"1 of 3 items have no text \(first: 'b', row 2\)"):
        items = read_items(path)
    assert (items.titles, items.texts) == (("x", "", "z"), ("x", "b", "z"))


words = st.text("abcXYZ019", min_size=1, max_size=6)


@given(words, words, words)
def test_a_full_template_is_filled_as_python_would(title: str, brand: str, year: str) -> None:
    values = {"title": title, "brand": brand, "year": year}
    sentences = ("{title}. {brand} ({year})", "Name: {title}; [{brand}], {year}.")
    for template in (*sentences, "{title}{brand}", "{year}"):
        assert render(template, values) == template.format(**values)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{title}. {none}", "Lamp"),
        ("{none}. {title}", "Lamp"),
        ("{title} ({none})", "Lamp"),
        ("{title} ({none}). {brand}", "Lamp. Lux"),
        ("{title}. {none} ({brand})", "Lamp (Lux)"),
        ("Name: {title}; Color: {none}; Brand: {brand}.", "Name: Lamp; Brand: Lux."),
        ("Color: {none}; Brand: {brand}", "Brand: Lux"),
        ("{wow}. {brand}", "Wow! Lux"),
        ("{none}. {none}.", ""),
        ("{{{title}}}", "{Lamp}"),
        ("{none}. {net}", ".NET (2nd)"),  # punctuation of a value stays
    ],
)
def test_an_empty_value_is_removed_with_its_separators(template: str, text: str) -> None:
    values = {"title": "Lamp", "brand": "Lux", "none": "", "wow": "Wow!", "net": ".NET (2nd)"}
    assert render(template, values) == text


@pytest.mark.parametrize(
    "template", ["", "no column", "{title", "{}", "{title!r}", "{title:>5}", "}"]
)
def test_a_malformed_template_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="template"):
        template_columns(template)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        (" two \n words ", "two words"),
        ("['a', 'b.', 'c']", "a, b. c"),
        ('[["Home", "Lamp"], ["Red"]]', "Home, Lamp, Red"),
        ("[]", ""),
        ("""['the rack's feet.\\n \\n', 'a 5" knob', "b"]""", "the rack's feet. a 5\" knob, b"),
        ("[1999]", "[1999]"),
        ("[Live] at Leeds", "[Live] at Leeds"),
        ("[Live]", "[Live]"),
    ],
)
def test_cells_become_plain_text(cell: str | None, text: str) -> None:
    assert plain_text(cell) == text
