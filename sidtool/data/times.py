"""The order of events: numbers, or ISO dates as seconds since 1970."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data.tables.containers import Column

NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
SMALL_FRACTION = re.compile(r"(?<=[.,][0-9]{6})[0-9]+")
"""Digits of a date behind the microseconds, which datetime leaves out."""
FLOAT_DIGITS = 15
"""Decimal numbers of no more digits differ as float64."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (1e8, 1.0))
"""Numbers from each first number on are times since 1970 with so many to a second: each range
begins in 1973."""
UNIT_NAMES = {1.0: "seconds", 1e3: "milliseconds", 1e6: "microseconds", 1e9: "nanoseconds"}


def units_per_second(number: float) -> float | None:
    """In which unit a number is a time since 1970: so many to a second; None for a number that is
    no time."""
    return next((unit for start, unit in UNITS if abs(number) >= start), None)


def time_units(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): in which unit each number is a time between 1973 and 2286, as `units_per_second`; 0 for
    other numbers. Times of one column are in one unit, those of a counter may have any size."""
    sizes = np.abs(numbers)
    in_range = [(sizes >= start) & (sizes < 100 * start) for start, _ in UNITS]
    return np.select(in_range, [unit for _, unit in UNITS], 0.0)


def count_units(column: Column, numbers: NDArray[np.float64]) -> Counter[float]:
    """How many cells of an order, given as `numbers` too, are times in each unit; dates are not
    counted."""
    if not len(column) or _kind(column[0].as_py().strip()) == "date":
        return Counter()
    units, counts = np.unique(time_units(numbers), return_counts=True)
    return Counter(
        {unit: n for unit, n in zip(units.tolist(), counts.tolist(), strict=True) if unit}
    )


def check_one_unit(path: Path, counts: Mapping[float, int]) -> None:
    """Raise DataError if the times of an order, counted by `count_units`, have several units: their
    numbers do not order them."""
    if len(counts) > 1:
        named = [f"{counts[unit]} in {UNIT_NAMES[unit]}" for unit in sorted(counts)]
        raise DataError(
            f"{path}: the times have several units: {', '.join(named)}",
            hint="`sidtool check ITEMS EVENTS --fix OUT` writes them in one unit",
        )


def parse_time(text: str) -> float:
    """A number, or an ISO date as seconds since 1970 (UTC if it has no time zone). Raises
    ValueError."""
    number = float(text) if NUMBER.fullmatch(text) else _date(text).timestamp()
    if not np.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def read_order(
    path: Path, column: Column, first_row: int = 0
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """(n,) keys that sort events, and (n,) float64 numbers or seconds since 1970.

    The keys are the numbers, unless these are equal for different moments: nanoseconds since 1970
    have more digits than a float64. Raises DataError, with the row, for a cell that is neither a
    number nor a date, and if some are numbers and others are dates: 20210101 could be either.
    `first_row` is the row of the first cell, from 0.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
    try:
        numbers = pc.cast(column, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        numbers = _parse_cells(path, column.to_pylist(), first_row)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        row = int(wrong[0])
        cell = column[row].as_py()
        raise DataError(f"{path}, row {first_row + row + 1}: the order is {cell!r}")
    numbers = np.asarray(numbers, dtype=np.float64)
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    return _exact_keys(column, numbers) if longest > FLOAT_DIGITS else numbers, numbers


def _parse_cells(path: Path, cells: Sequence[str], first_row: int) -> NDArray[np.float64]:
    numbers = np.empty(len(cells), dtype=np.float64)
    rows: dict[str, int] = {}  # the first number and the first date
    for row, cell in enumerate(cells):
        kind = _kind(cell)
        first = rows.setdefault(kind, row)
        try:
            numbers[row] = parse_time(cell)
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{path}, row {first_row + row + 1}: the order {cell!r} is neither a number nor an "
                "ISO date"
            ) from error
        if first == row and len(rows) == 2:
            named = {kind: (first_row + at, cells[at]) for kind, at in rows.items()}
            raise _mixed(path, named["number"], named["date"])
    return numbers


def check_same_kind(path: Path, first: tuple[int, str], other: tuple[int, str]) -> None:
    """Raise DataError if one of two cells of an order, each with its row from 0, is a number and
    the other a date."""
    cells = {_kind(cell): (row, cell) for row, cell in (first, other)}
    if len(cells) == 2:
        raise _mixed(path, cells["number"], cells["date"])


def _kind(cell: str) -> str:
    return "number" if NUMBER.fullmatch(cell) else "date"


def _mixed(path: Path, number: tuple[int, str], date: tuple[int, str]) -> DataError:
    return DataError(
        f"{path}: the order is the number {number[1]!r} in row {number[0] + 1} and the date "
        f"{date[1]!r} in row {date[0] + 1}",
        hint="write all of them as ISO dates, or all as numbers",
    )


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
    try:
        return Decimal(text)
    except InvalidOperation:  # a date
        microseconds = (_date(text) - EPOCH) // timedelta(microseconds=1)
    rest = SMALL_FRACTION.search(text)
    fraction = Decimal(f"0.{rest.group()}") if rest else Decimal(0)
    return (microseconds + fraction) / 1_000_000


def _date(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
