"""The order of events: numbers, or ISO dates as seconds since 1970."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.containers import Column
from sidtool.errors import DataError

NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
SMALL_FRACTION = re.compile(r"(?<=[.,][0-9]{6})[0-9]+")
"""Digits of a date behind the microseconds, which datetime leaves out."""
FLOAT_DIGITS = 15
"""Decimal numbers of no more digits differ as float64."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(text: str) -> float:
    """A number, or an ISO date as seconds since 1970 (UTC if it has no time zone). Raises
    ValueError."""
    number = float(text) if NUMBER.fullmatch(text) else _date(text).timestamp()
    if not np.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def read_order(path: Path, column: Column) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """(n,) keys that sort events, and (n,) float64 numbers or seconds since 1970.

    The keys are the numbers, unless these are equal for different moments: nanoseconds since 1970
    have more digits than a float64. Raises DataError, with the row, for a cell that is neither a
    number nor a date, and if some are numbers and others are dates: 20210101 could be either.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
    try:
        numbers = pc.cast(column, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        numbers = _parse_cells(path, column.to_pylist())
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"{path}, row {row + 1}: the order is {column[row].as_py()!r}")
    numbers = np.asarray(numbers, dtype=np.float64)
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    return _exact_keys(column, numbers) if longest > FLOAT_DIGITS else numbers, numbers


def _parse_cells(path: Path, cells: Sequence[str]) -> NDArray[np.float64]:
    numbers = np.empty(len(cells), dtype=np.float64)
    rows: dict[str, int] = {}  # the first number and the first date
    for row, cell in enumerate(cells):
        kind = "number" if NUMBER.fullmatch(cell) else "date"
        first = rows.setdefault(kind, row)
        try:
            numbers[row] = parse_time(cell)
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{path}, row {row + 1}: the order {cell!r} is neither a number nor an ISO date"
            ) from error
        if first == row and len(rows) == 2:
            number, date = rows["number"], rows["date"]
            raise DataError(
                f"{path}: the order is the number {cells[number]!r} in row {number + 1} and the "
                f"date {cells[date]!r} in row {date + 1}",
                hint="write all of them as ISO dates, or all as numbers",
            )
    return numbers


def _exact_keys(column: Column, numbers: NDArray[np.float64]) -> NDArray[Any]:
    """`numbers`, or ranks of the exact moments if different ones are equal as float64."""
    coded = column.combine_chunks().dictionary_encode()
    texts = coded.dictionary.to_pylist()
    codes = coded.indices.to_numpy()
    if len(np.unique(numbers)) == len(texts):
        return numbers
    moments = [_exact(text) for text in texts]
    ranks = {moment: rank for rank, moment in enumerate(sorted(set(moments)))}
    return np.array([ranks[moment] for moment in moments], dtype=np.int64)[codes]


def _exact(text: str) -> Decimal:
    """The number of a text, or the seconds since 1970 of a date, with all digits."""
    if NUMBER.fullmatch(text):
        return Decimal(text)
    microseconds = (_date(text) - EPOCH) // timedelta(microseconds=1)
    rest = SMALL_FRACTION.search(text)
    fraction = Decimal(f"0.{rest.group()}") if rest else Decimal(0)
    return (microseconds + fraction) / 1_000_000


def _date(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
