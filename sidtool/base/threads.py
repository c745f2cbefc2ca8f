"""Work that threads divide: functions of numpy and scipy let several run at once."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def thread_count(threads: int | None = None) -> int:
    """A number of threads; None: one for each core that this process may use."""
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[T], R], values: Iterable[T], threads: int) -> Iterator[R]:
    """The results of a function in the order of its values; at most `threads` + 1 results are
    ahead of the one that is read."""
    if threads == 1:
        yield from map(function, values)
        return
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for value in values:
            pending.append(pool.submit(function, value))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
