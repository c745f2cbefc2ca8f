"""SIGKILL of `sidtool fit` at random moments: the same command then ends with the same result."""

import json
import shutil
from pathlib import Path
from random import Random

import pytest

from tests.recipes.conftest import Shop
from tests.test_kill import finish, kill, read_bundle, read_model

KILLS = 20


def result(folder: Path) -> object:
    """Split, bundle, weights, choices and metrics of a road, without its times."""
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return (
        (folder / "split" / "split.json").read_bytes(),
        (folder / "sft" / "train.jsonl").read_bytes(),
        read_bundle(folder / "bundle.zarr"),
        read_model(folder / "model+memory")[0],
        json.loads((folder / "budget.json").read_text(encoding="utf-8"))["choices"],
        (evaluation["metrics"], evaluation["baselines"], evaluation["verdict"]),
    )


@pytest.mark.slow
def test_fit_that_is_killed_at_random_moments_ends_with_the_same(
    shop: Shop, tmp_path: Path
) -> None:
    # so long that every run has the time for all epochs
    words = ("fit", shop.items, shop.events, "--recipe", shop.recipe, "--minutes", 600)
    words = (*words, "--encoder", shop.encoder, "-o")
    whole, out = tmp_path / "whole", tmp_path / "out"
    lasts = finish((*words, whole))
    draw = Random(0)
    killed = 0
    while killed < KILLS:
        # each run continues the one before, so the moments lie all over the road
        if kill((*words, out), draw.uniform(0, lasts / 4)) is None:
            killed += 1
        else:
            shutil.rmtree(out)  # it had ended: another road is killed
    finish((*words, out))
    assert result(out) == result(whole)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
