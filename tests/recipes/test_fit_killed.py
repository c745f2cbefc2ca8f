"""SIGKILL of `sidtool fit` at random moments: the same command then ends with the same result."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from sidtool.base.digests import file_digest
from sidtool.tokenizer.bundle import Bundle, verify
from tests.recipes.conftest import Shop
from tests.waiting import DEADLOCK

KILLS = 20


def run(arguments: tuple[object, ...], limit: float = DEADLOCK) -> float | None:
    """Run a command in a new process group. Returns its seconds, or None if it took longer than the
    limit and was killed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SIDTOOL_")}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", "sidtool", *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    begun = time.monotonic()
    process = subprocess.Popen(line, env=env, start_new_session=True, **pipes)
    try:
        message, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    assert process.returncode == 0, message.decode()
    return time.monotonic() - begun


def bundle_digest(path: Path) -> str:
    """The identity of a complete, verified bundle."""
    assert verify(path) == []
    return Bundle.open(path).identity.digest


def result(folder: Path) -> object:
    """Split, bundle, weights, choices and metrics of a road, without its times."""
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    model = folder / "model+memory"
    return (
        (folder / "split" / "split.json").read_bytes(),
        file_digest(folder / "sft" / "train.jsonl"),
        bundle_digest(folder / "bundle.zarr"),
        bundle_digest(model / "sid.zarr"),
        file_digest(model / "model.safetensors"),
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
    lasts = run((*words, whole))
    assert lasts is not None
    draw = Random(0)
    killed = 0
    while killed < KILLS:
        # each run continues the one before, so the moments lie all over the road
        if run((*words, out), draw.uniform(0, lasts / 4)) is None:
            killed += 1
        else:
            shutil.rmtree(out)  # it had ended: another road is killed
    assert run((*words, out)) is not None
    assert result(out) == result(whole)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
