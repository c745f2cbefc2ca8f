"""A catalog and events as they stand in their files, with every column, for checking and
cleaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sidtool.data.columns import CatalogColumns, EventColumns, EventNames, choose_event_columns
from sidtool.data.items import choose_catalog_columns
from sidtool.data.tables.tables import column_names, read_columns

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


def read_event_table(path: Path, names: EventNames | None = None) -> EventTable:
    """Read every column of a file of events; errors as in `check.check`."""
    available = column_names(path)
    columns = choose_event_columns(path, available, names or EventNames())
    return EventTable(path, columns, _cells(path, available, (columns.user, columns.item)))


def _cells(path: Path, names: tuple[str, ...], ids: tuple[str, ...]) -> dict[str, Cells]:
    table = read_columns(path, names, ids=ids)
    return {name: tuple(value or "" for value in table[name].to_pylist()) for name in names}
