"""User-item interactions (events): who interacted with which item, in which order.

They are kept as arrays of shared strings: ten million events take a few hundred megabytes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.data.columns import (
    HISTORY_COLUMNS,
    ID_COLUMNS,
    ORDER_COLUMNS,
    USER_COLUMNS,
    EventColumns,
    choose_column,
    need_column,
)
from sidtool.data.containers import Column
from sidtool.data.digests import digest_strings
from sidtool.data.tables import column_names, read_columns
from sidtool.data.times import read_order
from sidtool.errors import DataError, UsageError

Order = Literal["column", "row"]
"""What orders events: a column, or the rows of the file."""


@dataclass(frozen=True)
class Interactions:
    """n events, sorted by user (in order of first appearance), then by order, then by file row."""

    users: NDArray[np.object_]
    """(n,) str."""
    items: NDArray[np.object_]
    """(n,) str."""
    order: NDArray[np.float64]
    """(n,): the numbers of the order column, or seconds since 1970 if it holds dates."""
    columns: EventColumns
    digest: str
    """SHA-256 over users, items and order."""
    rows: NDArray[np.int64]
    """(n,): the row of the file, from 0."""
    cells: Mapping[str, list[str]]
    """Further columns that were read: n texts each, without blanks around them; "" for no value."""

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class EventNames:
    """Columns of events as a user names them. Raises UsageError for a column of an order that is
    that of the rows."""

    user: str | None = None
    item: str | None = None
    order: str | None = None
    order_by: Order = "column"
    """"row": the rows of the file are in order."""

    def __post_init__(self) -> None:
        if self.order_by == "row" and self.order is not None:
            raise UsageError("--order row and --order-column contradict each other")

    @property
    def flags(self) -> list[str]:
        """The flags of what is not the default."""
        flags = {
            "--user-column": self.user,
            "--item-column": self.item,
            "--order-column": self.order,
            "--order": None if self.order_by == "column" else self.order_by,
        }
        return [flag for flag, value in flags.items() if value is not None]


def read_interactions(
    path: Path,
    names: EventNames | None = None,
    *,
    recorded: EventColumns | None = None,
    further: Sequence[str] = (),
) -> Interactions:
    """Read events from a file of any type (`containers`), with the cells of `further` columns.

    Columns that are not named are those that a split has `recorded`, if the file has them, or
    guessed from USER_COLUMNS, ID_COLUMNS and ORDER_COLUMNS. Order is a number in all rows, or an
    ISO date in all; ties keep the file's order.

    Raises UsageError for a missing column or a file of windows, DataError for malformed or empty
    cells."""
    available = column_names(path)
    columns = choose_event_columns(path, available, names or EventNames(), recorded)
    read = [columns.user, columns.item, *([columns.order] if columns.order else [])]
    for name in further:
        choose_column(path, available, name, (), "events")
    read += further
    table = read_columns(path, list(dict.fromkeys(read)), ids=[columns.user, columns.item])
    user_codes, users = _coded(path, table[columns.user], "user id")
    item_codes, items = _coded(path, table[columns.item], "item id")
    if not len(user_codes):
        raise DataError(f"{path} holds no events")
    if columns.order is None:
        moments = np.arange(len(user_codes), dtype=np.float64)
        keys: NDArray[Any] = moments
    else:
        keys, moments = read_order(path, table[columns.order])
    rows = np.lexsort((keys, user_codes))  # stable: ties stay in file order
    user_codes = user_codes[rows]
    item_codes = item_codes[rows]
    moments = moments[rows]
    digest = _digest(users, items, user_codes, item_codes, moments)
    cells = {name: _texts(table[name], rows) for name in further}
    ordered = (users[user_codes], items[item_codes], moments)
    return Interactions(*ordered, columns, digest, rows, cells)


def choose_event_columns(
    path: Path, available: Sequence[str], named: EventNames, recorded: EventColumns | None = None
) -> EventColumns:
    """The columns of events among those of a file; errors as in `read_interactions`."""
    command = f"`sidtool split {path} -o SPLIT` names it with"
    if named.user is named.item is None and choose_column(
        path, available, None, HISTORY_COLUMNS, "history"
    ):
        raise UsageError(
            f"{path} holds windows (histories and targets), not events",
            hint=f"sidtool split {path} --protocol given --valid FILE --test FILE -o FOLDER",
        )
    user = need_column(
        path,
        available,
        named.user,
        USER_COLUMNS,
        "user id",
        f"{command} --user-column",
        recorded=recorded.user if recorded else None,
    )
    item = need_column(
        path,
        available,
        named.item,
        ID_COLUMNS,
        "item id",
        f"{command} --item-column",
        recorded=recorded.item if recorded else None,
    )
    rows_ordered = recorded is not None and recorded.order is None and named.order is None
    if named.order_by == "row" or rows_ordered:
        return EventColumns(user, item, None)
    order = need_column(
        path,
        available,
        named.order,
        ORDER_COLUMNS,
        "time or order of an event",
        f"{command} --order-column, or with --order row if the rows are in order",
        recorded=recorded.order if recorded else None,
    )
    return EventColumns(user, item, order)


def _coded(
    path: Path, column: Column, content: str
) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """(n,) codes in order of first appearance, and the string of each code."""
    import pyarrow as pa
    import pyarrow.compute as pc

    coded = pc.fill_null(column, "").combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):  # more text than one array of 32-bit offsets holds
        coded = coded.unify_dictionaries()
        names: list[str] = coded.chunk(0).dictionary.to_pylist() if coded.num_chunks else []
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in coded.chunks]).astype(
            np.int64
        )
    else:
        names, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64)
    if "" in names:
        raise DataError(
            f"{path}, row {int(np.argmax(codes == names.index(''))) + 1}: the {content} is empty"
        )
    return codes, np.array(names, dtype=object)


def _texts(column: Column, rows: NDArray[np.int64]) -> list[str]:
    """The cells of these rows as texts without blanks around them, "" for no value."""
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
    return trimmed.to_numpy(zero_copy_only=False)[rows].tolist()


def _digest(users: Any, items: Any, *columns: NDArray[Any]) -> str:
    state = hashlib.sha256(digest_strings(users, items).encode())
    for column in columns:
        state.update(np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<")).tobytes())
    return state.hexdigest()
