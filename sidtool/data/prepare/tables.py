"""A catalog and events as they stand in their files, with every column, for checking and
cleaning; and any table of events, and any catalog, by the names of their columns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.data.columns import CatalogColumns, EventColumns, EventNames, choose_event_columns
from sidtool.data.items import choose_catalog_columns
from sidtool.data.prepare.raw import Cells as EventCells
from sidtool.data.prepare.raw import table_batches
from sidtool.data.tables.tables import column_names, read_columns
from sidtool.data.times import iso_times

RATING = "rating"
Cells = tuple[str, ...]


@dataclass(frozen=True)
class CatalogTable:
    """n rows of a catalog; a missing cell is empty."""

    path: Path
    columns: CatalogColumns
    cells: Mapping[str, Cells]
    """Column -> its n cells, in file order."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return tuple(self.cells)

    @property
    def ids(self) -> Cells:
        """(n,)"""
        return self.cells[self.columns.id]

    @property
    def titles(self) -> Cells:
        """(n,), all empty without a column of titles."""
        title = self.columns.title
        return ("",) * len(self.ids) if title is None else self.cells[title]


@dataclass(frozen=True)
class EventTable:
    """n events in file order; a missing cell is empty."""

    path: Path
    columns: EventColumns
    cells: Mapping[str, Cells]
    """Column -> its n cells."""

    @property
    def users(self) -> Cells:
        """(n,)"""
        return self.cells[self.columns.user]

    @property
    def items(self) -> Cells:
        """(n,)"""
        return self.cells[self.columns.item]

    @property
    def times(self) -> Cells | None:
        """(n,), None if the rows are in order."""
        return None if self.columns.order is None else self.cells[self.columns.order]


def read_catalog_table(
    path: Path, id_column: str | None = None, title_column: str | None = None
) -> CatalogTable:
    """Read every column of a catalog; errors as in `check.check`."""
    names = column_names(path)
    columns = choose_catalog_columns(path, names, id_column, title_column)
    return CatalogTable(path, columns, _cells(path, names, (columns.id,)))


def read_event_table(
    path: Path, names: EventNames | None = None, time_format: str | None = None
) -> EventTable:
    """Read every column of a file of events; times of the format become ISO dates. Errors as in
    `check.check`."""
    available = column_names(path)
    columns = choose_event_columns(path, available, names or EventNames(), has_options=True)
    cells = _cells(path, available, (columns.user, columns.item))
    if time_format is not None:
        if columns.order is None:
            raise UsageError("--time-format requires a column of times, not --order row")
        cells[columns.order] = tuple(iso_times(cells[columns.order], time_format))
    return EventTable(path, columns, cells)


def _cells(path: Path, names: tuple[str, ...], ids: tuple[str, ...]) -> dict[str, Cells]:
    table = read_columns(path, names, ids=ids)
    return {name: tuple(value or "" for value in table[name].to_pylist()) for name in names}


def read_events(
    path: Path, names: EventNames | None = None, rating: str | None = None
) -> Iterator[EventCells]:
    """The events of a table. The rating is the column of that name unless another one is named."""
    available = column_names(path)
    columns = choose_event_columns(path, available, names or EventNames(), has_options=True)
    if rating is not None and rating not in available:
        raise UsageError(f"{path} has no column {rating!r}", hint=f"it has {', '.join(available)}")
    rating = rating or (RATING if RATING in available else None)
    used = {"user": columns.user, "item": columns.item, "order": columns.order, "rating": rating}
    return table_batches(path, {content: name for content, name in used.items() if name})


def read_items(
    path: Path, id_column: str | None = None, title: str | None = None
) -> Iterator[dict[str, str]]:
    """The items of a catalog, with every column."""
    table = read_catalog_table(path, id_column, title)
    for cells in zip(*table.cells.values(), strict=True):
        row = dict(zip(table.names, cells, strict=True))
        first = {"item_id": row.pop(table.columns.id)}
        if table.columns.title is not None:
            first["title"] = row.pop(table.columns.title)
        yield first | row
