"""How fast a stage of work goes, for the time that is left."""

import time

MOST_TIMES = 100
"""Steps that are left, as a multiple of those that were timed, for which a time is estimated."""


class Pace:
    """How fast a stage goes, and how long it will still take."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None
        self._last: tuple[int, int] = (0, 0)

    def report(self, done: int, total: int) -> None:
        """Note how far the stage is. What came before its first report says nothing about its
        speed; fewer steps than before begin another pass."""
        if self._first is None or done < self._last[0]:
            self._first = time.monotonic(), done
        self._last = (done, total)

    @property
    def left(self) -> str:
        """Like "about 3 min left"; empty until a hundredth of the steps that are left was done."""
        done, total = self._last
        if self._first is None:
            return ""
        start, done_at_start = self._first
        steps = done - done_at_start
        if steps <= 0 or total - done > steps * MOST_TIMES:
            return ""
        seconds = (time.monotonic() - start) / steps * (total - done)
        return f"about {spelled_time(seconds)} left"


def spelled_time(seconds: float) -> str:
    """Like 40 s, 3 min or 2 h 10 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
