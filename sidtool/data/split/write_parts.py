"""Writes the parts of a split as Parquet files; `read_parts` reads them.

    train.parquet   one row per user: user, items, positions, and where the split has them times,
                    sessions (the indexes at which they start), event_FIELD and user_FIELD
    valid.parquet   the user's events from there to the last validation target, and the positions
    test.parquet    of the targets among them: targets; then the same for test. Under last-session,
                    also history: the number of events before the session

Under `given`, a row is a window: user, history, item, position.

Writers do not write atomically: use them within `output.new_dir`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.fields.fields import FieldType
from sidtool.data.split.logs import PARTS, UserLogs
from sidtool.data.split.packed import PackedExamples, Ragged, ranges
from sidtool.data.split.split import Split

GROUP_EVENTS = 1 << 22
"""Events of a row group, about: each has its own list of distinct ids."""
NUMBERS = ("positions", "sessions", "targets")
"""Columns of numbers that ascend, which are stored as differences."""


def file_name(part: str) -> str:
    """The file of a part."""
    return f"{part}.parquet"


def folder_name(number: int) -> str:
    """The folder of the files of a range of buckets, of a split that has several."""
    return f"part-{number:04d}"


def write_logs(folder: Path, split: Split, logs: UserLogs) -> None:
    """The three files of a split whose events are ordered."""
    lengths = (logs.n_train, logs.n_valid, logs.totals - logs.n_train - logs.n_valid)
    first = np.zeros(len(logs.users), dtype=np.int64)
    for part, n_events, examples in zip(
        PARTS, lengths, (None, split.valid, split.test), strict=True
    ):
        rows = np.flatnonzero(n_events)
        writer = _PartWriter(split, logs, rows, first[rows], n_events[rows], examples)
        writer.write(folder / file_name(part))
        first = first + n_events


@dataclass(frozen=True, eq=False)
class _PartWriter:
    """Writes the n users of one part."""

    split: Split
    logs: UserLogs
    rows: NDArray[np.int64]
    """(n,): which users of the logs"""
    firsts: NDArray[np.int64]
    """(n,): the number of the first event of each in the part"""
    lengths: NDArray[np.int64]
    """(n,): the number of events of each in the part"""
    examples: PackedExamples | None
    """Those of the part, None for training events"""

    @property
    def users(self) -> NDArray[np.integer[Any]]:
        """(n,) codes"""
        return self.logs.users[self.rows]

    def write(self, path: Path) -> None:
        """The rows in groups of GROUP_EVENTS; without rows an empty one, which has the columns."""
        groups = list(ranges(self.lengths, GROUP_EVENTS)) or [(0, 0)]
        write_tables(path, (self._table(slice(first, stop)) for first, stop in groups))

    def _table(self, rows: slice) -> Any:
        import pyarrow as pa

        store = self.split.train.store
        users, lengths = self.users[rows], self.lengths[rows]
        places, positions = self.logs.events(self.rows[rows], self.firsts[rows], lengths)
        columns = {
            "user": pa.array(store.users[users], pa.string()),
            "items": _lists(_coded_texts(store.names, store.items[places]), lengths),
            "positions": _lists(positions, lengths, pa.int32()),
        }
        columns |= self._targets(rows)
        if store.times is not None:
            columns["times"] = _lists(store.times[places], lengths)
        types = store.types
        for name, kind in types.event.items():
            values = store.fields[name]
            columns[f"event_{name}"] = _lists(
                _typed(values.names, values.codes[places], kind), lengths
            )
        for name, kind in types.user.items():
            values = store.user_fields[name]
            columns[f"user_{name}"] = _typed(values.names, values.codes[users], kind)
        return pa.table(columns)

    def _targets(self, rows: slice) -> dict[str, Any]:
        """The columns that say what of the events is a target, or where a session starts."""
        import pyarrow as pa

        if self.examples is None:
            sessions = self.split.train.sessions
            if sessions is None:
                return {}
            starts = sessions.take(np.searchsorted(self.split.train.user_codes, self.users[rows]))
            return {"sessions": _lists(starts.joined, starts.lengths, pa.int32())}
        examples = self.examples
        by_user = np.lexsort((examples.event_positions, examples.event_users))
        of_users = np.searchsorted(examples.event_users[by_user], self.users[rows], side="left")
        ends = np.searchsorted(examples.event_users[by_user], self.users[rows], side="right")
        targets = Ragged(examples.event_positions[by_user], of_users, ends)
        columns = {"targets": _lists(targets.joined, targets.lengths, pa.int32())}
        if self.split.protocol == "last-session":
            order = np.argsort(examples.user_codes)
            places = order[np.searchsorted(examples.user_codes[order], self.users[rows])]
            columns["history"] = pa.array(examples.histories.lengths[places], pa.int32())
        return columns


def write_windows(folder: Path, windows: Sequence[PackedExamples]) -> None:
    """The three files of a split by `given`."""
    for part, examples in zip(PARTS, windows, strict=True):
        write_tables(folder / file_name(part), [_window_table(examples)])


def _window_table(windows: PackedExamples) -> Any:
    import pyarrow as pa

    columns = {
        "user": pa.array(windows.users.tolist(), pa.string()),
        "history": _lists(
            _coded_texts(windows.names, windows.histories.joined), windows.histories.lengths
        ),
        "item": pa.array(windows.names[windows.items], pa.string()),
        "position": pa.array(windows.positions, pa.int32()),
    }
    return pa.table(columns)


def write_tables(path: Path, tables: Iterable[Any]) -> None:
    """Tables of one schema, each as a row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = iter(tables)
    first = next(tables)
    leaves = {
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name: field.name
        for field in first.schema
    }
    numbers = {leaf: "DELTA_BINARY_PACKED" for leaf, name in leaves.items() if name in NUMBERS}
    with pq.ParquetWriter(
        path,
        first.schema,
        compression="zstd",
        store_schema=False,
        dictionary_pagesize_limit=1 << 30,
        use_dictionary=[leaf for leaf in leaves if leaf not in numbers],
        column_encoding=numbers,
    ) as writer:
        for table in chain([first], tables):
            writer.write_table(table, row_group_size=max(table.num_rows, 1))


def _lists(values: Any, lengths: NDArray[np.int64], kind: Any = None) -> Any:
    import pyarrow as pa

    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    if isinstance(values, np.ndarray):
        values = pa.array(values, kind)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _coded_texts(names: NDArray[np.object_], codes: NDArray[Any]) -> Any:
    """(n,) dictionary array of those names that occur, in the order of `names`."""
    import pyarrow as pa

    is_used = np.zeros(len(names), dtype=np.bool_)
    is_used[codes] = True
    ranks = np.cumsum(is_used, dtype=np.int32) - 1
    dictionary = pa.array(names[is_used], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(ranks[codes]), dictionary)


ARROW_TYPES: Mapping[FieldType, str] = {"str": "string", "int": "int64", "float": "float64"}


def _typed(names: NDArray[np.object_], codes: NDArray[Any], kind: FieldType) -> Any:
    """(n,) arrow array of coded values of a field."""
    import pyarrow as pa

    return pa.array(names.tolist(), pa.type_for_alias(ARROW_TYPES[kind])).take(pa.array(codes))
