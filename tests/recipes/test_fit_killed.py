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


def start(arguments: tuple[object, ...]) -> subprocess.Popen[bytes]:
    """Start the command in a new process group."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("SIDTOOL_")}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", "sidtool", *map(str, arguments)]
    return subprocess.Popen(
        line,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(arguments: tuple[object, ...]) -> float:
    """Run a command that must exit with 0; returns its seconds."""
    begun = time.monotonic()
    process = start(arguments)
    message, _ = process.communicate(timeout=DEADLOCK)
    assert process.returncode == 0, message.decode()
    return time.monotonic() - begun


def kill(arguments: tuple[object, ...], after: float) -> float | None:
    """Kill a command after this many seconds. Returns None, or the seconds it took if it ended
    before."""
    begun = time.monotonic()
    process = start(arguments)
    try:
        message, _ = process.communicate(timeout=after)
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
