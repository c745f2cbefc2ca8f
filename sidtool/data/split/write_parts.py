"""Writes the parts of a split as Parquet files; `read_parts` reads them.

    train.parquet   one row per user: user, items, positions, and where the split has them times,
                    sessions (the indexes at which they start), event_FIELD and user_FIELD
    valid.parquet   the user's events from there to the last validation target, and the positions
    test.parquet    of the targets among them: targets; then the same for test. Under last-session,
                    also history: the number of events before the session

Under `given`, a row is a window: user, history, item, position.

Writers do not write atomically: use them within `output.new_dir`."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.ranges import ranges
from sidtool.base.threads import run_in_threads
from sidtool.data.coded import Coded, Texts
from sidtool.data.fields.fields import FieldType, Value
from sidtool.data.split.logs import PARTS, UserLogs, by_user
from sidtool.data.split.packed import PackedExamples, Ragged
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


def write_logs(folder: Path, split: Split, logs: UserLogs, threads: int = 1) -> None:
    """Write the three files of a split whose events are ordered."""

    def write(part: int) -> None:
        firsts, lengths = logs.events_of(part)  # (k,) each, for all users of the logs
        users = np.flatnonzero(lengths)
        part_columns = _part_columns(split, part)
        # a file without users has a group without rows, which names the columns
        groups = list(ranges(lengths[users], GROUP_EVENTS)) or [(0, 0)]
        tables = (
            _table(logs, users[start:stop], firsts, lengths, part_columns) for start, stop in groups
        )
        write_tables(folder / file_name(PARTS[part]), tables, distinct=("user",))

    run_in_threads([partial(write, part) for part in range(len(PARTS))], threads)


def _table(
    logs: UserLogs,
    users: NDArray[np.int64],
    firsts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    part_columns: Mapping[str, Ragged | NDArray[np.int32]],
) -> Any:
    """The rows of some users, who have (k,) events from the (k,) first numbers on, for each of the
    k users of the logs; `part_columns` are those that the part alone has, by user, too."""
    import pyarrow as pa

    store, counts = logs.store, lengths[users]
    places, positions = logs.events(users, firsts[users], counts)
    columns = {
        "user": store.users.arrow.take(pa.array(users)),
        "items": _lists(_coded_texts(store.names, store.items[places]), counts),
        "positions": _lists(positions, counts, pa.int32()),
    }
    for name, column in part_columns.items():
        if isinstance(column, Ragged):
            lists = column.take(users)
            columns[name] = _lists(lists.joined, lists.lengths, pa.int32())
        else:
            columns[name] = pa.array(column[users])
    if store.times is not None:
        columns["times"] = _lists(store.times[places], counts)
    for name, kind in store.types.event.items():
        values = store.fields[name]
        columns[f"event_{name}"] = _lists(_typed(values, values.codes[places], kind), counts)
    for name, kind in store.types.user.items():
        values = store.user_fields[name]
        columns[f"user_{name}"] = _typed(values, values.codes[users], kind)
    return pa.table(columns)


def _part_columns(split: Split, part: int) -> dict[str, Ragged | NDArray[np.int32]]:
    """The columns that a part alone has, by user code: where sessions start, or what of the events
    is a target, and under last-session the length of the history."""
    train, n_users = split.train, len(split.train.store.users)
    if part == 0:
        if train.sessions is None:
            return {}
        starts, stops = np.zeros((2, n_users), dtype=np.int64)  # none of users without a row
        starts[train.user_codes] = train.sessions.starts
        stops[train.user_codes] = train.sessions.stops
        return {"sessions": Ragged(train.sessions.values, starts, stops)}
    examples = split.valid if part == 1 else split.test
    positions, target_users = examples.event_positions, examples.event_users
    counts = np.bincount(target_users, minlength=n_users)
    in_order = positions[by_user(target_users, positions)]
    columns: dict[str, Ragged | NDArray[np.int32]] = {
        "targets": Ragged.of_lengths(in_order, counts)
    }
    if split.protocol == "last-session":
        history = np.zeros(n_users, dtype=np.int32)
        history[examples.user_codes] = examples.histories.lengths
        columns["history"] = history
    return columns


def write_windows(folder: Path, windows: Sequence[PackedExamples]) -> None:
    """The three files of a split by `given`."""
    import pyarrow as pa

    for part, examples in zip(PARTS, windows, strict=True):
        names, histories = examples.names, examples.histories
        columns = {
            "user": examples.store.users.arrow.take(pa.array(examples.user_codes)),
            "history": _lists(_coded_texts(names, histories.joined), histories.lengths),
            "item": names.arrow.take(pa.array(examples.items)),
            "position": pa.array(examples.positions, pa.int32()),
        }
        write_tables(folder / file_name(part), [pa.table(columns)])


def write_tables(path: Path, tables: Iterable[Any], distinct: Sequence[str] = ()) -> None:
    """Tables of one schema, each as a row group. The texts of `distinct` columns do not repeat."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = map(_without_nulls, tables)
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
        write_statistics=False,  # users are in no order by which a reader could skip some
        dictionary_pagesize_limit=1 << 30,
        use_dictionary=[leaf for leaf in leaves if leaf not in (*numbers, *distinct)],
        column_encoding=numbers,
    ) as writer:
        for table in chain([first], tables):
            writer.write_table(table, row_group_size=max(table.num_rows, 1))


def _without_nulls(table: Any) -> Any:
    """The table by a schema in which fields alone may lack a value: others are read faster so."""
    import pyarrow as pa

    fields = []
    for field in table.schema:
        kind, is_field = field.type, field.name.startswith(("event_", "user_"))
        if pa.types.is_list(kind) and not is_field:
            kind = pa.list_(pa.field("element", kind.value_type, nullable=False))
        fields.append(pa.field(field.name, kind, nullable=is_field))
    return table.cast(pa.schema(fields))


def _lists(values: Any, lengths: NDArray[np.int64], kind: Any = None) -> Any:
    import pyarrow as pa

    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    if isinstance(values, np.ndarray):
        values = pa.array(values, kind)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _coded_texts(names: Texts, codes: NDArray[Any]) -> Any:
    """(n,) dictionary array of those names that occur, in the order of `names`."""
    import pyarrow as pa

    is_used = np.zeros(len(names), dtype=np.bool_)
    is_used[codes] = True
    ranks = np.cumsum(is_used, dtype=np.int32) - 1
    dictionary = names.arrow.filter(pa.array(is_used))
    return pa.DictionaryArray.from_arrays(pa.array(ranks[codes]), dictionary)


ARROW_TYPES: Mapping[FieldType, str] = {"str": "string", "int": "int64", "float": "float64"}


def _typed(values: Coded[Value | None], codes: NDArray[Any], kind: FieldType) -> Any:
    """(n,) arrow array of some values of a field, by their codes."""
    import pyarrow as pa

    return pa.array(values.names.tolist(), pa.type_for_alias(ARROW_TYPES[kind])).take(
        pa.array(codes)
    )
