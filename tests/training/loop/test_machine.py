import logging
import os
import random

import pytest
import torch
from transformers.trainer_utils import enable_full_determinism
from transformers.utils.logging import (
    disable_progress_bar,
    enable_progress_bar,
    is_progress_bar_enabled,
)

from sidtool.training.loop.machine import quiet, random_states_kept

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


def test_a_training_leaves_random_and_deterministic_modes_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def states() -> tuple[object, ...]:
        cudnn = torch.backends.cudnn
        modes = torch.get_deterministic_debug_mode(), cudnn.deterministic, cudnn.benchmark
        return *modes, random.getstate(), torch.get_rng_state().tolist(), dict(os.environ)

    before = states()
    with random_states_kept():
        enable_full_determinism(7)
        assert all(now != old for now, old in zip(states()[:2], before, strict=False))
    assert states() == before
