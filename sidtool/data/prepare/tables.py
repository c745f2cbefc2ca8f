"""A catalog and events as they stand in their files, with every column, for checking and
cleaning; and any table of events, and any catalog, by the names of their columns. Where these do
not say it, cells give a hint which columns are probably meant."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.data.coded import Coded, Texts, coded_texts, numpy_numbers
from sidtool.data.columns import CatalogColumns, EventColumns, EventNames, Header
from sidtool.data.interactions import event_batches
from sidtool.data.items import CatalogNames
from sidtool.data.prepare.raw import Cells as EventCells
from sidtool.data.tables.tables import column_names, read_columns
from sidtool.data.times import (
    GUESSED_CELLS,
    iso_times,
    parse_moments,
    time_format_hint,
    trimmed,
    units_per_second,
    usual_formats,
)
from sidtool.data.unknown_ids import plain_id

RATING = "rating"
COLUMN_FLAG = re.compile(r"--[a-z]+-column")
Cells = Coded[str]
"""n cells by first appearance; the names are Texts, and each is in a row."""
GUESSED_ROWS = 1000
"""The first rows of the events, which are looked at."""
MIN_SHARE = 0.5
"""At least so many cells must have what a column is chosen for."""


@dataclass(frozen=True)
class CatalogTable:
    """n rows of a catalog; a missing cell is empty."""

    path: Path
    columns: CatalogColumns
    cells: Mapping[str, Cells]
    """Column -> its n cells, in file order."""

    @property
    def ids(self) -> Cells:
        """(n,)"""
        return self.cells[self.columns.id]

    @property
    def has_title(self) -> NDArray[np.bool_]:
        """(n,), all false without a column of titles."""
        import pyarrow.compute as pc

        if self.columns.title is None:
            return np.zeros(len(self.ids), dtype=np.bool_)
        titles = self.cells[self.columns.title]
        return numpy_numbers(pc.binary_length(trimmed(titles.names.arrow)))[titles.codes] > 0

    @property
    def usual_names(self) -> dict[str, str]:
        """The names that are read without a flag -> the columns of ids and titles, which may be the
        same."""
        title = self.columns.title
        return {"item_id": self.columns.id} | ({} if title is None else {"title": title})

    def lacks(self, items: Cells) -> NDArray[np.bool_]:
        """(distinct,): whether each value of items is no id."""
        return items.names.places_in(self.ids.names) < 0

    def unknown_ids(self, items: Cells) -> Iterator[str]:
        """The distinct values of items that are no ids."""
        return items.names.take(np.flatnonzero(self.lacks(items)))


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

    @property
    def events_of_user(self) -> NDArray[np.int64]:
        """(distinct,): the events of each user; 0 for an empty id."""
        users = self.users
        return np.bincount(users.codes[~are_empty(users)], minlength=len(users.names))

    @property
    def time_format_hint(self) -> str | None:
        """As `times.time_format_hint`, of the first times."""
        times = self.times
        return None if times is None else time_format_hint(list(times[:GUESSED_CELLS].texts()))


def are_empty(cells: Cells) -> NDArray[np.bool_]:
    """(n,): whether each is empty."""
    import pyarrow.compute as pc

    return cells.codes == pc.index(cells.names.arrow, "").as_py()  # -1 without an empty one


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
        if events is not None and _are_swapped(items, events):
            raise UsageError(f"{items} has events: the catalog comes before them") from error
        missing = set(COLUMN_FLAG.findall(error.shell_hint or ""))
        guessed = guess_flags(items, events) if missing else None
        if guessed is None:
            raise
        hint = f"by their cells, columns are {guessed}"
        if missing - set(COLUMN_FLAG.findall(guessed)):
            hint += f"; {error.shell_hint}"
        raise UsageError(str(error), hint=hint) from error


def _are_swapped(items: Path, events: Path) -> bool:
    """Whether the first file has the columns of events and no titles, and the second has titles."""
    try:
        Header(items, column_names(items)).events(EventNames())
        first, second = (Header(path, column_names(path)).catalog() for path in (items, events))
    except (UsageError, DataError):
        return False
    return first.title is None and second.title is not None


def read_catalog_table(
    path: Path, id_column: str | None = None, title_column: str | None = None
) -> CatalogTable:
    """Read every column of a catalog; errors as in `check.check`."""
    header = Header(path, column_names(path))
    columns = header.catalog(id_column, title_column)
    return CatalogTable(path, columns, _cells(header, (columns.id,)))


def read_event_table(path: Path, names: EventNames | None = None) -> EventTable:
    """Read every column of a file of events; dates of a named format become ISO dates. Errors as in
    `check.check`."""
    header = Header(path, column_names(path))
    columns = header.events(names or EventNames(), has_options=True)
    return EventTable(path, columns, _cells(header, (columns.user, columns.item), columns))


def _cells(
    header: Header, ids: tuple[str, ...], events: EventColumns | None = None
) -> dict[str, Cells]:
    import pyarrow.compute as pc

    table = read_columns(header.path, header.names, ids=ids)
    if events is not None and events.order is not None and events.time_format is not None:
        table[events.order] = iso_times(table[events.order], events.time_format)
    return {name: coded_texts(pc.fill_null(table.pop(name), "")) for name in [*table]}


def read_events(
    path: Path,
    names: EventNames | None = None,
    rating: str | None = None,
    needs_rating: bool = False,
) -> Iterator[EventCells]:
    """The events of a table. The rating is the column of that name unless another one is named.
    Raises UsageError if it `needs_rating` and has none."""
    header = Header(path, column_names(path))
    columns = header.events(names or EventNames(), has_options=True)
    if rating is not None:
        header.check(rating, "rating")
    elif needs_rating and RATING not in header.names:
        raise UsageError(
            "--min-rating needs ratings, and the events have none",
            hint=f"--rating-column names them; {path} has {', '.join(header.names)}",
        )
    rating = rating or (RATING if RATING in header.names else None)
    used = {"user": columns.user, "item": columns.item, "order": columns.order, "rating": rating}
    names_by_content = {content: name for content, name in used.items() if name}
    return event_batches(path, names_by_content, columns.time_format)


def read_items(
    path: Path, id_column: str | None = None, title: str | None = None
) -> Iterator[dict[str, str]]:
    """The items of a catalog, with every column; the first ones are `item_id`, and `title` if there
    is one. Raises UsageError if another column has one of these names."""
    table = read_catalog_table(path, id_column, title)
    names = table.usual_names
    cells = renamed(path, table.cells, names)
    columns = {name: cells[name] for name in (*names, *cells)}
    for row in zip(*map(Coded.texts, columns.values()), strict=True):
        yield dict(zip(columns, row, strict=True))


def renamed(path: Path, cells: Mapping[str, Cells], names: Mapping[str, str]) -> dict[str, Cells]:
    """The columns in their order, by the new names of some: `names` are new -> old, and two may be
    of one column. Raises UsageError if another column has a new name."""
    other_columns = cells.keys() - set(names.values())
    if clashes := names.keys() & other_columns:
        raise UsageError(
            f"{path} has a column {min(clashes)!r} beside the one that gets this name",
            hint="rename it in the file",
        )
    new_cells: dict[str, Cells] = {}
    for name, column in cells.items():
        new_names = [new for new, old in names.items() if old == name] or [name]
        new_cells |= dict.fromkeys(new_names, column)
    return new_cells


def guess_flags(items: Path, events: Path | None) -> str | None:
    """The flags that name the columns, like "--id-column sku --title-column label"; those of
    columns that nothing speaks for are left out. None without any. Raises UsageError if the events
    have no header."""
    catalog = _trimmed_cells(items)
    cells = _trimmed_cells(events) if events else {}
    first = {name: list(values[:GUESSED_ROWS].texts()) for name, values in cells.items()}
    item_id, item = _ids(catalog, first)
    title = next((name for name in catalog if name != item_id and _are_texts(catalog[name])), None)
    others = [name for name in first if name != item]
    order = next((name for name in others if _are_times(first[name])), None)
    if order is not None and _are_times([order]):
        raise UsageError(
            f"{events} has no header: its first line is an event, {', '.join(cells)}",
            hint="write one above it, like user_id,item_id,timestamp; "
            "`sidtool prepare --from movielens` reads u.data and ratings.dat",
        )
    others = [name for name in others if name != order and not _are_times(first[name])]
    user, session_users = _users(cells, others, cells.get(item or ""))
    named = {
        "--id-column": item_id,
        "--title-column": title,
        "--user-column": user,
        "--item-column": item,
        "--order-column": order,
        "--time-format": next(iter(usual_formats(first[order])), None) if order else None,
    }
    flags = [f"{flag} {shlex.quote(value)}" for flag, value in named.items() if value]
    sessions = [
        f", or --user-column {shlex.quote(name)} if {user!r} is a session" for name in session_users
    ]
    return "".join([" ".join(flags), *sessions]) or None


def _trimmed_cells(path: Path) -> dict[str, Cells]:
    """The cells of each column; no column if there are none."""
    table = read_columns(path, column_names(path))
    return {name: coded_texts(trimmed(column)) for name, column in table.items() if len(column)}


def _ids(
    catalog: Mapping[str, Cells], events: Mapping[str, Sequence[str]]
) -> tuple[str | None, str | None]:
    """The catalog's column whose cells differ, and the events' column that has most of its ids,
    which is rather one of the same name."""
    distinct = [name for name, cells in catalog.items() if 20 * len(cells.names) > 19 * len(cells)]
    scores = {}
    for item_id in distinct:
        catalog_ids = set(map(plain_id, catalog[item_id].names))
        for name, cells in events.items():
            share = sum(plain_id(cell) in catalog_ids for cell in cells) / max(len(cells), 1)
            if share >= MIN_SHARE:
                scores[item_id, name] = (item_id == name, share, len(set(cells)))
    if scores:
        return max(scores, key=lambda pair: scores[pair])
    return next(iter(distinct), None), None


def _are_texts(cells: Cells) -> bool:
    """Whether most cells differ and have letters."""
    n_named = sum(any(map(str.isalpha, cell)) for cell in cells.names)
    return n_named >= MIN_SHARE * len(cells)


def _are_times(cells: Sequence[str]) -> bool:
    """Whether most cells are dates, or numbers that are seconds since 1970 or a finer unit."""
    if usual_formats(cells):
        return True
    units = map(units_per_second, parse_moments(Texts(cells)).seconds.tolist())
    return sum(unit is not None for unit in units) >= MIN_SHARE * len(cells)


def _users(
    cells: Mapping[str, Cells], names: Sequence[str], items: Cells | None
) -> tuple[str | None, list[str]]:
    """The column with the most values of those that most rows repeat, then those that are users if
    it is a session: nearly all its values have one of theirs, which are at least a tenth as many.
    What an item determines, like its title, is no user."""
    n_values_by_name = {}
    for name in names:
        values = cells[name]
        n_values = len(values.names)
        # each item has one value
        is_of_item = items and _count_pairs(items, values) == len(items.names)
        if n_values <= MIN_SHARE * len(values) and (n_values == 1 or not is_of_item):
            n_values_by_name[name] = n_values
    first = max(n_values_by_name, key=lambda name: n_values_by_name[name], default=None)
    if first is None:
        return None, []
    n_first = n_values_by_name.pop(first)
    return first, [
        name
        for name, n_values in n_values_by_name.items()
        if 1 < n_values < n_first <= 10 * n_values
        and _count_pairs(cells[first], cells[name]) <= 1.1 * n_first
    ]


def _count_pairs(cells: Cells, others: Cells) -> int:
    """How many pairs of cells of a row differ."""
    return len(np.unique(cells.codes.astype(np.int64) * len(others.names) + others.codes))
