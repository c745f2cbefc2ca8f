"""Times of events, cell by cell: which can be read, and which are of another kind than most."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.data.times import NUMBER, parse_time, time_units

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Moments:
    """n times as they stand in a file."""

    seconds: NDArray[np.float64]
    """(n,) numbers, or seconds since 1970; NaN where the cell cannot be read."""
    is_number: Flags
    """(n,)"""
    is_empty: Flags
    """(n,)"""

    @property
    def is_unreadable(self) -> Flags:
        """(n,) cells that are neither numbers nor dates."""
        return np.isnan(self.seconds) & ~self.is_empty

    @property
    def is_other_kind(self) -> Flags:
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


def parse_moments(cells: Sequence[str]) -> Moments:
    """Read every cell that can be read."""
    n = len(cells)
    seconds = np.full(n, np.nan)
    is_number = np.zeros(n, dtype=np.bool_)
    is_empty = np.zeros(n, dtype=np.bool_)
    for row, cell in enumerate(cells):
        text = cell.strip()
        is_empty[row] = not text
        is_number[row] = bool(NUMBER.fullmatch(text))
        try:
            seconds[row] = parse_time(text) if text else np.nan
        except (ValueError, OverflowError):
            continue  # NaN: it is reported
    return Moments(seconds, is_number, is_empty)
