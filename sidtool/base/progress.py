"""How long work reports how far it is."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sidtool.base.process_setting import process_setting

Progress = Callable[[int, int], None]
"""Called with the number of finished steps, and their total or 0 if it is unknown."""


Log = Callable[[dict[str, float]], None]
"""Called with each log line and each validation."""


@contextmanager
def hidden_bars() -> Iterator[None]:
    """Without the progress bars of transformers."""
    from transformers.utils.logging import (
        disable_progress_bar,
        enable_progress_bar,
        is_progress_bar_enabled,
    )

    def show(has_bars: bool) -> None:
        (enable_progress_bar if has_bars else disable_progress_bar)()

    with process_setting("progress bars", is_progress_bar_enabled, show, False):
        yield


@contextmanager
def errors_only(name: str) -> Iterator[None]:
    """With nothing but errors of the logger of this name."""
    logger = logging.getLogger(name)
    with process_setting(name, lambda: logger.level, logger.setLevel, logging.ERROR):
        yield
