"""Waits for events, with one bound that only a deadlock reaches, however busy the machine is."""

import threading
import time
from collections.abc import Callable

DEADLOCK = 900.0
"""Seconds after which a wait fails."""


def wait_until(happened: Callable[[], object]) -> None:
    """Wait until something is true that other processes or threads make true."""
    end = time.monotonic() + DEADLOCK
    while not happened():
        assert time.monotonic() < end, "a deadlock"
        time.sleep(0.01)


class Start:
    """A point in concurrent works where each waits until all others are there or have ended."""

    def __init__(self, works: int) -> None:
        self._works = works
        self._arrived: set[threading.Thread] = set()
        self._condition = threading.Condition()  # its lock is reentrant

    def wait(self) -> None:
        with self._condition:
            self.arrive()
            happened = self._condition.wait_for(lambda: len(self._arrived) == self._works, DEADLOCK)
        assert happened, "a deadlock"

    def arrive(self) -> None:
        """Let the others wait no longer for the work of this thread."""
        with self._condition:
            self._arrived.add(threading.current_thread())
            self._condition.notify_all()


def run_concurrently(*works: Callable[[], object], start: Start | None = None) -> list[object]:
    """Run functions concurrently; returns the result or exception of each. One that ends before the
    `start` keeps no other one waiting."""
    results: list[object] = [None] * len(works)

    def run(at: int) -> None:
        try:
            results[at] = works[at]()
        except Exception as error:
            results[at] = error
        finally:
            if start is not None:
                start.arrive()

    threads = [threading.Thread(target=run, args=(at,), daemon=True) for at in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLOCK)
        assert not thread.is_alive(), "a deadlock"
    return results
