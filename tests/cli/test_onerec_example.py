"""Every command of examples/recipes/onerec/run.sh, run in order on a small shop."""

import json
import shlex
from pathlib import Path

import pytest

from sidtool.data.split.files import read_split
from sidtool.model.contract.folder import read_contract
from sidtool.model.contract.stage_record import ModelReference, RlParams
from tests.cli.road import Road, done
from tests.cli.test_lists import session_events

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "recipes" / "onerec"
SHORT = ("--set", "eval_users=5", "--set", "num_train_epochs=1")
SMALLER = {
    "init-model": ["--set", "hidden_size=16", "--set", "num_attention_heads=2"],
    "train": [*SHORT, "--set", "eval_steps=0.5", "--set", "save_steps=0.5"],
    "rl": [*SHORT, "--set", "candidate_lists=2", "--set", "per_device_train_batch_size=16"],
}
"""What keeps the commands of the example short."""


@pytest.mark.slow
def test_every_command_of_the_example_runs(road: Road, tmp_path: Path) -> None:
    text = (EXAMPLE / "run.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    events = session_events(road, tmp_path / "events.csv")
    codebook = tmp_path / "codebook.yaml"
    settings = (EXAMPLE / "codebook.yaml").read_text(encoding="utf-8")
    title = 'text_template: "{movie_title} ({release_year}): {class}"\n'
    codebook.write_text(settings.replace(title, ""), encoding="utf-8")
    replaced = {
        '"$ratings"': str(events),
        '"$films"': str(road.items),
        '"$here/codebook.yaml"': str(codebook),
        '--encoder "$encoder"': f"--embeddings {road.vectors} --levels 4x4x8",
        "$here": str(EXAMPLE),
    }
    for name, value in replaced.items():
        text = text.replace(name, value)
    names = []
    for line in map(str.strip, text.splitlines()):
        command = line.partition("|| ")[2] if line.startswith("[ -e") else line
        if command.startswith("sidtool "):
            name, *words = shlex.split(command.partition(" > ")[0])[1:]
            names.append(name)
            said = done(name, *map(_in(tmp_path), words), *SMALLER.get(name, []))
    assert names == [
        *("split", "build-codebook", "init-model", "extend-model", "make-sft", "train"),
        *("make-sft", "train", "evaluate-task", "rl", "evaluate-lists"),
    ]
    assert read_split(tmp_path / "split").protocol == "last-session"
    contract = read_contract(tmp_path / "aligned")
    assert [record.stage for record in contract.stages] == ["extend", "full", "rl"]
    assert isinstance(contract.params, RlParams)
    reward_model = ModelReference.of(tmp_path / "reward").to_json()
    assert contract.params.reward_inputs == {"label": reward_model}
    assert [prompt.task for prompt in read_contract(tmp_path / "reward").label_prompts] == [
        "predict-rating"
    ]
    assert contract.list_prompt is not None
    assert contract.list_prompt.list_length == 5
    evaluation = json.loads(said.out)
    assert list(evaluation["systems"]) == [
        *("lists", "top items", "other model", "popularity", "item-knn")
    ]
    assert evaluation["systems"]["lists"]["legal"]["mean"] == 1
    assert evaluation["systems"]["lists"]["repeats"]["mean"] == 0


def _in(folder: Path):  # type: ignore[no-untyped-def]
    """A word of a command, in the folder of the run if it is the name of an artifact."""
    artifacts = ("split", "films.zarr", "base", "base+sid", "sft/train.jsonl", "lists", "aligned")
    artifacts += ("labels/train.jsonl", "reward")
    return lambda word: folder / word if word in artifacts else word
