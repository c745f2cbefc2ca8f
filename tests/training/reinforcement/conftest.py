"""Training examples of the tiny shop, and models trained on them for a moment."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sidtool.training.training import train
from tests.training.runs import FAST


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
    settings = {**FAST, "num_train_epochs": 3, "softmax_over": "trie"}
    train(models("llama"), made, out, **settings)
    return out


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
    settings = {**FAST, "num_train_epochs": 3, "softmax_over": "trie"}
    train(models("llama"), made_lists, out, **settings)
    return out
