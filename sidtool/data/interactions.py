"""User-item interactions (events): who interacted with which item, in which order.

The table is read in runs of two million events, and several of them are coded together once there
are more ids. A coded event takes 24 bytes: 4 for each id, 8 for its order and 8 for its row."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.base.errors import DataError
from sidtool.base.ranges import run_starts
from sidtool.base.threads import in_threads, read_ahead
from sidtool.data.coded import ArrowCodes, Coded, Column, Texts
from sidtool.data.columns import EventColumns, EventNames, Header
from sidtool.data.event_sort import ORDER, REST, USER, Spill, sort_events
from sidtool.data.tables.tables import column_batches, column_names
from sidtool.data.times import (
    LEAVE_OUT,
    NUMBER,
    check_one_unit,
    check_same_kind,
    common_unit,
    count_units,
    iso_times,
    read_order,
    trimmed,
)

RUN_EVENTS = 1 << 21
"""The most events of a run."""
CODED_EVENTS = 1 << 24
"""The most events that are coded at once."""
DIGEST_VALUES = 1 << 20
"""Values of an array that are hashed or compared at once."""
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
    has_dates: bool = False
    """Whether the order column holds dates."""

    @property
    def unit(self) -> float | None:
        """The unit of the order, as `common_unit`."""
        return common_unit(self.order, are_dates=self.has_dates)

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(users,): the index of each user's first event."""
        return np.flatnonzero(run_starts(self.users.codes))

    @cached_property
    def stops(self) -> NDArray[np.int64]:
        """(users,): one more than the index of each user's last event."""
        return np.append(self.starts[1:], len(self))

    @property
    def n_repeated(self) -> int:
        """Events with the user, item and order of the event before them."""
        columns = (self.users.codes, self.items.codes, self.order)
        count = 0
        for start in range(0, len(self), DIGEST_VALUES):
            # and the first event of the next block, which may repeat the last one of this
            blocks = [column[start : start + DIGEST_VALUES + 1] for column in columns]
            count += int(np.all([block[1:] == block[:-1] for block in blocks], axis=0).sum())
        return count


def read_interactions(
    path: Path,
    names: EventNames | None = None,
    *,
    recorded: EventColumns | None = None,
    further: Sequence[str] = (),
    spill: Spill | None = None,
    threads: int = 1,
) -> Interactions:
    """Read events from a file of any type (`CONTAINERS`), with the cells of `further` columns.

    Columns that are not named are those that a split has `recorded`, if the file has them, or
    guessed (`GUESSES`). Order is a number in all rows, or an
    ISO date in all; ties keep the file's order. With `spill` the same arrays are made within a
    memory budget, and lie in files. They are the same for any number of threads.

    Raises UsageError for a missing column or a file of windows, DataError for malformed or empty
    cells."""
    header = Header(path, column_names(path))
    columns = header.events(names or EventNames(), recorded, has_options=names is not None)
    for name in further:
        header.check(name, "events")
    coder = EventCoder(threads)
    most_events = CODED_EVENTS if spill is None else min(CODED_EVENTS, spill.coded_events)
    arrays = sort_events(_runs(path, columns, further, coder, most_events), spill, threads)
    users = Coded[str](coder.texts(USER), arrays[USER])
    items = Coded[str](coder.texts(ITEM), arrays[ITEM])
    order = arrays[ORDER]
    cells = {
        name: Coded[str](coder.texts(_cell(name)).objects, arrays[_cell(name)]) for name in further
    }
    digest = _digest(users, items, order)
    return Interactions(users, items, order, columns, digest, arrays[ROW], cells, coder.has_dates)


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


def _runs(
    path: Path, columns: EventColumns, further: Sequence[str], coder: "EventCoder", most_events: int
) -> Iterator[Any]:
    """The runs of a table, which has events, and times of one unit."""
    names = {USER: columns.user, ITEM: columns.item, **{_cell(name): name for name in further}}
    if columns.order is not None:
        names[ORDER] = columns.order
    batches = event_batches(path, names, columns.time_format)
    is_empty = True
    for run in coder.runs(path, batches, most_events):
        is_empty = False
        yield run
    if is_empty:
        raise DataError(f"{path} holds no events")
    check_one_unit(path, coder.units)


def event_batches(
    path: Path, columns: Mapping[str, str], time_format: str | None = None
) -> Iterator[dict[str, Column]]:
    """The cells of events, some rows at a time; `columns` are the names that the file has for
    `user`, `item`, `order` and others. Dates of a format become ISO dates."""
    names = list(columns.values())
    for cells in column_batches(path, names, ids=[columns[USER], columns[ITEM]]):
        batch = {content: cells[name] for content, name in columns.items()}
        if time_format is not None:
            batch[ORDER] = iso_times(batch[ORDER], time_format)
        yield batch


class _Run(NamedTuple):
    """Consecutive events of a file, whose texts are not coded yet."""

    rows: NDArray[np.int64]
    columns: dict[str, Any]
    """Arrays of texts"""
    numbers: dict[str, NDArray[np.float64]]
    """ORDER, and REST: the digits that it leaves out; none if the events are in order"""
    first_order: tuple[int, str] | None
    """The first row, and the order that it has"""
    units: Counter[float]
    """How many times are in which unit"""

    @classmethod
    def read(cls, path: Path, cells: Any, row: int) -> "_Run":
        """Check the cells of events, the first of which is in a row. Raises DataError for a
        malformed or empty one."""
        columns, numbers = {}, {}
        first_order, units = None, Counter[float]()
        for name in cells.column_names:
            if name == ORDER:
                texts = trimmed(cells[name])
                numbers[ORDER], numbers[REST] = read_order(path, texts, row)
                first_order = (row, texts[0].as_py())
                units = count_units(texts, numbers[ORDER])
                continue
            is_id = name in (USER, ITEM)
            column = _filled_ids(path, name, cells[name], row) if is_id else trimmed(cells[name])
            columns[name] = column.combine_chunks()
        rows = np.arange(row, row + len(cells))
        return cls(rows, columns, numbers, first_order, units)

    def batch(self, codes: Mapping[str, NDArray[np.int32]]) -> Any:
        """The record batch of the events, with these codes of their columns."""
        import pyarrow as pa

        by_row = {ORDER: self.rows.astype(np.float64), REST: np.zeros(len(self.rows))}
        numbers = self.numbers or by_row
        return pa.record_batch({ROW: self.rows, **numbers, **codes})


class EventCoder:
    """Codes events run by run, with the same codes for all of them."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._codes: defaultdict[str, ArrowCodes] = defaultdict(ArrowCodes)
        self.units: Counter[float] = Counter()
        """How many times are in which unit."""
        self.first_order: tuple[int, str] | None = None
        """A row, and what it has."""

    def runs(
        self, path: Path, batches: Iterable[Mapping[str, Column]], most_events: int = CODED_EVENTS
    ) -> Iterator[Any]:
        """Record batches of the events of a file, in its order: of the columns `user`, `item`,
        `order` (if there is none, events are in order) and further ones, which are coded, about
        `most_events` at once. Raises DataError for a malformed or empty cell."""
        # threads hold as many events in runs ahead as wait to be coded
        run_events = min(RUN_EVENTS, most_events // (self._threads + 2))
        tables = read_ahead(runs_of_cells(batches, run_events), self._threads)
        runs = in_threads(lambda table: _Run.read(path, *table), tables, self._threads)
        waiting: list[_Run] = []
        for run in runs:
            self._note(path, run)
            waiting.append(run)
            n_values = max(len(self._codes[name].values) for name in run.columns)
            if sum(len(run.rows) for run in waiting) >= min(n_values, most_events):
                yield from self._coded(waiting)
                waiting = []
        yield from self._coded(waiting)

    def _coded(self, runs: Sequence[_Run]) -> Iterator[Any]:
        names = list(runs[0].columns) if runs else []

        def codes(name: str) -> list[NDArray[np.int32]]:
            return self._codes[name].add([run.columns[name] for run in runs])

        columns = dict(zip(names, in_threads(codes, names, self._threads), strict=True))
        for number, run in enumerate(runs):
            yield run.batch({name: arrays[number] for name, arrays in columns.items()})

    def check(self, path: Path, cells: Any, row: int) -> None:
        """Read a table of events, the first of which is in a row, without coding them. Raises
        DataError for a malformed or empty cell, or an order of another kind than earlier ones."""
        self._note(path, _Run.read(path, cells, row))

    def _note(self, path: Path, run: _Run) -> None:
        if run.first_order is not None:
            self.first_order = self.first_order or run.first_order
            check_same_kind(path, self.first_order, run.first_order)
            self.units += run.units

    @property
    def has_dates(self) -> bool:
        """Whether the order of the events is in dates."""
        return self.first_order is not None and not NUMBER.fullmatch(self.first_order[1])

    def texts(self, name: str) -> Texts:
        """What the codes of a column mean, as far as events were coded."""
        return Texts(self._codes[name].values)


def _filled_ids(path: Path, content: str, column: Column, first: int) -> Column:
    """A column of ids, whose first row is `first`. Raises DataError for an empty one, with its
    row."""
    import pyarrow.compute as pc

    column = pc.fill_null(column, "")
    empty = pc.index(column, "").as_py()
    if empty >= 0:
        message = f"{path}, row {first + empty + 1}: the {content} id is empty"
        raise DataError(message, hint=LEAVE_OUT)
    return column


def runs_of_cells(
    batches: Iterable[Mapping[str, Column]], run_events: int
) -> Iterator[tuple[Any, int]]:
    """The batches, joined to pyarrow tables of at least `run_events` rows, each with the number of
    rows before it; the last one may have fewer."""
    import pyarrow as pa

    tables: list[Any] = []
    n_before = n_rows = 0
    for batch in batches:
        tables.append(pa.table(dict(batch)))
        n_rows += len(tables[-1])
        if n_rows - n_before >= run_events:
            yield pa.concat_tables(tables), n_before
            tables, n_before = [], n_rows
    if n_rows > n_before:
        yield pa.concat_tables(tables), n_before
