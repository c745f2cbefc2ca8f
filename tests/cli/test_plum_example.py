"""Every command of examples/recipes/plum/run.sh, run in order on a small shop with the columns of
MovieLens."""

import json
import shlex
from pathlib import Path

import pytest

from sidtool.examples.example_file import read_training_examples
from sidtool.examples.lineage import read_lineage
from sidtool.model.contract.folder import read_contract
from sidtool.model.contract.stage_record import TrainParams
from tests.cli.road import Road, done, write_lines
from tests.cli.test_feedback import rated_events

EXAMPLE = Path(__file__).parents[2] / "examples" / "recipes" / "plum"
SMALLER = {
    "build-codebook": ["--set", "epochs=2", "--levels", "16x8x4"],
    "make-sft": ["--history-length", "3"],
    "train": [
        *("--set", "token_budget=2000", "--set", "eval_users=5", "--set", "eval_steps=0.5"),
        *("--set", "save_steps=0.5"),
    ],
}
"""What keeps the commands of the example short."""


def movie_files(road: Road, folder: Path) -> dict[str, Path]:
    """The shop's items, rated events and users as the files that the script names."""
    events, ages = rated_events(road, folder)
    lines = road.items.read_text(encoding="utf-8").splitlines()
    films = [
        {
            "item_id": item["item_id"],
            "movie_title": item["title"],
            "release_year": 1990,
            "class": item["title"].split()[1],
        }
        for item in map(json.loads, lines)
    ]
    header, *rows = ages.read_text(encoding="utf-8").splitlines()
    jobs = [f"{row},{('writer', 'artist')[n % 2]}" for n, row in enumerate(rows)]
    return {
        "$films": write_lines(folder / "films.jsonl", films),
        "$ratings": events,
        "$general": write_lines(
            folder / "general.jsonl", ({"text": f"General text {n}."} for n in range(40))
        ),
        "$users": write_lines(folder / "jobs.csv", [f"{header},occupation", *jobs]),
    }


def commands_of_the_example(road: Road, files: dict[str, Path]) -> list[list[str]]:
    """The commands of the script, on these files in place of MovieLens."""
    text = (EXAMPLE / "run.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    replaced = {
        '${general:+--general "$general"}': f"--general {files['$general']}",
        **{name: str(path) for name, path in files.items()},
        "$model": str(road.base),
        "$here": str(EXAMPLE),
        '--encoder "$encoder"': f"--embeddings {road.vectors}",
    }
    for name, value in replaced.items():
        text = text.replace(name, value)
    # a step is left out if its output is there: [ -e OUTPUT ] || sidtool ...
    lines = [line.partition(" || ")[2] or line for line in map(str.strip, text.splitlines())]
    return [
        shlex.split(line.partition(" > ")[0])[1:] for line in lines if line.startswith("sidtool ")
    ]


@pytest.mark.slow
def test_every_command_of_the_example_runs(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for name, *words in commands_of_the_example(road, movie_files(road, tmp_path)):
        names.append(name)
        said = done(name, *words, *SMALLER.get(name, []))
    assert names == [
        *("split", "build-codebook", "extend-model", "make-sft", "make-sft", "train", "evaluate")
    ]
    assert said.json["by"]["feedback.rating"]

    # continued pre-training: behavior and metadata have the same number of tokens, general text a
    # fifth of all
    lineage = read_lineage(Path("cpt/train.jsonl"))
    shares = {task: counts.share for task, counts in lineage.tasks.items()}
    assert shares == pytest.approx(
        {"history-text": 0.4, "item-text": 0.4, "general-text": 0.2}, abs=0.01
    )
    texts = [example["text"] for example in read_training_examples(Path("cpt/train.jsonl"))]
    assert any("class: lamp" in text for text in texts)

    contract = read_contract(Path("model"))
    stages = [record.params for record in contract.stages[-2:]]
    assert all(isinstance(params, TrainParams) for params in stages)
    assert [set(params.task_weights) for params in stages] == [  # type: ignore[union-attr]
        {"history-text", "item-text"},
        {"sequence"},
    ]
    cpt, fine_tuning = stages
    assert isinstance(cpt, TrainParams)
    assert isinstance(fine_tuning, TrainParams)
    assert fine_tuning.forgetting is None
    assert cpt.forgetting is not None
    assert cpt.forgetting.examples == 2
    for model, recorded in (
        ("base+sid", cpt.forgetting.before),
        ("model-1-full", cpt.forgetting.after),
    ):
        measured = done("evaluate-task", model, "general-text", "cpt/general.jsonl", "--json")
        assert measured.json["metrics"]["perplexity"] == pytest.approx(recorded, rel=1e-4)
    assert "before" in Path("model/README.md").read_text(encoding="utf-8")
    assert contract.history_prompt is not None
    assert "{user.occupation}" in contract.history_prompt.template
    assert contract.space.sizes == (16, 8, 4)
