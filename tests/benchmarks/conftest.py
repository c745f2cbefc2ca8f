"""The scripts of `benchmarks/` as modules, sidtool's commands run in this process, and a data set,
an encoder and a recipe of the smallest size."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
import yaml

from tests.cli.road import catalog, interactions, run
from tests.cli.test_feedback import rated_events
from tests.encoders import tiny_encoder
from tests.model.cases import save_base
from tests.models import tiny_model, tiny_tokenizer
from tests.recipes.conftest import CONFIGS as SMALLEST

Run = Callable[..., str]
Words = tuple[object, ...]

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


@pytest.fixture
def script(
    commands: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the main function of a script with these words; returns what it printed, or its error
    where another exit code than 0 is expected. With `twice` it runs again, which runs no command;
    `commands` has those of all runs."""

    def run_script(name: str, *words: object, code: int = 0, twice: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        main = importlib.import_module(name).main
        assert (main() or 0) == code
        printed = capsys.readouterr()
        if twice:
            first = commands.copy()
            assert not main()
            assert commands == first
            capsys.readouterr()
        return printed.err if code else printed.out

    return run_script


TRAIN = {"num_train_epochs": 1, "softmax_over": "trie", "distill_weight": 0.8, "eval_users": 8}
CONFIGS = {name: SMALLEST[name] for name in ("codebook", "model", "sft")} | {"train": TRAIN}


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
    events, _ = rated_events(data / "interactions.csv", data)
    return events.rename(data / "interactions.csv").parent


@pytest.fixture
def recipe_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    folder.mkdir()
    for name, config in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def words(data: Path, recipe_folder: Path, tmp_path: Path) -> Words:
    """The words that the scripts which compare recipes share; their work is in "work"."""
    options = ("--recipe", recipe_folder, "--encoder", tmp_path / "encoder")
    return (data, "-o", tmp_path / "work", *options)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny language model."""
    tokenizer = tiny_tokenizer()
    return save_base(tmp_path / "tiny", tiny_model("llama", vocab_size=len(tokenizer)), tokenizer)
