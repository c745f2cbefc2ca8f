"""What is measured of a catalog and its events before anything is built."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sidtool.base.records import JsonRecord
from sidtool.data.prepare import CatalogTable, Report

TEXT_COLUMNS = 3
"""Columns beside the title that are part of an item's text, at most."""
TEXT_SAMPLE = 2000
"""Rows that say what a column holds."""
MIN_TEXT_SHARE = 0.5
"""Of the cells of a column of text that are not empty and have letters."""


@dataclass(frozen=True)
class DataProfile(JsonRecord):
    """The numbers that the rules of a recipe are about."""

    items: int
    events: int
    users: int
    text_columns: tuple[str, ...]
    """Columns beside the title with text."""


def measure(catalog: CatalogTable, checked: Report) -> DataProfile:
    """The profile of a catalog and its events, whose problems were reported."""
    return DataProfile(
        items=checked.items,
        events=checked.events or 0,
        users=checked.users or 0,
        text_columns=tuple(_text_columns(catalog))[:TEXT_COLUMNS],
    )


def _text_columns(catalog: CatalogTable) -> Iterator[str]:
    """The columns with text in the order of the file, without id and title."""
    for name, cells in catalog.cells.items():
        is_named = name not in (catalog.columns.id, catalog.columns.title)
        # a template reads these characters
        if is_named and not set(name) & set("{}!:[].") and _is_text(cells[:TEXT_SAMPLE]):
            yield name


def _is_text(cells: Sequence[str]) -> bool:
    """Whether cells are words: not numbers, dates, addresses or ids."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    words = [cell for cell in filled if cell[0] != "/" and "://" not in cell and _has_words(cell)]
    if len(words) < MIN_TEXT_SHARE * len(cells):
        return False
    is_id = len(set(filled)) == len(filled) and not any(" " in cell for cell in filled)
    return len(set(filled)) > 1 and not is_id


def _has_words(cell: str) -> bool:
    """Whether most characters are letters or blanks."""
    return sum(char.isalpha() or char.isspace() for char in cell) > len(cell) / 2
