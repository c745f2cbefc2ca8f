"""The order of events: numbers, or ISO dates as seconds since 1970."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError, raised_as
from sidtool.data.coded import BLOCK, Column, Texts, numpy_numbers

NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
SMALL_FRACTION = re.compile(r"(?<=[.,][0-9]{6})[0-9]+")
"""Digits of a date behind the microseconds, which datetime leaves out."""
FLOAT_DIGITS = 15
"""Decimal numbers of no more digits differ as float64."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EXACT = Context(prec=60)
MAX_WHOLE = 1 << 62
MICROSECONDS = 10**6 << 33
"""So many from 1970, to 2242, differ as seconds in float64."""
UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (1e8, 1.0))
"""Numbers from each first number on are times since 1970 with so many to a second: each range
begins in 1973."""
UNIT_NAMES = {1.0: "seconds", 1e3: "milliseconds", 1e6: "microseconds", 1e9: "nanoseconds"}


DAY_FORMATS = ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d")
TIME_FORMATS = tuple(day + clock for day in DAY_FORMATS for clock in ("", " %H:%M", " %H:%M:%S"))
"""Formats that are guessed, for a hint only."""
GUESSED_CELLS = 1000
"""The first cells, of which a format is guessed."""
LEAVE_OUT = "`sidtool check ITEMS EVENTS --fix OUT` leaves out such events"
"""The hint for cells that cannot be used."""
OTHER_FORMAT = "--time-format FORMAT reads times of another format, like '%b %d, %Y'"


def units_per_second(number: float) -> float | None:
    """In which unit a number is a time since 1970: so many to a second; None for a number that is
    no time."""
    return next((unit for start, unit in UNITS if abs(number) >= start), None)


def common_unit(numbers: NDArray[np.float64], *, are_dates: bool) -> float | None:
    """In which unit all times of an order are, as `units_per_second`: that of the latest, since
    early ones look like a coarser unit. None for other numbers, like 20260301101500. Dates are in
    seconds, however late one is."""
    latest = np.abs(numbers).max(initial=0)
    return 1.0 if are_dates else float(time_units(latest)) or None


def time_units(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): in which unit each number is a time between 1973 and 2286, as `units_per_second`; 0 for
    other numbers. Times of one column are in one unit, those of a counter may have any size."""
    sizes = np.abs(numbers)
    in_range = [(sizes >= start) & (sizes < 100 * start) for start, _ in UNITS]
    return np.select(in_range, [unit for _, unit in UNITS], 0.0)


def count_units(column: Column, numbers: NDArray[np.float64]) -> Counter[float]:
    """How many cells of an order, `trimmed` and given as `numbers` too, are times in each unit;
    dates are not counted."""
    if _kind(column[0].as_py()) == "date":
        return Counter()
    units = time_units(numbers)
    return +Counter({unit: int(np.count_nonzero(units == unit)) for unit in UNIT_NAMES})


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


def parse_moment(text: str, unit: float = 1) -> float:
    """A number as it is, or a date in a unit of so many to a second. Raises UsageError."""
    with raised_as(
        UsageError, "a moment is a number or an ISO date", errors=(ValueError, OverflowError)
    ):
        return parse_time(text) * (1 if NUMBER.fullmatch(text) else unit)


def check_time_format(time_format: str) -> None:
    """Raise UsageError unless a text is a format of dates (codes of strftime)."""
    problem = f"--time-format {time_format!r} is no format of dates"
    with raised_as(UsageError, problem, "like %d/%m/%Y", errors=(ValueError, re.error)):
        datetime.strptime(EPOCH.strftime(time_format), time_format)


def iso_times(column: Column, time_format: str) -> Column:
    """Texts of a format (codes of strftime) as ISO dates; cells of another one stay."""
    import pyarrow as pa
    import pyarrow.compute as pc

    distinct = pc.unique(column)
    dates = pa.array([_iso_time(cell, time_format) for cell in distinct.to_pylist()], pa.string())
    return pc.take(dates, pc.index_in(column, distinct))


def _iso_time(cell: str | None, time_format: str) -> str | None:
    try:
        return None if cell is None else datetime.strptime(cell.strip(), time_format).isoformat()
    except ValueError:
        return cell


def time_format_hint(cells: Sequence[str]) -> str | None:
    """The option that reads the times, if the first of them have one of the usual formats."""
    formats = usual_formats(cells)
    if not formats:
        return None
    either = " or ".join(map(repr, formats))
    flag = f"--time-format {formats[0]!r}"
    return f"the times look like {either}: {flag} of check, fit, prepare and split reads it"


def usual_formats(cells: Sequence[str]) -> list[str]:
    """Those of TIME_FORMATS that the first cells have, but empty ones; none if all are empty."""
    filled = list(filter(None, map(str.strip, cells[:GUESSED_CELLS])))
    formats = []
    for name in TIME_FORMATS if filled else ():
        with suppress(ValueError):
            for cell in filled:
                datetime.strptime(cell, name)
            formats.append(name)
    return formats


def trimmed(column: Column) -> Column:
    """The cells of a column without blanks around them, "" for no value."""
    import pyarrow.compute as pc

    return pc.utf8_trim_whitespace(pc.fill_null(column, ""))


def read_order(
    path: Path, column: Column, first_row: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n,) numbers, or seconds since 1970, of texts without blanks around them, and (n,) what the
    exact moments have beyond them: nanoseconds since 1970 have more digits than a float64.

    Raises DataError, with the row, for a cell that is neither a number nor a date, and if some are
    numbers and others are dates: 20210101 could be either. `first_row` is the row of the first
    cell, from 0.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        numbers = pc.cast(column, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        dates = _dates(column)
        if dates is not None:
            return dates
        numbers = _parse_cells(path, column.to_pylist(), first_row)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        row = int(wrong[0])
        cell = column[row].as_py()
        message = f"{path}, row {first_row + row + 1}: the order is {cell!r}"
        raise DataError(message, hint=LEAVE_OUT)
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    remainders = _remainders(column, numbers) if longest > FLOAT_DIGITS else np.zeros(len(numbers))
    return numbers, remainders


def _dates(column: Column) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """As `read_order`, of ISO dates in nanoseconds, of which all or none have a time zone; None for
    others: Python reads them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            nanoseconds = pc.cast(pc.cast(column, kind), pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            continue
        microseconds, rest = np.divmod(nanoseconds, 1000)
        if np.abs(microseconds).max(initial=0) < MICROSECONDS:
            return microseconds / 1e6, rest / 1000
    return None


def _parse_cells(path: Path, cells: Sequence[str], first_row: int) -> NDArray[np.float64]:
    numbers = np.empty(len(cells), dtype=np.float64)
    for row, cell in enumerate(cells):
        try:
            numbers[row] = parse_time(cell)
        except (ValueError, OverflowError) as error:
            hint = f"{LEAVE_OUT}; {OTHER_FORMAT}" if cell else LEAVE_OUT
            raise DataError(
                f"{path}, row {first_row + row + 1}: the order {cell!r} is neither a number nor an "
                "ISO date",
                hint=time_format_hint(cells) or hint,
            ) from error
        if _kind(cell) != _kind(cells[0]):
            check_same_kind(path, (first_row, cells[0]), (first_row + row, cell))
    return numbers


def check_same_kind(path: Path, first: tuple[int, str], other: tuple[int, str]) -> None:
    """Raise DataError if one of two cells of an order, each with its row from 0, is a number and
    the other a date."""
    cells = {_kind(cell): (row, cell) for row, cell in (first, other)}
    if len(cells) == 2:
        (number_row, number), (date_row, date) = cells["number"], cells["date"]
        raise DataError(
            f"{path}: the order is the number {number!r} in row {number_row + 1} and the date "
            f"{date!r} in row {date_row + 1}",
            hint="write all of them as ISO dates, or all as numbers",
        )


def _kind(cell: str) -> str:
    return "number" if NUMBER.fullmatch(cell) else "date"


def _remainders(column: Column, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): by what the exact moments of texts are larger than their float64 `numbers`. Number and
    remainder together have twice the digits of a float64."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        whole = pc.cast(column, pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        whole = np.array([MAX_WHOLE])
    if np.abs(numbers).max() < MAX_WHOLE > whole.max():
        return (whole - numbers.astype(np.int64)).astype(np.float64)
    pairs = zip(column.to_pylist(), numbers.tolist(), strict=True)
    return np.array([_difference(text, number) for text, number in pairs])


def _difference(text: str, number: float) -> float:
    """What the exact number of a text, or its exact seconds since 1970, has beyond a float64."""
    try:
        exact = Decimal(text)
    except InvalidOperation:  # a date
        microseconds = (_date(text) - EPOCH) // timedelta(microseconds=1)
        digits = SMALL_FRACTION.search(text)
        fraction = Decimal(f"0.{digits.group()}" if digits else 0)
        if abs(microseconds) < MICROSECONDS:
            return float(fraction)
        exact = EXACT.scaleb(EXACT.add(microseconds, fraction), -6)
    return float(EXACT.subtract(exact, Decimal(number)))


def _date(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Moments:
    """n times as they stand in a file."""

    seconds: NDArray[np.float64]
    """(n,) numbers, or seconds since 1970; NaN where the cell cannot be read."""
    is_number: NDArray[np.bool_]
    """(n,)"""
    is_empty: NDArray[np.bool_]
    """(n,)"""

    @property
    def is_other_kind(self) -> NDArray[np.bool_]:
        """(n,) numbers among dates or dates among numbers, whichever are fewer."""
        readable = ~np.isnan(self.seconds)
        numbers = readable & self.is_number
        dates = readable & ~self.is_number
        if not numbers.any() or not dates.any():
            return np.zeros(len(self.seconds), dtype=np.bool_)
        return numbers if numbers.sum() < dates.sum() else dates

    @property
    def ratios(self) -> NDArray[np.float64]:
        """(n,): by what each number is divided so that all times have the coarsest unit among them:
        1000 for milliseconds among seconds, 1 where nothing is to be done."""
        units = time_units(np.where(self.is_number, self.seconds, np.nan))
        times = units > 0
        return np.where(times, units / units.min(where=times, initial=np.inf), 1)

    def at(self, codes: NDArray[np.integer[Any]]) -> "Moments":
        """Those at some places, which may repeat."""
        return Moments(self.seconds[codes], self.is_number[codes], self.is_empty[codes])


def parse_moments(cells: Texts) -> Moments:
    """Read every cell that can be read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = trimmed(cells.arrow)
    matches = pc.match_substring_regex(texts, f"^(?:{NUMBER.pattern})$")
    is_number = numpy_numbers(matches.cast(pa.uint8())).astype(np.bool_)
    is_empty = numpy_numbers(pc.binary_length(texts)) == 0
    seconds = np.zeros(len(texts))
    for start in range(0, len(texts), BLOCK):
        block = slice(start, start + BLOCK)
        seconds[block] = _seconds(texts[block], are_numbers=bool(is_number[block].all()))
    seconds[np.isinf(seconds)] = np.nan
    return Moments(seconds, is_number, is_empty)


def _seconds(texts: Any, *, are_numbers: bool) -> NDArray[np.float64]:
    """(n,) numbers, or seconds since 1970, of an arrow array of texts without blanks around them;
    NaN or infinite for one that cannot be read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if are_numbers:
        with suppress(pa.ArrowInvalid):
            return numpy_numbers(pc.cast(texts, pa.float64()))
    elif (dates := _dates(texts)) is not None:
        return dates[0]
    return np.array([_second(text) for text in texts.to_pylist()])


def _second(text: str) -> float:
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        return np.nan
