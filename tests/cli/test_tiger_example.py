"""Every command of examples/recipes/tiger/run.sh, run in order on a small shop, and the recipe of
the benchmarks with an encoder-decoder."""

import json
import shlex
from pathlib import Path

import pytest

from sidtool.model.contract.folder import read_contract
from sidtool.training.settings_file import TRAINING, read_settings
from tests.cli.road import Road, done

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "recipes" / "tiger"
SMALLER = {
    "build-codebook": ["--set", "epochs=2"],
    "init-model": ["--set", "num_layers=1", "--set", "d_ff=32"],
    "train": [
        *("--set", "num_train_epochs=1", "--set", "warmup_steps=0", "--set", "eval_users=5"),
        *("--set", "eval_steps=0.5", "--set", "save_steps=0.5"),
    ],
}
"""What keeps the commands of the example short."""


def test_every_command_of_the_example_runs(road: Road, tmp_path: Path) -> None:
    text = (EXAMPLE / "run.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    replaced = {
        "$data/interactions.csv": str(road.events),
        "$data/items.jsonl": str(road.items),
        '--encoder "$encoder"': f"--embeddings {road.vectors} --levels 4x4x4",
        "$work": str(tmp_path),
        "$here": str(EXAMPLE),
    }
    for name, value in replaced.items():
        text = text.replace(name, value)
    names = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("sidtool "):
            name, *words = shlex.split(line.partition(" > ")[0])[1:]
            names.append(name)
            said = done(name, *words, *SMALLER.get(name, []))
    assert names == [
        *("split", "build-codebook", "init-model", "extend-model", "make-sft", "train"),
        "evaluate",
    ]
    assert json.loads(said.out)["metrics"].keys() >= {"hr@10", "ndcg@10"}
    contract = read_contract(tmp_path / "model")
    assert (contract.kind, contract.user_tokens) == ("encoder-decoder", 2000)
    # three levels and the digit of collisions
    assert contract.space.levels == 4
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert (config["num_heads"], config["d_kv"], config["d_model"]) == (6, 64, 128)


@pytest.mark.parametrize("recipe", ["tiger", "encoder-decoder"])
def test_the_settings_of_a_recipe_are_valid(recipe: str) -> None:
    folder = ROOT / "benchmarks" / "recipes" / recipe
    options, fields = read_settings(TRAINING, folder / "train.yaml", [])
    assert options.sliding_windows in ("all", "drawn")
    assert fields["num_train_epochs"] > 0
