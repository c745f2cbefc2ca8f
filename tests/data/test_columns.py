from itertools import chain
from pathlib import Path

import pytest

from sidtool.base.errors import UsageError
from sidtool.data.columns import GUESSES, CatalogColumns, Header
from sidtool.data.items import read_items
from tests.data.tables.files import write_table

PATH = Path("x.csv")
HINT = "name it with --id-column"


def test_a_named_column_comes_first_then_a_recorded_one_then_a_guess() -> None:
    names = ("rating", "movieId", "asin")
    header = Header(PATH, names)
    assert header.choose("item id", HINT, named="rating", recorded="asin") == "rating"
    assert header.choose("item id", HINT, recorded="rating") == "rating"
    assert header.choose("item id", HINT, recorded="gone") == "asin"
    assert Header(PATH, ("rating", "Movie-ID")).choose("item id", HINT) == "Movie-ID"
    assert Header(PATH, ("rating",)).choose("item id", HINT) is None
    with pytest.raises(UsageError, match="no column 'x'") as caught:
        header.choose("item id", HINT, named="x")
    assert "rating, movieId, asin" in str(caught.value.shell_hint)


@pytest.mark.parametrize("names", [("SKU", "movie_id"), ("sku", "SKU"), ("movieId", "movie_id")])
def test_two_columns_of_one_tier_are_ambiguous(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="two columns that look like the item id") as caught:
        Header(PATH, names).choose("item id", HINT)
    assert all(repr(name) in str(caught.value) for name in names)
    assert caught.value.shell_hint == HINT
    assert Header(PATH, (*names, "asin")).choose("item id", HINT) == "asin"


@pytest.mark.parametrize("content", GUESSES)
def test_every_conventional_name_is_recognized_in_any_case(content: str) -> None:
    names = list(chain.from_iterable(GUESSES[content]))
    assert len(set(names)) == len(names)
    for name in names:
        spelled = name.title().replace("_", "")
        assert Header(PATH, ("other", spelled)).choose(content, HINT) == spelled


def test_items_know_their_columns(tmp_path: Path) -> None:
    table = {"code": ["a", "b"], "label": ["A", "B"], "title": ["x", "y"]}
    path = write_table(tmp_path / "x.csv", table)
    items = read_items(path, id_column="code", title_column="label")
    assert items.columns == CatalogColumns("code", "label")
    again = read_items(path, recorded=items.columns)
    assert (again.titles, again.digest) == (("A", "B"), items.digest)
    assert read_items(path, title_column="title", recorded=items.columns).titles == ("x", "y")
