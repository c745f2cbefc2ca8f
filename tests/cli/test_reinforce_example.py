"""Every command of examples/reinforce/run.sh, run in order on a small shop."""

import shlex
from pathlib import Path

import pytest

from tests.cli.road import Road, done, link, rated

EXAMPLE = Path(__file__).parents[2] / "examples" / "reinforce"


def commands(replaced: dict[str, str]) -> list[list[str]]:
    """The words of each command, with variables and paths replaced."""
    text = (EXAMPLE / "run.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    for name, value in replaced.items():
        text = text.replace(name, value)
    lines = (line.strip() for line in text.splitlines())
    return [shlex.split(line)[1:] for line in lines if line.startswith("sidtool ")]


@pytest.mark.slow
def test_every_command_of_the_example_runs(road: Road, tmp_path: Path) -> None:
    made = {"bundle.zarr": road.bundle, "model": road.tuned, "split": road.split}
    link(tmp_path, {**made, "sft": road.folder})
    ratings = rated(road.events, tmp_path / "ratings.csv")
    replaced = {
        "$data/items.csv": str(road.items),
        "$data/events.csv": str(ratings),
        "$work": str(tmp_path),
        "$here": str(EXAMPLE),
        "/$model": "/weighted",
    }
    ran = commands(replaced)
    names = ["rl", "train", "split", "make-sft", "train", "evaluate"]
    assert [words[0] for words in ran] == names
    outputs = [done(*words).out for words in ran]
    assert "weight exp(rating/1): 2.72 to 54.6" in outputs[3]
    assert "other model" in outputs[-1]
