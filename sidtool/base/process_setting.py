"""Whether a process is the first of several, and settings of the process, such as those of a
library, for the length of a block."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_LOCK = threading.Lock()
_SETTINGS: dict[str, tuple[int, Any]] = {}
"""By name, how many blocks hold a setting of the process now, and its value before the first."""


def is_first_process() -> bool:
    """Whether this is the first of the processes that `torchrun` or `accelerate launch` started, or
    the only one."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


@contextmanager
def process_setting(
    name: str, read: Callable[[], T], write: Callable[[T], object], value: T
) -> Iterator[None]:
    """Give a setting of the process this value while the block runs. Blocks of threads may overlap:
    the value of the one that began last holds, and the last one that ends restores what the first
    one found."""
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


@contextmanager
def hidden_bars() -> Iterator[None]:
    """Without the progress bars of transformers."""
    from transformers.utils import logging as hf

    def show(has_bars: bool) -> None:
        (hf.enable_progress_bar if has_bars else hf.disable_progress_bar)()

    with process_setting("progress bars", hf.is_progress_bar_enabled, show, False):
        yield


@contextmanager
def errors_only(name: str) -> Iterator[None]:
    """With nothing but errors of the logger of this name."""
    logger = logging.getLogger(name)
    with process_setting(name, lambda: logger.level, logger.setLevel, logging.ERROR):
        yield
