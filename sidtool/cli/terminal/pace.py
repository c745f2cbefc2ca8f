"""The progress of stages of work on stderr, how fast they go, and the time that is left."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from sidtool.base.visible import visible
from sidtool.cli.terminal.console import detail, is_quiet, note, warn_early

Progress = Callable[..., None]
"""Called with the finished and the total steps of a stage, 0 if they are not known, and optionally
figures to show."""
LOG_SECONDS = 30.0
"""Seconds between two lines on the progress of a stage, where stderr is no terminal. A stage that
takes longer prints the warnings that are known."""

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
        """Like "about 3 min left"; empty until a hundredth of the steps that are left was done, and
        without a total."""
        done, total = self._last
        if self._first is None:
            return ""
        start, done_at_start = self._first
        steps = done - done_at_start
        if steps <= 0 or not done <= total <= done + steps * MOST_TIMES:
            return ""
        seconds = (time.monotonic() - start) / steps * (total - done)
        return f"about {spelled_time(seconds)} left"


def spelled_time(seconds: float) -> str:
    """Like 40 s, 3 min or 2 h 10 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def progress(*stages: str) -> Iterator[Mapping[str, Progress]]:
    """The reporters of stages, stage -> report(done, total): a bar per stage on a terminal, else a
    line now and then; nothing with -q. With -v, a line on how long each stage took."""
    reported = {"": time.monotonic()}
    if is_quiet():
        yield {}
    elif sys.stderr.isatty():
        from rich import progress as rich_progress

        columns = (
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[figures]}", markup=False),
        )
        console = Console(stderr=True)
        with rich_progress.Progress(*columns, console=console, transient=True) as bars:
            yield {stage: _reporter(stage, bars, reported) for stage in stages}
    else:
        yield {stage: _reporter(stage, None, reported) for stage in stages}


def _reporter(stage: str, bars: Any, reported: dict[str, float]) -> Progress:
    """The reporter of a stage on `bars`, or by lines if they are None. `reported` has the time of
    the last report of each stage ("" is the start): one starts where those before it ended."""
    hidden: dict[str, Any] = {"total": None, "start": False, "visible": False, "figures": ""}
    task = None if bars is None else bars.add_task(visible(stage), **hidden)
    pace = Pace()
    start: float | None = None
    last_line = 0.0

    def report(done: int, total: int, figures: str = "") -> None:
        nonlocal start, last_line
        now = time.monotonic()
        if start is None:
            start, last_line = max(reported.values()), now
        if now - reported[""] > LOG_SECONDS:
            warn_early()
        pace.report(done, total)
        if bars is not None:
            bars.start_task(task)
            # a report without figures leaves those of the report before
            fields = {"figures": visible(figures)} if figures else {}
            bars.update(task, completed=done, total=total or None, visible=True, **fields)
        elif now - last_line >= LOG_SECONDS:
            last_line = now
            parts = (f"{done} of {total}" if total else str(done), pace.left, figures)
            note(f"{stage}: {', '.join(filter(None, parts))}")
        reported[stage] = time.monotonic()
        if done == total:
            detail(f"{stage}: {total} in {reported[stage] - start:.1f} s")

    return report
