"""User-item interactions (events): who interacted with which item, in which order.

The table is read and coded in runs of two million events. Ids are coded, so an event takes 24
bytes: 4 for each id, 8 for its order and 8 for its row."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.base.errors import DataError
from sidtool.data.coded import Coded, TextCodes
from sidtool.data.columns import EventColumns, EventNames, choose_column, choose_event_columns
from sidtool.data.event_sort import ORDER, REST, USER, Spill, sort_events
from sidtool.data.tables.containers import Column
from sidtool.data.tables.tables import column_batches, column_names
from sidtool.data.times import check_one_unit, check_same_kind, count_units, read_order, trimmed

RUN_EVENTS = 1 << 21
"""The most events that are coded at once: the more, the more ids repeat, and the fewer are looked
up."""
DIGEST_VALUES = 1 << 20
"""Values of an array that are hashed at once."""
ITEM, ROW = "item", "row"


@dataclass(frozen=True)
class Interactions:
    """n events, sorted by user (in order of first appearance), then by order, then by file row."""

    users: Coded[str]
    """n ids; their codes ascend."""
    items: Coded[str]
    """n ids."""
    order: NDArray[np.float64]
    """(n,): the numbers of the order column, or seconds since 1970 if it holds dates."""
    columns: EventColumns
    digest: str
    """SHA-256 over users, items and order."""
    rows: NDArray[np.int64]
    """(n,): the row of the file, from 0."""
    cells: Mapping[str, Coded[str]]
    """Further columns that were read: n texts each, without blanks around them; "" for no value."""

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(users,): the index of each user's first event."""
        codes = self.users.codes
        is_first = np.ones(len(codes), dtype=np.bool_)
        np.not_equal(codes[1:], codes[:-1], out=is_first[1:])
        return np.flatnonzero(is_first)

    @cached_property
    def stops(self) -> NDArray[np.int64]:
        """(users,): one more than the index of each user's last event."""
        return np.append(self.starts[1:], len(self))


def read_interactions(
    path: Path,
    names: EventNames | None = None,
    *,
    recorded: EventColumns | None = None,
    further: Sequence[str] = (),
    spill: Spill | None = None,
) -> Interactions:
    """Read events from a file of any type (`containers`), with the cells of `further` columns.

    Columns that are not named are those that a split has `recorded`, if the file has them, or
    guessed from USER_COLUMNS, ID_COLUMNS and ORDER_COLUMNS. Order is a number in all rows, or an
    ISO date in all; ties keep the file's order. With `spill` the same arrays are made within a
    memory budget, and lie in files.

    Raises UsageError for a missing column or a file of windows, DataError for malformed or empty
    cells."""
    available = column_names(path)
    columns = choose_event_columns(path, available, names or EventNames(), recorded)
    for name in further:
        choose_column(path, available, name, (), "events")
    table = _CodedTable(path, columns, further)
    run_events = RUN_EVENTS if spill is None else min(RUN_EVENTS, spill.run_events)
    arrays = sort_events(table.runs(run_events), spill)
    users = Coded[str](table.codes[USER].names, arrays[USER])
    items = Coded[str](table.codes[ITEM].names, arrays[ITEM])
    order = arrays[ORDER]
    cells = {
        name: Coded[str](table.codes[_cell(name)].names, arrays[_cell(name)]) for name in further
    }
    return Interactions(
        users, items, order, columns, _digest(users, items, order), arrays[ROW], cells
    )


def _digest(users: Coded[str], items: Coded[str], order: NDArray[np.float64]) -> str:
    """SHA-256 (hex) over sorted events."""
    state = hashlib.sha256(digest_strings(users.names, items.names).encode())
    for column, dtype in ((users.codes, "<i8"), (items.codes, "<i8"), (order, "<f8")):
        for start in range(0, len(column), DIGEST_VALUES):
            state.update(column[start : start + DIGEST_VALUES].astype(dtype).tobytes())
    return state.hexdigest()


def _cell(name: str) -> str:
    """What a further column is called in a run: no other column has this name."""
    return f"cell {name}"


class _CodedTable:
    """The events of a table as runs of codes."""

    def __init__(self, path: Path, columns: EventColumns, further: Sequence[str]) -> None:
        self._path = path
        self._columns = columns
        self._further = further
        self._rows = 0
        self._first_order: tuple[int, str] | None = None
        self._units: Counter[float] = Counter()
        self.codes = {name: TextCodes() for name in (USER, ITEM, *map(_cell, further))}
        """What the codes of a column mean, as far as runs have been read."""

    def runs(self, run_events: int) -> Iterator[Any]:
        """Record batches of about so many events, in the order of the table. Raises DataError for a
        malformed or empty cell, or without events."""
        ids = [self._columns.user, self._columns.item]
        order = [] if self._columns.order is None else [self._columns.order]
        batches = column_batches(self._path, [*ids, *order, *self._further], ids=ids)
        for cells in _runs_of_cells(batches, run_events):
            yield self._coded(cells)
        if not self._rows:
            raise DataError(f"{self._path} holds no events")
        check_one_unit(self._path, self._units)

    def _coded(self, cells: Any) -> Any:
        import pyarrow as pa

        rows = np.arange(self._rows, self._rows + len(cells))
        order, rest = rows.astype(np.float64), np.zeros(len(rows))
        users = self._ids(USER, cells[self._columns.user])
        items = self._ids(ITEM, cells[self._columns.item])
        if self._columns.order is not None:
            order, rest = self._order(cells[self._columns.order])
        run = {USER: users, ITEM: items, ORDER: order, REST: rest, ROW: rows}
        for name in self._further:
            run[_cell(name)] = self.codes[_cell(name)].add(trimmed(cells[name]))
        self._rows += len(rows)
        return pa.record_batch(run)

    def _ids(self, content: str, column: Column) -> NDArray[np.int32]:
        """(n,) codes. Raises DataError for an empty id, with its row."""
        import pyarrow.compute as pc

        column = pc.fill_null(column, "")
        empty = pc.index(column, "").as_py()
        if empty >= 0:
            raise DataError(
                f"{self._path}, row {self._rows + empty + 1}: the {content} id is empty"
            )
        return self.codes[content].add(column)

    def _order(self, column: Column) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        texts = trimmed(column)
        numbers, rest = read_order(self._path, texts, self._rows)
        first = (self._rows, texts[0].as_py())
        self._first_order = self._first_order or first
        check_same_kind(self._path, self._first_order, first)
        self._units += count_units(texts, numbers)
        return numbers, rest


def _runs_of_cells(batches: Iterable[Mapping[str, Column]], run_events: int) -> Iterator[Any]:
    """Tables of at least so many rows, and what is left."""
    import pyarrow as pa

    tables: list[Any] = []
    for batch in batches:
        tables.append(pa.table(dict(batch)))
        if sum(map(len, tables)) >= run_events:
            yield pa.concat_tables(tables)
            tables = []
    if any(map(len, tables)):
        yield pa.concat_tables(tables)
