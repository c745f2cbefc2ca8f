"""How long work reports how far it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called with the number of finished steps, and their total or 0 if it is unknown."""


Log = Callable[[dict[str, float]], None]
"""Called with each log line and each validation."""


@contextmanager
def hidden_bars() -> Iterator[None]:
    """Without the progress bars of transformers."""
    from transformers.utils import logging

    has_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if has_bars:
            logging.enable_progress_bar()
