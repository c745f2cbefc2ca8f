"""Work that threads divide: functions of numpy and scipy let several run at once."""

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from sidtool.base.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")


def thread_count(threads: int | None = None) -> int:
    """A number of threads; None: one for each core that this process may use. Raises UsageError
    for a number below 1."""
    if threads is not None:
        if threads < 1:
            raise UsageError(f"threads must be at least 1, not {threads}")
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def arrow_threads(threads: int) -> Iterator[None]:
    """Let Arrow use so many threads."""
    import pyarrow as pa

    before = pa.cpu_count()
    pa.set_cpu_count(threads)
    try:
        yield
    finally:
        pa.set_cpu_count(before)


def arrow_thread_count() -> int:
    """How many threads Arrow uses: what runs without a number of its own takes as many."""
    import pyarrow as pa

    count: int = pa.cpu_count()
    return count


def release_arrow_memory() -> None:
    """Give memory that Arrow used, and keeps for later, back to the system."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def release_memory() -> None:
    """As `release_arrow_memory`, also what the C library keeps if that is glibc."""
    release_arrow_memory()
    if os.name == "posix":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def read_ahead(values: Iterable[T], threads: int) -> Iterator[T]:
    """The values; if there are several threads, the next one is made while one is used."""
    stream = iter(values)
    if threads == 1:
        yield from stream
        return
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, stream, None)
        while (value := pending.result()) is not None:
            pending = pool.submit(next, stream, None)
            yield value


def in_threads(function: Callable[[T], R], values: Iterable[T], threads: int) -> Iterator[R]:
    """The results of a function in the order of its values; at most `threads` + 1 results are
    ahead of the one that is read. The same error is raised for any number of threads: an error of
    a value after those of the values before it."""
    if threads == 1:
        yield from map(function, values)
        return
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:

        def submitted() -> Iterator[Future[R]]:
            try:
                for value in values:
                    yield pool.submit(function, value)
            except Exception as error:
                failed: Future[R] = Future()
                failed.set_exception(error)
                yield failed

        for future in submitted():
            pending.append(future)
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def run_in_threads(steps: Iterable[Callable[[], object]], threads: int) -> None:
    """Run steps that do not need each other. Raises what the first of them raises that fails."""
    for _ in in_threads(lambda step: step(), steps, threads):
        pass


@contextmanager
def meanwhile(step: Callable[[], object], threads: int) -> Iterator[None]:
    """Run a step in a thread of its own while the block runs; with one thread, after the block."""
    if threads == 1:
        yield
        step()
        return
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(step)
        yield
        pending.result()
