import logging

from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    is_progress_bar_enabled,
)

from sidtool.training.loop.machine import quiet

LIBRARIES = ("accelerate", "trl", "transformers")


def test_a_training_leaves_logs_and_progress_bars_as_they_were() -> None:
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    disable_progress_bar()
    try:
        with quiet():
            assert {logger.level for logger in loggers} == {logging.ERROR}
        assert [logger.level for logger in loggers] == levels
        assert not is_progress_bar_enabled()
    finally:
        enable_progress_bar()
