"""Fixtures: training examples of the tiny shop, and a model trained on them for a moment."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sidtool.training import TrainOptions, train


@pytest.fixture(scope="session")
def made(examples: Callable[..., Path]) -> Path:
    """The training examples of the shop."""
    return examples(sequence=1.0)


@pytest.fixture(scope="session")
def tuned(
    tmp_path_factory: pytest.TempPathFactory, models: Callable[..., Path], made: Path
) -> Path:
    """A model whose beams hit now and then, normalized over the trie."""
    out = tmp_path_factory.mktemp("tuned") / "model"
    train(
        models("llama"),
        made,
        out,
        options=TrainOptions(softmax_over="trie"),
        sft_fields={
            "num_train_epochs": 3,
            "per_device_train_batch_size": 16,
            "learning_rate": 3e-3,
        },
    )
    return out
