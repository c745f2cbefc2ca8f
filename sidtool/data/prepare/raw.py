"""Events of raw data sets as arrays: 20 bytes per event, and each id once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError

BATCH = 1 << 16
"""Rows that a reader passes on at once."""


@dataclass(frozen=True)
class Place:
    """A row of a file, from 1; a header is not counted."""

    path: Path
    row: int


@dataclass(frozen=True)
class Batch:
    """Some rows of a file, as they stand there."""

    users: Sequence[str]
    items: Sequence[str]
    times: Sequence[str]
    ratings: Sequence[str] | None
    """None: the file has no ratings."""
    place: Place
    """Where the first row is."""


@dataclass(frozen=True)
class RawEvents:
    """n events in file order."""

    users: tuple[str, ...]
    """Ids of users by code, in order of first appearance."""
    items: tuple[str, ...]
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
        ratings = None if self.ratings is None else self.ratings[rows]
        codes = (self.user_codes[rows], self.item_codes[rows])
        return RawEvents(self.users, self.items, *codes, self.times[rows], ratings)


def collect(batches: Iterable[Batch]) -> RawEvents:
    """All events of a reader. Raises DataError, with the place, for an empty id or a value that is
    no number, and if there are no events."""
    user_codes: dict[str, int] = {}
    item_codes: dict[str, int] = {}
    users: list[NDArray[np.int32]] = []
    items: list[NDArray[np.int32]] = []
    times: list[NDArray[np.float64]] = []
    ratings: list[NDArray[np.float32]] = []
    for batch in batches:
        users.append(_codes(batch.users, user_codes, batch.place, "user"))
        items.append(_codes(batch.items, item_codes, batch.place, "item"))
        times.append(_numbers(batch.times, batch.place, "time"))
        if batch.ratings is not None:
            cells = [rating or "nan" for rating in batch.ratings]
            ratings.append(_numbers(cells, batch.place, "rating").astype(np.float32))
    if not users:
        raise DataError("there are no events")
    return RawEvents(
        tuple(user_codes),
        tuple(item_codes),
        np.concatenate(users),
        np.concatenate(items),
        np.concatenate(times),
        np.concatenate(ratings) if ratings else None,
    )


def _codes(
    cells: Sequence[str], code_of: dict[str, int], place: Place, content: str
) -> NDArray[np.int32]:
    """(rows,) the code of each id; a new id gets the next one."""
    if "" in cells:
        raise DataError(
            f"{place.path}, row {place.row + cells.index('')}: the {content} id is empty"
        )
    codes = (code_of.setdefault(cell, len(code_of)) for cell in cells)
    return np.fromiter(codes, dtype=np.int32, count=len(cells))


def _numbers(cells: Sequence[str], place: Place, content: str) -> NDArray[np.float64]:
    """(rows,) numbers."""
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        row = next(row for row, cell in enumerate(cells) if not _is_number(cell))
        raise DataError(
            f"{place.path}, row {place.row + row}: the {content} {cells[row][:40]!r} is no number"
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def batched(path: Path, rows: Iterator[tuple[str, str, str, str]]) -> Iterator[Batch]:
    """Rows of user, item, time and rating as batches."""
    first = 1
    while block := list(islice(rows, BATCH)):
        users, items, times, ratings = zip(*block, strict=True)
        yield Batch(users, items, times, ratings, Place(path, first))
        first += len(block)
