"""Events of which more than fit into memory: an external sort by user.

The table is read in batches and coded. Consecutive users form a partition that fits the budget;
the partitions are sorted one after the other and appended to files, which are mapped. The result is
that of `events_in_memory`, value for value."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.base.output import folder_beside
from sidtool.data.coded import object_array
from sidtool.data.columns import EventColumns
from sidtool.data.event_arrays import (
    CodedColumn,
    EventArrays,
    code_cells,
    code_ids,
    event_column_names,
    trimmed,
)
from sidtool.data.tables.tables import column_batches
from sidtool.data.times import (
    FLOAT_DIGITS,
    check_one_unit,
    check_same_kind,
    count_units,
    read_order,
)

SORTED_EVENT = 160
"""Bytes at the peak for each event of a partition; benchmarks/events_scale.py measures it."""
LONG_ORDER = 400
"""The same where the order has more than 15 digits: dates, nanoseconds."""
PARTITIONS = 512
"""The most partitions: each has an open file."""
USER = "user"
ITEM = "item"
ROW = "row"
ORDER = "order"


@dataclass(frozen=True)
class Spill:
    """How much memory events may take, and where they are put."""

    folder: Path
    """An existing folder of its own; it gets about 60 bytes per event and partition files."""
    budget: int
    """Bytes for a partition of users. The ids of users and items come on top, about 200 bytes each,
    and about 150 MiB for a batch of the table."""

    def subfolder(self, name: str) -> Path:
        """A new folder in the folder."""
        path = self.folder / name
        path.mkdir()
        return path


@contextmanager
def spill_beside(out: Path, budget: int) -> Iterator[Spill]:
    """A folder beside an output, which is removed afterwards. Raises DataError if it cannot be
    made."""
    with folder_beside(out) as folder:
        yield Spill(folder, budget)


def spilled_events(
    path: Path, columns: EventColumns, further: Sequence[str], spill: Spill
) -> EventArrays:
    """The events of a table as arrays in files of the spill's folder.

    Raises DataError as `events_in_memory` does and if the disk is full, UsageError if the budget is
    too small for the events of one user or for 512 partitions."""
    try:
        table = _CodedTable(path, columns, further, spill.folder / "events.arrow")
        table.write()
        entries = spill.budget // (LONG_ORDER if table.has_long_order else SORTED_EVENT)
        ranges = _user_ranges(table.user_events, entries, spill.budget)
        parts = _distribute(table, ranges, spill.folder)
        return _sort_parts(table, parts, spill.folder)
    except OSError as error:
        raise DataError(f"{spill.folder} cannot be written: {error.strerror or error}") from error


@dataclass
class _CodedTable:
    """The events of a table in its own order, coded, in an Arrow file."""

    path: Path
    columns: EventColumns
    further: Sequence[str]
    file: Path
    users: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    texts: dict[str, dict[str, int]] = field(default_factory=dict)
    user_events: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    first_order: tuple[int, str] | None = None
    units: Counter[float] = field(default_factory=Counter)
    has_long_order: bool = False
    rows: int = 0

    @property
    def schema(self) -> Any:
        """The columns of the Arrow file."""
        import pyarrow as pa

        fields = [(USER, pa.int32()), (ITEM, pa.int32()), (ROW, pa.int64())]
        if self.columns.order is not None:
            fields.append((ORDER, pa.string()))
        fields += [(f"cell {name}", pa.int32()) for name in self.further]
        return pa.schema(fields)

    def write(self) -> None:
        """Code every batch. Raises DataError for a malformed or empty cell, or without events."""
        import pyarrow as pa

        names = event_column_names(self.columns, self.further)
        ids = [self.columns.user, self.columns.item]
        self.texts = {name: {} for name in self.further}
        with pa.OSFile(str(self.file), "wb") as sink, pa.ipc.new_file(sink, self.schema) as writer:
            for batch in column_batches(self.path, names, ids=ids):
                writer.write_table(self._coded(batch))
        if not self.rows:
            raise DataError(f"{self.path} holds no events")
        check_one_unit(self.path, self.units)

    def _coded(self, batch: Mapping[str, Any]) -> Any:
        import pyarrow as pa

        users = self._ids(batch, self.columns.user, "user id", self.users)
        columns = {
            USER: users,
            ITEM: self._ids(batch, self.columns.item, "item id", self.items),
            ROW: np.arange(self.rows, self.rows + len(users)),
        }
        if self.columns.order is not None:
            columns[ORDER] = self._order(batch[self.columns.order])
        for name in self.further:
            distinct, codes = code_cells(trimmed(batch[name]))
            columns[f"cell {name}"] = _recoded(distinct, codes, self.texts[name])
        counts = np.bincount(users, minlength=len(self.users))
        counts[: len(self.user_events)] += self.user_events
        self.user_events = counts
        self.rows += len(users)
        return pa.table(columns, schema=self.schema)

    def _order(self, column: Any) -> Any:
        """The texts of an order, checked: what is malformed is found before the sort."""
        import pyarrow.compute as pc

        texts = trimmed(column)
        _, numbers = read_order(self.path, texts, self.rows)
        self.units += count_units(texts, numbers)
        self.has_long_order |= (pc.max(pc.binary_length(texts)).as_py() or 0) > FLOAT_DIGITS
        if len(texts):
            first = (self.rows, texts[0].as_py())
            self.first_order = self.first_order or first
            check_same_kind(self.path, self.first_order, first)
        return texts

    def _ids(
        self, batch: Mapping[str, Any], name: str, content: str, code_of: dict[str, int]
    ) -> NDArray[np.int32]:
        distinct, codes = code_ids(self.path, batch[name], content, self.rows)
        return _recoded(distinct, codes, code_of)


def _recoded(
    distinct: Sequence[str], codes: NDArray[np.int32], code_of: dict[str, int]
) -> NDArray[np.int32]:
    """(n,) codes of a batch as codes of the whole table, to which new texts are added."""
    table_codes = [code_of.setdefault(text, len(code_of)) for text in distinct]
    return np.array(table_codes, dtype=np.int32)[codes]


def _user_ranges(user_events: NDArray[np.int64], entries: int, budget: int) -> NDArray[np.int64]:
    """(partitions + 1,) codes of users: partition i has those from the i-th on, and at most
    `entries` events. Raises UsageError if there cannot be."""
    largest = int(user_events.max())
    needed = max(largest, -(-int(user_events.sum()) // (PARTITIONS // 2)))
    if needed > entries:
        per_event = budget // max(1, entries)
        raise UsageError(
            f"{user_events.sum()} events do not fit a budget of {budget} bytes: a user has "
            f"{largest} of them",
            hint=f"--memory of at least {needed * per_event} bytes",
        )
    starts = [0]
    ends = np.cumsum(user_events)
    while starts[-1] < len(ends):
        before = int(ends[starts[-1] - 1]) if starts[-1] else 0
        starts.append(int(np.searchsorted(ends, before + entries, side="right")))
    return np.array(starts, dtype=np.int64)


def _distribute(table: _CodedTable, ranges: NDArray[np.int64], folder: Path) -> list[Path]:
    """One Arrow file per partition, with its events in the order of the table."""
    import pyarrow as pa

    parts = [folder / f"part-{number}.arrow" for number in range(len(ranges) - 1)]
    if len(parts) == 1:
        return [table.file]
    with ExitStack() as stack:
        writers = []
        for part in parts:
            sink = stack.enter_context(pa.OSFile(str(part), "wb"))
            writers.append(stack.enter_context(pa.ipc.new_file(sink, table.schema)))
        source = stack.enter_context(pa.memory_map(str(table.file)))
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            part_of = np.searchsorted(ranges, batch.column(USER).to_numpy(), side="right") - 1
            rows = np.argsort(part_of, kind="stable")
            bounds = np.searchsorted(part_of[rows], np.arange(len(parts) + 1))
            for part_number in np.flatnonzero(np.diff(bounds)).tolist():
                chosen = rows[bounds[part_number] : bounds[part_number + 1]]
                writers[part_number].write_batch(batch.take(pa.array(chosen)))
    table.file.unlink()
    return parts


def _sort_parts(table: _CodedTable, parts: Sequence[Path], folder: Path) -> EventArrays:
    """The sorted partitions, one after the other, as mapped arrays."""
    dtypes: dict[str, Any] = {USER: np.int32, ITEM: np.int32, ORDER: np.float64, ROW: np.int64}
    dtypes |= {f"cell {name}": np.int32 for name in table.further}
    files = {name: folder / f"sorted-{number}" for number, name in enumerate(dtypes)}
    with ExitStack() as stack:
        streams = {name: stack.enter_context(file.open("wb")) for name, file in files.items()}
        for part in parts:
            for name, values in _sorted_part(table, part).items():
                streams[name].write(np.ascontiguousarray(values, dtype=dtypes[name]).data)
            part.unlink()
    arrays = {name: np.memmap(files[name], dtype, mode="r") for name, dtype in dtypes.items()}
    cells: dict[str, CodedColumn] = {
        name: (object_array(table.texts[name]), arrays[f"cell {name}"]) for name in table.further
    }
    return EventArrays(
        object_array(table.users),
        object_array(table.items),
        arrays[USER],
        arrays[ITEM],
        arrays[ORDER],
        arrays[ROW],
        cells,
    )


def _sorted_part(table: _CodedTable, part: Path) -> dict[str, NDArray[Any]]:
    import pyarrow as pa

    with pa.memory_map(str(part)) as source:
        events = pa.ipc.open_file(source).read_all()
        columns = {name: events[name].to_numpy() for name in events.column_names if name != ORDER}
        if table.columns.order is None:
            columns[ORDER] = columns[ROW].astype(np.float64)
            keys = columns[ORDER]
        else:
            keys, columns[ORDER] = read_order(table.path, events[ORDER])
        rows = np.lexsort((keys, columns[USER]))  # stable: ties stay in file order
        return {name: values[rows] for name, values in columns.items()}
