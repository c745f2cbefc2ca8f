"""SIGKILL at any moment leaves the old output or none, and the same command then gives the result
of an uninterrupted run.

Each command runs once to its end, for its duration and result. Then it is killed repeatedly at
random moments, each run resuming from the one before, and at last it runs to its end.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from safetensors.numpy import load_file

from sidtool.tokenizer.bundle import Bundle, verify
from tests.cli.road import Road, done, walk, write_lines
from tests.encoders import tiny_encoder
from tests.waiting import DEADLOCK

pytestmark = pytest.mark.slow

TEXTS = 1500  # six blocks of texts, so that there is something to resume
KINDS = ("lamp", "soap", "novel", "kettle", "chair", "apron")


@dataclass(frozen=True)
class Case:
    """A command without its `-o OUT`, the command that makes an older output, and how to read the
    output."""

    command: tuple[object, ...]
    older: tuple[object, ...]
    read: Callable[[Path], Any]


def read_bundle(path: Path) -> Any:
    """The identity of a complete, verified bundle."""
    assert verify(path) == []
    return Bundle.open(path).identity.digest


def read_model(path: Path) -> Any:
    """Weights, contract and verified bundle of a model folder."""
    weights = load_file(path / "model.safetensors")
    contract = json.loads((path / "sid.json").read_text(encoding="utf-8"))
    assert (path / "tokenizer.json").stat().st_size
    digest = {name: (array.shape, array.tobytes()) for name, array in weights.items()}
    return digest, contract, read_bundle(path / "sid.zarr")


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


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    return walk(tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="module")
def cases(road: Road, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    encoder = tiny_encoder(tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder"))
    texts = (
        {"item_id": f"i{n}", "title": f"{KINDS[n % 6]} {n} " + "very " * (n % 9)}
        for n in range(TEXTS)
    )
    items = write_lines(road.folder / "many.jsonl", texts)
    build = ("build-codebook", items, "--levels", "16x16x16", "--encoder", encoder)
    extend, train = ("extend-model", road.base), ("train", road.model, road.examples)
    steps = ("--set", "per_device_train_batch_size=4", "--set", "eval_users=8")
    often = [f"{what}_{how}" for what in ("save", "eval") for how in ("strategy=steps", "steps=4")]
    wide = tuple(word for setting in often for word in ("--set", setting))
    return {
        "build-codebook": Case(build, (*build, "--seed", 5), read_bundle),
        "extend-model": Case((*extend, road.bundle), (*extend, road.other), read_model),
        "train": Case(
            (*train, *steps, *wide, "--set", "num_train_epochs=3"),
            (*train, "--set", "num_train_epochs=1", "--set", "eval_users=8"),
            read_model,
        ),
    }


def kill_points(seed: int, kills: int, earliest: float) -> Iterator[float]:
    """One random moment in each of equal stretches of a run, as a share of its duration."""
    draw = Random(seed)
    for at in range(kills):
        yield earliest + (1 - earliest) * (at + draw.random()) / kills


@pytest.fixture(scope="module")
def whole(
    cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[float, Any]]:
    """The seconds and the result of an uninterrupted run of a command, measured once."""

    @cache
    def run(command: str) -> tuple[float, Any]:
        out = tmp_path_factory.mktemp("whole") / "out"
        lasts = finish((*cases[command].command, "-o", out))
        return lasts, cases[command].read(out)

    return run


def put_back(older: Path, out: Path) -> None:
    """Restore the output as it was before the command: the older one, or none."""
    if out.exists():
        shutil.rmtree(out)
    if older.exists():
        shutil.copytree(older, out)


def check_kills(
    case: Case,
    folder: Path,
    whole: tuple[float, Any],
    *,
    seed: int,
    kills: int,
    earliest: float,
    old: bool,
) -> None:
    """Check one command, with or without an older output in its place."""
    lasts, expected = whole
    out, older, before = folder / "out", folder / "older", None
    if old:
        done(*case.older, "-o", older)
        before = case.read(older)
        assert before != expected
    put_back(older, out)
    for share in kill_points(seed, kills, earliest):
        for _ in range(5):
            force = ("--force",) if out.exists() else ()
            ended = kill((*case.command, "-o", out, *force), share * lasts)
            if ended is None:
                break
            lasts = ended  # the machine is quicker now than when the whole run was measured
            put_back(older, out)
        else:
            pytest.fail("no kill met the command alive")
        if out.exists():
            assert case.read(out) in (before, expected)
    force = ("--force",) if out.exists() else ()
    finish((*case.command, "-o", out, *force))
    assert case.read(out) == expected
    assert sorted(path.name for path in folder.iterdir()) == (["older", "out"] if old else ["out"])


COMMANDS = ("build-codebook", "extend-model", "train")
Whole = Callable[[str], tuple[float, Any]]


# tests/hostile/test_crash.py stops commands at their writes
@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_leaves_no_output_or_a_complete_one(
    cases: dict[str, Case], whole: Whole, tmp_path: Path, command: str
) -> None:
    check_kills(cases[command], tmp_path, whole(command), seed=1, kills=1, earliest=0.5, old=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_replacement_leaves_the_old_or_the_new(
    cases: dict[str, Case], whole: Whole, tmp_path: Path, command: str
) -> None:
    check_kills(cases[command], tmp_path, whole(command), seed=2, kills=1, earliest=0.7, old=True)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_killed_many_times_leave_complete_outputs(
    cases: dict[str, Case], whole: Whole, tmp_path: Path, command: str, old: bool
) -> None:
    for seed in range(100, 103):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check_kills(
            cases[command], folder, whole(command), seed=seed, kills=10, earliest=0.0, old=old
        )
