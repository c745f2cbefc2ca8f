"""The log of a service: lines on stderr, without anything from the body of a call."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidtool.base.visible import visible

LOGGERS = ("sidtool.recommendation.serve", "sidtool.integrations.cluster", "uvicorn.error")
N_FRAMES = 8


class _Format(logging.Formatter):
    """A line per record: no traceback, whose last line would quote what failed."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = self.formatTime(record)
        text = record.getMessage().partition("\n")[0]
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {frames(record.exc_info[1])}"
        return visible(f"{stamp} {record.process} {record.levelname.lower()}: {text}")


@contextmanager
def log_to_stderr(*, verbose: bool) -> Iterator[None]:
    """Log warnings and errors to stderr during the block; with `verbose`, a line for each call,
    too."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.propagate, logger.level) for logger in loggers]
    handler = start_log(verbose=verbose)
    try:
        yield
    finally:
        for logger, (propagate, level) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagate
            logger.setLevel(level)


def start_log(*, verbose: bool) -> logging.Handler:
    """Log as `log_to_stderr` does, to the end of the process -> what writes the lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Format())
    # what uvicorn repeats of an error of the start, which has a line already
    handler.addFilter(lambda record: not record.getMessage().startswith("Traceback"))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    return handler


def log_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Log a Python warning, in place of `warnings.showwarning`."""
    logging.getLogger(LOGGERS[0]).warning("%s", message)


def frames(error: BaseException) -> str:
    """The kind of an error and where it was raised, innermost first, without its message."""
    stack = traceback.extract_tb(error.__traceback__)[-N_FRAMES:]
    spelled = (
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(stack)
    )
    return f"{type(error).__name__} at {' < '.join(spelled)}"
