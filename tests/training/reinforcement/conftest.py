"""Fixtures of a tiny shop, and of a model that was trained on lists for a moment."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sidtool.training.settings import TrainOptions
from sidtool.training.training import train
from tests.tuned_fixtures import made, tuned

__all__ = ["made", "tuned"]


@pytest.fixture(scope="session")
def made_lists(examples: Callable[..., Path]) -> Path:
    """Training examples of lists, of up to ten items."""
    return examples(list=1.0)


@pytest.fixture(scope="session")
def list_model(
    tmp_path_factory: pytest.TempPathFactory, models: Callable[..., Path], made_lists: Path
) -> Path:
    """A model that writes lists, normalized over the trie."""
    out = tmp_path_factory.mktemp("lists") / "model"
    fields = {"num_train_epochs": 3, "per_device_train_batch_size": 16, "learning_rate": 3e-3}
    train(
        models("llama"),
        made_lists,
        out,
        options=TrainOptions(softmax_over="trie"),
        sft_fields=fields,
    )
    return out
