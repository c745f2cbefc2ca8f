from itertools import chain
from pathlib import Path

import pytest

from sidtool.base.errors import UsageError
from sidtool.data import columns
from sidtool.data.columns import CatalogColumns, choose_column
from sidtool.data.items import read_items
from tests.data.tables.files import write_table

PATH = Path("x.csv")
TIERS = (("asin",), ("movie_id", "sku"))


def test_a_named_column_comes_first_then_a_recorded_one_then_a_guess() -> None:
    names = ("rating", "movieId", "asin")
    assert choose_column(PATH, names, "rating", TIERS, "item id", recorded="asin") == "rating"
    assert choose_column(PATH, names, None, TIERS, "item id", recorded="rating") == "rating"
    assert choose_column(PATH, names, None, TIERS, "item id", recorded="gone") == "asin"
    assert choose_column(PATH, ("rating", "Movie-ID"), None, TIERS, "item id") == "Movie-ID"
    assert choose_column(PATH, ("rating",), None, TIERS, "item id") is None
    with pytest.raises(UsageError, match="no column 'x'") as caught:
        choose_column(PATH, names, "x", TIERS, "item id")
    assert "rating, movieId, asin" in str(caught.value.shell_hint)


@pytest.mark.parametrize("names", [("SKU", "movie_id"), ("sku", "SKU"), ("movieId", "movie_id")])
def test_two_columns_of_one_tier_are_ambiguous(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="two columns that look like the item id") as caught:
        choose_column(PATH, names, None, TIERS, "item id", "name it with --id-column")
    assert all(repr(name) in str(caught.value) for name in names)
    assert caught.value.shell_hint == "name it with --id-column"
    assert choose_column(PATH, (*names, "asin"), None, TIERS, "item id") == "asin"


@pytest.mark.parametrize("content", ["ID", "TITLE", "USER", "ORDER", "HISTORY"])
def test_every_conventional_name_is_recognized_in_any_case(content: str) -> None:
    tiers: columns.Tiers = getattr(columns, f"{content}_COLUMNS")
    names = list(chain.from_iterable(tiers))
    assert len(set(names)) == len(names)
    for name in names:
        spelled = name.title().replace("_", "")
        assert choose_column(PATH, ("other", spelled), None, tiers, "it") == spelled


def test_items_know_their_columns(tmp_path: Path) -> None:
    table = {"code": ["a", "b"], "label": ["A", "B"], "title": ["x", "y"]}
    path = write_table(tmp_path / "x.csv", table)
    items = read_items(path, id_column="code", title_column="label")
    assert items.columns == CatalogColumns("code", "label")
    again = read_items(path, recorded=items.columns)
    assert (again.titles, again.digest) == (("A", "B"), items.digest)
    assert read_items(path, title_column="title", recorded=items.columns).titles == ("x", "y")
