"""An encoder-decoder model on the command line: trained, queried, measured and merged."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.road import TRAINING, Road, done, refused, write_lines

SHAPE = ("num_layers=1", "num_decoder_layers=1", "d_model=16", "d_ff=32", "num_heads=2", "d_kv=8")
TASKS = ("next-item=1", "title-to-sid=1", "sid-to-title=1")


@pytest.fixture(scope="module")
def trained(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 trained on three tasks for a moment."""
    folder = tmp_path_factory.mktemp("t5")
    shape = [word for value in SHAPE for word in ("--set", value)]
    base = ("init-model", road.items, "--preset", "t5-tiny", "--vocab-size", 512, *shape)
    done(*base, "-o", folder / "base")
    done("extend-model", folder / "base", road.bundle, "-o", folder / "base+sid")
    tasks = [word for task in TASKS for word in ("--task", task)]
    make = ("make-sft", road.bundle, road.items, road.events, "--model", folder / "base+sid")
    done(*make, *tasks, "-o", folder / "train.jsonl")
    train = ("train", folder / "base+sid", folder / "train.jsonl", *TRAINING)
    done(*train, "-o", folder / "tuned")
    return folder / "tuned"


def test_requests_are_answered_by_the_beam(trained: Path, tmp_path: Path) -> None:
    contract = json.loads((trained / "sid.json").read_text())
    assert contract["kind"] == "encoder-decoder"
    history = ("--history", "b001,b002", "--no-exclude-seen")
    ask = ("recommend", trained, *history, "-k", 60, "--num-beams", 60, "--json")
    ran = done(*ask)
    assert "generate" not in ran.err  # the slow way would be announced
    scores = dict(zip(ran.json["items"], ran.json["scores"], strict=True))
    assert len(scores) == 60
    listed = write_lines(tmp_path / "candidates.txt", ["b005", "b009", "b050"])
    exact = done(*ask[:-5], "-k", 3, "--candidates", listed, "--json").json
    assert set(exact["items"]) == {"b005", "b009", "b050"}
    for item, score in zip(exact["items"], exact["scores"], strict=True):
        assert score == pytest.approx(scores[item], abs=1e-4)
    assert (
        len(done("recommend", trained, "--query", "red lamp", "-k", 7, "--json").json["items"]) == 7
    )


def test_the_model_and_its_tasks_are_measured(road: Road, trained: Path) -> None:
    beams = ("--num-beams", 10, "--json")
    measured = done("evaluate", trained, road.split, *beams).json
    assert 0 <= measured["metrics"]["hr@10"] <= 1
    for task, metric in (("title-to-sid", "exact"), ("sid-to-title", "token_f1")):
        ask = ("evaluate-task", trained, task, "--items", road.items, "--limit", 5)
        value: Any = done(*ask, *beams).json
        assert metric in value["metrics"]
    ask = ("evaluate-task", trained, "item-text", "--items", road.items, "--limit", 5)
    assert "has nothing to encode" in refused(2, *ask)
