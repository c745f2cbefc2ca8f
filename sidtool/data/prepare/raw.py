"""Events of raw data sets as arrays: 20 bytes per event, and each id once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data.coded import Column
from sidtool.data.interactions import EventCoder
from sidtool.data.tables.delimited import delimited_batches
from sidtool.data.tables.opening import read_errors
from sidtool.data.tables.tables import column_batches, column_names

BATCH = 1 << 16
"""Rows of Python values that a reader passes on at once."""
Cells = Mapping[str, Column]
"""Some rows of a file, as they stand there: the columns `user`, `item`, `order` (absent if the rows
are in order) and, if the file has ratings, `rating`."""


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
    """Rows of user, item, order and rating."""
    import pyarrow as pa

    while block := list(islice(rows, BATCH)):
        columns = [pa.chunked_array([cells]) for cells in zip(*block, strict=True)]
        yield dict(zip(("user", "item", "order", "rating"), columns, strict=True))


def collect(files: Iterable[tuple[Path, Iterable[Cells]]]) -> RawEvents:
    """All events of files. Raises DataError, with file and row, for an empty id and for a time or
    rating that cannot be read, and if there are no events."""
    coder = EventCoder()
    users: list[NDArray[np.int32]] = []
    items: list[NDArray[np.int32]] = []
    times: list[NDArray[np.float64]] = []
    ratings: list[NDArray[np.float32]] = []
    for path, batches in files:
        for run in coder.runs(path, batches):
            users.append(run["user"].to_numpy())
            items.append(run["item"].to_numpy())
            times.append(run["order"].to_numpy())
            if "rating" in run.schema.names:
                ratings.append(_ratings(path, coder.texts("rating").tolist(), run))
    if not users:
        raise DataError("there are no events")
    return RawEvents(
        coder.texts("user").tolist(),
        coder.texts("item").tolist(),
        np.concatenate(users),
        np.concatenate(items),
        np.concatenate(times),
        np.concatenate(ratings) if ratings else None,
    )


def _ratings(path: Path, texts: Sequence[str], run: Any) -> NDArray[np.float32]:
    """(rows,) the ratings of a run, whose codes mean these texts; NaN for an empty one."""
    codes = run["rating"].to_numpy()
    numbers = np.full(len(texts), np.nan, dtype=np.float32)
    for code, text in enumerate(texts):
        try:
            numbers[code] = float(text or "nan")
        except ValueError as error:
            row = run["row"][int(np.argmax(codes == code))].as_py() + 1
            raise DataError(f"{path}, row {row}: the rating {text[:40]!r} is no number") from error
    return numbers[codes]
