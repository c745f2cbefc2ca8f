"""A shop of the smallest size, a recipe for it, and the road through both, run once."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from sidtool.cli.fit import run_here
from sidtool.recipes import FitOptions, fit
from sidtool.recipes.fitting import Fitted
from tests.cli.road import catalog, interactions
from tests.encoders import tiny_encoder

TRAIN = {"num_train_epochs": 1, "per_device_train_batch_size": 64, "softmax_over": "trie"}
TRAIN |= {"eval_users": 8, "eval_steps": 0.5, "save_steps": 0.5}
TRAIN |= {"eval_strategy": "steps", "save_strategy": "steps"}
CONFIGS = {
    "codebook": {"levels": "4x4x8", "begin_end_tokens": False},
    "model": {
        "preset": "neox-tiny",
        "vocab_size": 300,
        "set": ["hidden_size=16", "num_attention_heads=2", "num_hidden_layers=1"],
    },
    "sft": {"task": {"sequence": 1}, "history_length": 10, "max_length": 64},
    "train": TRAIN,
    "memory": {"tune": True, "users": 20},
}


@dataclass(frozen=True)
class Shop:
    """Two files, a recipe and an encoder."""

    items: Path
    events: Path
    recipe: Path
    encoder: Path

    @property
    def options(self) -> FitOptions:
        """How the shop is fitted."""
        return FitOptions(recipe=str(self.recipe), encoder=str(self.encoder))


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    recipe = folder / "recipe"
    recipe.mkdir()
    for name, config in CONFIGS.items():
        (recipe / f"{name}.yaml").write_text(yaml.safe_dump(config))
    (folder / "plain").mkdir()
    return Shop(
        catalog(folder / "items.jsonl"),
        interactions(folder / "interactions.csv"),
        recipe,
        tiny_encoder(folder / "plain", folder / "encoder"),
    )


@dataclass(frozen=True)
class Finished:
    folder: Path
    fitted: Fitted


@pytest.fixture(scope="session")
def finished(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished") / "out"
    fitted = fit(shop.items, shop.events, folder, shop.options, run_command=run_here)
    return Finished(folder, fitted)
