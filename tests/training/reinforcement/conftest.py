"""Training examples of the tiny shop, and models trained on them for a moment."""

from pathlib import Path

import pytest

from sidtool.training.training import train
from tests.training.runs import FAST, Make


def trained(model: Path, made: Path, out: Path) -> Path:
    """A model trained for a moment, normalized over the trie."""
    settings = {**FAST, "num_train_epochs": 3, "softmax_over": "trie"}
    train(model, made, out, **settings)
    return out


@pytest.fixture(scope="session")
def made(examples: Make) -> Path:
    """The training examples of the shop."""
    return examples(sequence=1.0)


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, models: Make, made: Path) -> Path:
    """A model whose beams hit now and then."""
    return trained(models("llama"), made, tmp_path_factory.mktemp("tuned") / "model")


@pytest.fixture(scope="session")
def made_lists(examples: Make) -> Path:
    """Training examples of lists, of up to ten items."""
    return examples(list=1.0)


@pytest.fixture(scope="session")
def list_model(tmp_path_factory: pytest.TempPathFactory, models: Make, made_lists: Path) -> Path:
    """A model that writes lists."""
    return trained(models("llama"), made_lists, tmp_path_factory.mktemp("lists") / "model")
