"""A catalog and events as they stand in their files, with every column, for checking and
cleaning; and any table of events, and any catalog, by the names of their columns."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.data.columns import CatalogColumns, EventColumns, EventNames, choose_event_columns
from sidtool.data.interactions import with_iso_times
from sidtool.data.items import CatalogNames, choose_catalog_columns
from sidtool.data.prepare.guess import guess_flags
from sidtool.data.prepare.raw import Cells as EventCells
from sidtool.data.prepare.raw import table_batches
from sidtool.data.tables.tables import column_names, read_columns
from sidtool.data.times import iso_times

RATING = "rating"
COLUMN_FLAG = re.compile(r"--[a-z]+-column")
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


def read_tables(
    items: Path, events: Path | None, columns: CatalogNames, names: EventNames
) -> tuple[CatalogTable, EventTable | None]:
    """Read every column of a catalog, and of events on its items. Raises UsageError, with the flags
    that are probably meant, if columns are neither named nor have common names; other errors as in
    `check.check`."""
    try:
        catalog = read_catalog_table(items, columns.id_column, columns.title_column)
        return catalog, None if events is None else read_event_table(events, names)
    except UsageError as error:
        missing = set(COLUMN_FLAG.findall(error.shell_hint or ""))
        guessed = guess_flags(items, events) if missing else None
        if guessed is None:
            raise
        hint = f"by their cells, columns are {guessed}"
        if missing - set(COLUMN_FLAG.findall(guessed)):
            hint += f"; {error.shell_hint}"
        raise UsageError(str(error), hint=hint) from error


def read_catalog_table(
    path: Path, id_column: str | None = None, title_column: str | None = None
) -> CatalogTable:
    """Read every column of a catalog; errors as in `check.check`."""
    names = column_names(path)
    columns = choose_catalog_columns(path, names, id_column, title_column)
    return CatalogTable(path, columns, _cells(path, names, (columns.id,)))


def read_event_table(path: Path, names: EventNames | None = None) -> EventTable:
    """Read every column of a file of events; dates of a named format become ISO dates. Errors as in
    `check.check`."""
    available = column_names(path)
    columns = choose_event_columns(path, available, names or EventNames(), has_options=True)
    return EventTable(path, columns, _cells(path, available, (columns.user, columns.item), columns))


def _cells(
    path: Path, names: tuple[str, ...], ids: tuple[str, ...], events: EventColumns | None = None
) -> dict[str, Cells]:
    table = dict(read_columns(path, names, ids=ids))
    if events is not None and events.order is not None and events.time_format is not None:
        table[events.order] = iso_times(table[events.order], events.time_format)
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
    batches = table_batches(path, {content: name for content, name in used.items() if name})
    return batches if columns.time_format is None else with_iso_times(batches, columns.time_format)


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
