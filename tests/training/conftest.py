"""Fixtures shared with the tests of `sft`, and short trainings of the tiny shop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sidtool.training.training import TrainingSummary, train
from tests.training.runs import FAST, Make, Stopped, Train, valid_of
from tests.training_fixtures import bundle, catalog, examples, models, split

__all__ = ["bundle", "catalog", "examples", "models", "short_train", "split"]


@pytest.fixture
def short_train(tmp_path: Path, models: Make, examples: Make) -> Train:
    """Trains a tiny model, by its architecture or folder, on the shop into a folder of this name.

    `stop` is the step after which it stops as if killed; `validates` on the users beside the
    examples; `more` are arguments of `train`, settings too."""

    def run(
        name: str,
        base: str | Path = "gpt2",
        mix: Mapping[str, float] | None = None,
        *,
        validates: bool = False,
        stop: int | None = None,
        **more: Any,
    ) -> TrainingSummary:
        def progress(done: int, total: int) -> None:
            if done == stop:
                raise Stopped

        made = examples(**(mix or {"sequence": 1.0}))
        saves = "epoch" if validates else "no"  # the best model is that of a checkpoint
        return train(
            models(base) if isinstance(base, str) else base,
            made,
            tmp_path / name,
            valid=valid_of(made) if validates else None,
            **{"progress": progress, **FAST, "save_strategy": saves, **more},
        )

    return run
