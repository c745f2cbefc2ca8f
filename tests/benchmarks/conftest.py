"""The scripts of `benchmarks/` as modules, sidtool's commands run in this process, and a data set,
an encoder and a recipe of the smallest size."""

import sys
from pathlib import Path
from typing import TextIO

import pytest
import yaml

from tests.cli.road import catalog, interactions, run
from tests.encoders import tiny_encoder

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run steps in this process, which saves the imports of each; returns the names of the
    commands that ran."""
    from sidtool.recipes import Ran, steps

    names: list[str] = []

    def run_in_process(arguments: list[str], stdout: TextIO) -> Ran:
        names.append(arguments[0])
        result = run(*arguments)
        sys.stderr.write(result.err)
        stdout.write(result.out)
        return Ran(result.code)

    monkeypatch.setattr(steps, "run_process", run_in_process)
    return names


CONFIGS = {
    "codebook": {"levels": "4x4x8", "begin_end_tokens": False},
    "model": {
        "preset": "neox-tiny",
        "vocab_size": 300,
        "set": ["hidden_size=16", "num_attention_heads=2", "num_hidden_layers=1"],
    },
    "sft": {"task": {"sequence": 1}, "history_length": 10, "max_length": 64},
    "train": {
        "num_train_epochs": 1,
        "softmax_over": "trie",
        "distill_weight": 0.8,
        "eval_users": 8,
    },
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    catalog(folder / "items.jsonl")
    interactions(folder / "interactions.csv")
    (tmp_path / "plain").mkdir()
    tiny_encoder(tmp_path / "plain", tmp_path / "encoder")
    return folder


@pytest.fixture
def rated_data(data: Path) -> Path:
    """The data set with real times and a rating of each event, and a table of its users' ages."""
    path = data / "interactions.csv"
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    lines = []
    for number, row in enumerate(rows):
        user, item, time = row.split(",")
        lines.append(f"{user},{item},{880_000_000 + 40 * int(time)},{number % 5 + 1}")
    path.write_text("\n".join([f"{header},rating", *lines]) + "\n", encoding="utf-8")
    users = sorted({row.split(",")[0] for row in rows})
    table = [f"{user},{18 + number}" for number, user in enumerate(users)]
    (data / "users.csv").write_text("\n".join(["user_id,age", *table]) + "\n", encoding="utf-8")
    return data


@pytest.fixture
def recipe_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    folder.mkdir()
    for name, config in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder
