"""Events of raw data sets as arrays: 20 bytes per event, and each id once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data.coded import TextCodes
from sidtool.data.tables.containers import Column, read_errors
from sidtool.data.tables.delimited import delimited_batches
from sidtool.data.tables.tables import column_batches, column_names
from sidtool.data.times import trimmed

BATCH = 1 << 16
"""Rows of Python values that a reader passes on at once."""
Cells = Mapping[str, Column]
"""Some rows of a file, as they stand there: the columns `user`, `item`, `time` and, if the file has
ratings, `rating`."""


@dataclass(frozen=True)
class RawEvents:
    """n events in file order."""

    users: Sequence[str]
    """Ids of users by code, in order of first appearance."""
    items: Sequence[str]
    """Ids of items by code, in order of first appearance."""
    user_codes: NDArray[np.int32]
    """(n,)"""
    item_codes: NDArray[np.int32]
    """(n,)"""
    times: NDArray[np.float64]
    """(n,) in the unit of the file."""
    ratings: NDArray[np.float32] | None
    """(n,), NaN where there is none; None if the file has no ratings."""

    def __len__(self) -> int:
        return len(self.user_codes)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "RawEvents":
        """Some of the events; the lists of ids stay as they are."""
        return RawEvents(
            self.users,
            self.items,
            self.user_codes[rows],
            self.item_codes[rows],
            self.times[rows],
            None if self.ratings is None else self.ratings[rows],
        )


def table_batches(path: Path, columns: Mapping[str, str]) -> Iterator[Cells]:
    """The events of a table of any type; `columns` are the names that the file has for those of
    Cells. Raises DataError for a missing column or a malformed row."""
    available = column_names(path)
    missing = [name for name in columns.values() if name not in available]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}: {', '.join(available)}")
    ids = [columns["user"], columns["item"]]
    for cells in column_batches(path, list(columns.values()), ids=ids):
        yield {content: cells[name] for content, name in columns.items()}


def headless_batches(path: Path, kind: str, available: Sequence[str]) -> Iterator[Cells]:
    """The events of a delimited file of this kind that does not name its columns."""
    with read_errors(path):
        yield from delimited_batches(path, available, (), kind=kind, available=available)


def row_batches(rows: Iterator[tuple[str, str, str, str]]) -> Iterator[Cells]:
    """Rows of user, item, time and rating."""
    import pyarrow as pa

    while block := list(islice(rows, BATCH)):
        columns = [pa.chunked_array([cells]) for cells in zip(*block, strict=True)]
        yield dict(zip(("user", "item", "time", "rating"), columns, strict=True))


def collect(files: Iterable[tuple[Path, Iterable[Cells]]]) -> RawEvents:
    """All events of files. Raises DataError, with file and row, for an empty id or a value that is
    no number, and if there are no events."""
    import pyarrow.compute as pc

    user_codes, item_codes = TextCodes(), TextCodes()
    users: list[NDArray[np.int32]] = []
    items: list[NDArray[np.int32]] = []
    times: list[NDArray[np.float64]] = []
    ratings: list[NDArray[np.float32]] = []
    for path, batches in files:
        first = 1
        for cells in batches:
            if not len(cells["user"]):
                continue
            users.append(user_codes.add(_ids(path, first, cells, "user")))
            items.append(item_codes.add(_ids(path, first, cells, "item")))
            times.append(_numbers(path, first, cells["time"], "time"))
            if "rating" in cells:
                texts = trimmed(cells["rating"])
                texts = pc.if_else(pc.equal(texts, ""), "nan", texts)
                ratings.append(_numbers(path, first, texts, "rating").astype(np.float32))
            first += len(cells["user"])
    if not users:
        raise DataError("there are no events")
    return RawEvents(
        user_codes.names.tolist(),
        item_codes.names.tolist(),
        np.concatenate(users),
        np.concatenate(items),
        np.concatenate(times),
        np.concatenate(ratings) if ratings else None,
    )


def _ids(path: Path, first: int, cells: Cells, content: str) -> Column:
    """The column, in which no id is empty; `first` is the number of its first row, from 1."""
    import pyarrow.compute as pc

    column = pc.fill_null(cells[content], "")
    row = pc.index(column, "").as_py()
    if row >= 0:
        raise DataError(f"{path}, row {first + row}: the {content} id is empty")
    return column


def _numbers(path: Path, first: int, column: Column, content: str) -> NDArray[np.float64]:
    """(rows,) numbers of texts or numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        return np.asarray(column)
    cells = trimmed(column)
    try:
        return np.asarray(pc.cast(cells, pa.float64()))
    except pa.ArrowInvalid:
        pass  # Python's parser names the row, and reads +7
    numbers = np.empty(len(cells))
    for row, cell in enumerate(cells.to_pylist()):
        try:
            numbers[row] = float(cell)
        except ValueError as error:
            number = first + row
            raise DataError(
                f"{path}, row {number}: the {content} {cell[:40]!r} is no number"
            ) from error
    return numbers
