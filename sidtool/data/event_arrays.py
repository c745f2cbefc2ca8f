"""The columns of a table of events as arrays of codes, sorted by user, order and row."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.base.errors import DataError
from sidtool.data.coded import object_array
from sidtool.data.columns import EventColumns
from sidtool.data.tables.containers import Column
from sidtool.data.tables.tables import read_columns
from sidtool.data.times import check_one_unit, count_units, read_order

CodedColumn = tuple[NDArray[np.object_], NDArray[np.int32]]
"""(distinct,) texts, and the (n,) codes of n cells."""
DIGEST_VALUES = 1 << 20
"""Values of an array that are hashed at once."""


@dataclass(frozen=True)
class EventArrays:
    """n events, sorted by user in order of first appearance, then by order, then by row."""

    users: NDArray[np.object_]
    """(users,) ids in order of first appearance"""
    items: NDArray[np.object_]
    """(items,) ids in order of first appearance"""
    user_codes: NDArray[np.int32]
    item_codes: NDArray[np.int32]
    order: NDArray[np.float64]
    rows: NDArray[np.int64]
    cells: Mapping[str, CodedColumn]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over users, items and order."""
        state = hashlib.sha256(digest_strings(self.users, self.items).encode())
        for column, dtype in (
            (self.user_codes, "<i8"),
            (self.item_codes, "<i8"),
            (self.order, "<f8"),
        ):
            for start in range(0, len(column), DIGEST_VALUES):
                state.update(column[start : start + DIGEST_VALUES].astype(dtype).tobytes())
        return state.hexdigest()


def events_in_memory(path: Path, columns: EventColumns, further: Sequence[str]) -> EventArrays:
    """The events of a table, which is read whole. Raises DataError for malformed or empty cells."""
    names = event_column_names(columns, further)
    table = read_columns(path, names, ids=[columns.user, columns.item])
    users, user_codes = code_ids(path, table[columns.user], "user id")
    items, item_codes = code_ids(path, table[columns.item], "item id")
    if not len(user_codes):
        raise DataError(f"{path} holds no events")
    if columns.order is None:
        moments = np.arange(len(user_codes), dtype=np.float64)
        keys: NDArray[Any] = moments
    else:
        keys, moments = read_order(path, table[columns.order])
        check_one_unit(path, count_units(table[columns.order], moments))
    rows = np.lexsort((keys, user_codes))  # stable: ties stay in file order
    cells = {}
    for name in further:
        texts, codes = code_cells(trimmed(table[name]))
        cells[name] = (object_array(texts), codes[rows])
    return EventArrays(
        object_array(users),
        object_array(items),
        user_codes[rows],
        item_codes[rows],
        moments[rows],
        rows,
        cells,
    )


def event_column_names(columns: EventColumns, further: Sequence[str]) -> list[str]:
    """The columns to read, each once."""
    names = (columns.user, columns.item, columns.order, *further)
    return list(dict.fromkeys(name for name in names if name is not None))


def code_ids(
    path: Path, column: Column, content: str, first_row: int = 0
) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct ids of a column by first appearance, and (n,) codes. Raises DataError for an
    empty one, with its row; `first_row` is that of the column's first cell, from 0."""
    import pyarrow.compute as pc

    names, codes = code_cells(pc.fill_null(column, ""))
    if "" in names:
        row = first_row + int(np.argmax(codes == names.index(""))) + 1
        raise DataError(f"{path}, row {row}: the {content} is empty")
    return names, codes


def code_cells(column: Column) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct texts of a column without nulls by first appearance, and (n,) codes."""
    import pyarrow as pa

    coded = column.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):  # more text than one array of 32-bit offsets holds
        coded = coded.unify_dictionaries()
        names: list[str] = coded.chunk(0).dictionary.to_pylist() if coded.num_chunks else []
        parts: Iterable[Any] = [chunk.indices.to_numpy() for chunk in coded.chunks]
        return names, np.concatenate([np.zeros(0, dtype=np.int32), *parts]).astype(np.int32)
    return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int32)


def trimmed(column: Column) -> Column:
    """The cells of a column without blanks around them, "" for no value."""
    import pyarrow.compute as pc

    return pc.utf8_trim_whitespace(pc.fill_null(column, ""))
