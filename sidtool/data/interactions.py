"""User-item interactions (events): who interacted with which item, in which order.

They are kept as arrays of shared strings: ten million events take a few hundred megabytes."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.containers import Column
from sidtool.data.digests import digest_strings
from sidtool.data.items import ID_COLUMNS
from sidtool.data.tables import (
    choose_column,
    column_names,
    need_column,
    read_columns,
)
from sidtool.data.times import read_order
from sidtool.errors import DataError, SidtoolWarning, UsageError
from sidtool.json_record import JsonRecord

USER_COLUMNS = ("user_id", "reviewer_id", "customer_id", "session_id", "uid", "user")
"""Conventional names of a user column, the most specific first (compared without case, `_`, `-` and
blanks)."""
ORDER_COLUMNS = (
    "timestamp",
    "unix_review_time",
    "sort_timestamp",
    "time",
    "ts",
    "datetime",
    "date",
    "created_at",
    "order",
    "position",
)
"""Conventional names of a timestamp or order column."""
HISTORY_COLUMNS = (
    "history_item_id",
    "item_id_list",
    "history_item_ids",
    "history_ids",
    "history_items",
    "history",
)
"""Conventional names of the history column of a windowed file."""


@dataclass(frozen=True)
class EventColumns(JsonRecord):
    """The columns that events were read from."""

    user: str
    item: str
    order: str | None
    """None if the file has no such column and the order of its rows was taken."""


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

    def __len__(self) -> int:
        return len(self.users)


def read_interactions(
    path: Path,
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    order_column: str | None = None,
) -> Interactions:
    """Read events from a file of any type (`containers`).

    Columns that are not named are guessed from USER_COLUMNS, the item columns and ORDER_COLUMNS.
    Order is a number in all rows, or an ISO date in all; ties keep the file's order. A file without
    an order column keeps its order, with a SidtoolWarning.

    Raises UsageError for a missing column or a file of windows, DataError for malformed or empty
    cells."""
    available = column_names(path)
    if user_column is item_column is None and choose_column(
        path, available, None, HISTORY_COLUMNS, "history"
    ):
        raise UsageError(
            f"{path} holds windows (histories and targets), not events",
            hint=f"sidtool split {path} --protocol given --valid FILE --test FILE -o FOLDER",
        )
    user = need_column(path, available, user_column, USER_COLUMNS, "user id", "split --user-column")
    item = need_column(path, available, item_column, ID_COLUMNS, "item id", "split --item-column")
    order_name = choose_column(
        path, available, order_column, ORDER_COLUMNS, "order", "split --order-column"
    )
    names = [user, item, *([order_name] if order_name else [])]
    table = read_columns(path, names, ids=[user, item])
    user_codes, users = _coded(path, table[user], "user id")
    item_codes, items = _coded(path, table[item], "item id")
    if not len(user_codes):
        raise DataError(f"{path} holds no events")
    if order_name is None:
        message = f"{path} has no timestamp or order column: events keep the order of the file"
        warnings.warn(message, SidtoolWarning, stacklevel=2)
        order = np.arange(len(user_codes), dtype=np.float64)
        keys: NDArray[Any] = order
    else:
        keys, order = read_order(path, table[order_name])
    rows = np.lexsort((keys, user_codes))  # stable: ties stay in file order
    user_codes = user_codes[rows]
    item_codes = item_codes[rows]
    order = order[rows]
    digest = _digest(users, items, user_codes, item_codes, order)
    columns = EventColumns(user, item, order_name)
    return Interactions(users[user_codes], items[item_codes], order, columns, digest)


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


def _digest(users: Any, items: Any, *columns: NDArray[Any]) -> str:
    state = hashlib.sha256(digest_strings(users, items).encode())
    for column in columns:
        state.update(np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<")).tobytes())
    return state.hexdigest()
