"""Settings of the process, such as those of a library, for the length of a block."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_LOCK = threading.Lock()
_SETTINGS: dict[str, tuple[int, Any]] = {}
"""By name, how many blocks hold a setting of the process now, and its value before the first."""


@contextmanager
def process_setting(
    name: str, read: Callable[[], T], write: Callable[[T], object], value: T
) -> Iterator[None]:
    """Give a setting of the process this value while the block runs. Blocks of several threads may
    overlap: the last one that ends restores what the first one found."""
    with _LOCK:
        blocks, before = _SETTINGS.get(name) or (0, read())
        _SETTINGS[name] = (blocks + 1, before)
        write(value)
    try:
        yield
    finally:
        with _LOCK:
            blocks, before = _SETTINGS.pop(name)
            if blocks > 1:
                _SETTINGS[name] = (blocks - 1, before)
            else:
                write(before)
