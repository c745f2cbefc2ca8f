"""Two commands that write to one place: one of them wins, and the other one says why it did not.

The first command pauses at an event of the file system, the second one then runs to its end, and
the first one goes on. So every moment at which they can meet is tried, not a random one.
"""

import os
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import pytest

from tests.cli.road import tree
from tests.hostile.crash import Ended, run_forked, start_forked
from tests.hostile.harness import TOTAL_CASES, count
from tests.hostile.writing_commands import Writing, heavy_commands, light_commands

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

ZIP = "build-codebook to zip"
NO_INPUTS = Path("inputs")
LIGHT = sorted(name for name, case in light_commands(NO_INPUTS).items() if case.older)
HEAVY = sorted(heavy_commands(NO_INPUTS))
PAIRS = [
    ("build-codebook", "build-codebook"),
    ("make-sft", "make-sft"),
    ("export flashrec", "split"),
]
"""Pairs that `make test` tries."""
SLOW_PAIRS = [pair for pair in product(LIGHT, LIGHT) if pair not in PAIRS and pair.count(ZIP) != 1]
HEAVY_PAIRS = [
    *((name, name) for name in HEAVY),
    *(("split", name) for name in HEAVY),
    *((name, "split") for name in HEAVY),
]
MOMENTS = 12
"""Events of the first command, of each pair, at which a million hostile cases let the second one
run; `make test` tries two."""


def outcome(writing: Writing, folder: Path) -> tuple[Ended, dict[str, bytes]]:
    """How an undisturbed command ends, and what it writes."""
    folder.mkdir()
    ended = run_forked(writing.line(folder), folder)
    assert ended.code == 0, ended.err
    return ended, tree(folder)


def check_pair(first: Writing, second: Writing, folder: Path, seed: str) -> None:
    """Let the second command run at moments of the first one."""
    if first.older == second.older:  # the same command: with another result
        second = replace(second, command=second.older)
    out = first.out if first.out.endswith(".zip") else "out"
    first, second = replace(first, out=out), replace(second, out=out)
    ended, first_result = outcome(first, folder / "first")
    _, second_result = outcome(second, folder / "second")
    draw = Random(seed)
    moments = max(2, MOMENTS * TOTAL_CASES // 1_000_000)
    for number in range(moments):
        begin, end = (part * ended.events // moments for part in (number, number + 1))
        at = draw.randint(begin + 1, max(begin + 1, end))
        force = ("--force",) if number % 2 else ()
        work = folder / "work"
        work.mkdir()
        check_meeting(first, second, work, at, force, (first_result, second_result))
        shutil.rmtree(work)


def check_meeting(
    first: Writing,
    second: Writing,
    work: Path,
    at: int,
    force: tuple[str, ...],
    results: tuple[dict[str, bytes], dict[str, bytes]],
) -> None:
    """Let both write to a folder, the second one while the first one pauses."""
    process = start_forked(first.line(work, *force), work, "pause", at)
    process.wait_for_pause()
    second_ended = run_forked(second.line(work, *force), work)
    first_ended = process.wait()
    codes = (first_ended.code, second_ended.code)
    assert set(codes) <= {0, 2}, (at, first_ended, second_ended)
    assert 0 in codes, (at, first_ended, second_ended)
    if second_ended.code:
        holder = f"is being written by process {process.pid} on "
        # between taking the lock and describing itself, the first process is "another process"
        reasons = (holder, "is being written by another process", "exists already")
        assert any(reason in second_ended.error for reason in reasons), second_ended
    if first_ended.code:
        assert "exists already" in first_ended.error
    seen = tree(work)
    # with --force, the second one may come before the first one takes the lock, or after it
    winners = [result for result, code in zip(results, codes, strict=True) if code == 0]
    last = next((result for result in winners if result.items() <= seen.items()), None)
    assert last is not None, (at, codes, sorted(seen))
    other = results[1] if last is results[0] else results[0]
    others = {name: data for name, data in seen.items() if name not in last}
    assert others.items() <= (other.items() if 2 not in codes else set()), (at, codes)
    count(refused=2 in codes)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_one_of_two_writers_wins_whole(
    inputs: Path, tmp_path: Path, first: str, second: str
) -> None:
    cases = light_commands(inputs)
    check_pair(cases[first], cases[second], tmp_path, f"{first} {second}")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), SLOW_PAIRS)
def test_one_of_two_writers_wins_whole_for_all_pairs(
    inputs: Path, tmp_path: Path, first: str, second: str
) -> None:
    cases = light_commands(inputs)
    check_pair(cases[first], cases[second], tmp_path, f"{first} {second}")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), HEAVY_PAIRS)
def test_one_of_two_writers_of_models_wins_whole(
    models: Path, tmp_path: Path, first: str, second: str
) -> None:
    cases = light_commands(models) | heavy_commands(models)
    check_pair(cases[first], cases[second], tmp_path, f"{first} {second}")
