"""Commands that die or find a full disk at any event of the file system leave the old output or the
new one, and the same command then gives the result of an undisturbed run. Of two writers of one
place one wins, and the other one says why it did not.

The first writer pauses at an event of the file system, the second one then runs to its end, and the
first one goes on. So every moment at which they can meet is tried, not a random one."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sidtool.base.storage.conditional import LOCK
from sidtool.training import MACHINE_FILE
from tests.cli import road
from tests.hostile.crash import KILLED, Ended, Fault, run_forked, start_forked
from tests.hostile.harness import NEW_SEEDS, TOTAL_CASES, count
from tests.hostile.writing_commands import (
    Writing,
    heavy_commands,
    light_commands,
    writing_command_names,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

UNFINISHED = re.compile(r"\.partial|\.replaced")
NO_INPUTS = Path("inputs")
LIGHT = sorted(light_commands(NO_INPUTS))
HEAVY = sorted(heavy_commands(NO_INPUTS))
WRITERS = [name for name in LIGHT if light_commands(NO_INPUTS)[name].older]
"""Those that do not write to a registry."""
MODEL_COMMANDS = {name.partition(" ")[0] for name in HEAVY}
QUICK = ("add-items", "make-sft", "push")
"""Commands that `make test` tries: of a bundle, of files, and of a registry."""
SAMPLE: dict[Fault, int] = {"kill": 2, "full": 1, "read-only": 1}
"""Events of a command that `make test` and `make test-slow` try. A million hostile cases try all
events, and fifty of a command that loads a model."""
MOMENTS = 12
"""Events of the first writer at which a million hostile cases let the second one run; `make test`
tries two."""


def tree(folder: Path) -> dict[str, bytes]:
    """As `road.tree`, without times and memory, which no run repeats."""
    files = road.tree(folder)
    return {name: b"" if name.endswith(MACHINE_FILE) else files[name] for name in files}


@dataclass(frozen=True)
class Place:
    """A command, a folder that it writes in, and what is there before and after."""

    writing: Writing
    folder: Path
    older: Path
    """a copy of the folder as it is before"""
    before: dict[str, bytes]
    after: dict[str, bytes]
    events: dict[Fault, int]
    """the number of events that a fault can hit in an undisturbed run"""

    def reset(self) -> None:
        """Put the older output back."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.older, self.folder)

    def run(self, fault: Fault = "none", at: int = 0) -> Ended:
        """Run the command, with --force if its output exists."""
        force = ("--force",) if (self.folder / self.writing.out).exists() else ()
        return run_forked(self.writing.line(self.folder, *force), self.folder, fault, at)


def place(writing: Writing, inputs: Path, folder: Path, *, old: bool) -> Place:
    """A place with an older output, or none, and the results of an undisturbed run."""
    work, older = folder / "work", folder / "older"
    work.mkdir()
    if not writing.older:
        shutil.copytree(inputs / "registry" / "shop", work / writing.out)
    elif old:
        assert run_forked(writing.older_line(work), work).code == 0
    shutil.copytree(work, older)
    new = Place(writing, work, older, tree(work), {}, {})
    ended = new.run()
    assert ended.code == 0, ended.err
    after = tree(work)
    assert new.before != after
    events: dict[Fault, int] = {"kill": ended.events, "full": ended.growing}
    events["read-only"] = ended.creating
    return Place(writing, work, older, new.before, after, events)


def visible(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of outputs, without those of unfinished work."""
    hidden = {name for name in files if UNFINISHED.search(name) or name.endswith(LOCK)}
    return {name: data for name, data in files.items() if name not in hidden}


def points(fault: Fault, place: Place, seed: str) -> Iterator[int]:
    """The events to try: the last one, and a random one of each of equal stretches."""
    events = place.events[fault]
    loads_model = place.writing.command[0] in MODEL_COMMANDS
    per_case = 20_000 if loads_model else 1_000
    more = TOTAL_CASES // per_case if NEW_SEEDS else 0
    sample = min(events, max(SAMPLE[fault], more))
    draw = Random(None if NEW_SEEDS else seed)
    for number in range(sample):
        first = number * events // sample
        last = (number + 1) * events // sample - 1
        yield 1 + (last if number == sample - 1 else draw.randint(first, last))


def check_between(place: Place, *, moved: bool) -> None:
    """What a reader sees after a fault: the old output, the new one, or none if the old one was
    being replaced."""
    seen, before = visible(tree(place.folder)), visible(place.before)
    if seen in (before, visible(place.after)):
        return
    assert moved, sorted(seen)
    if not place.writing.older:  # a registry: objects may be there that no record names
        assert before.items() <= seen.items()
    elif place.writing.out == "train.jsonl":  # the lineage completes the examples
        assert not any(name.endswith(".meta.json") for name in seen)
    else:
        assert seen == {}


def check_fault(place: Place, fault: Fault, seed: str) -> None:
    """Let the command die or find a full disk at its events, and run it again."""
    registry_or_lines = not place.writing.older or place.writing.out == "train.jsonl"
    for at in points(fault, place, seed):
        place.reset()
        ended = place.run(fault, at)
        # threads of Zarr may race to make a folder: a killed command had fewer events. An event on
        # a full disk may be no loss, as the sync of a folder
        if ended.code == 0:
            check_result(place, at)
            continue
        if fault == "kill":
            assert ended.code == KILLED, ended
        else:
            check_error(place, fault, ended)
        check_between(place, moved=fault == "kill" or registry_or_lines)
        if fault != "kill" and not place.writing.resumes and place.writing.older:
            assert tree(place.folder) == place.before, at
        again = place.run()
        assert again.code == 0, (at, again.err)
        check_result(place, at)
        count(refused=fault != "kill")


def check_error(place: Place, fault: Fault, ended: Ended) -> None:
    """A command that found a full disk says so in one line, and names the file."""
    assert ended.code == 1, ended
    error, _, hint = ended.error.partition("\n")
    assert error.startswith("error: "), ended.err
    reason = "read-only file system" if fault == "read-only" else "no space left on device"
    assert reason in error.lower(), ended.err
    assert str(place.folder) in error, ended.err
    assert not hint or hint.startswith("hint: ")
    assert "Traceback" not in ended.err


def check_result(place: Place, at: int) -> None:
    """The folder is as an undisturbed run leaves it."""
    seen, expected = tree(place.folder), place.after
    if not place.writing.older:
        seen, expected = visible(seen), visible(expected)
    assert sorted(seen) == sorted(expected), at
    assert [name for name in seen if seen[name] != expected[name]] == [], at


def slow_beside_quick(commands: Iterable[str]) -> list[Any]:
    """Parameters of a test, of which `make test` tries those of QUICK."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=() if name in QUICK else slow) for name in commands]


def command_of(request: pytest.FixtureRequest, name: str) -> tuple[Writing, Path]:
    """A command, and the folder of its inputs, of which those with models are made last."""
    folder = request.getfixturevalue("inputs" if name in LIGHT else "models")
    return (light_commands if name in LIGHT else heavy_commands)(folder)[name], folder


@pytest.mark.parametrize("name", slow_beside_quick((*LIGHT, *HEAVY)))
def test_faults_leave_the_old_output_or_the_new(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    """Without an older output in `make test-hostile` only."""
    writing, inputs = command_of(request, name)
    for old in (True, False) if NEW_SEEDS else (True,):
        base = tmp_path / str(old)
        base.mkdir()
        where = place(writing, inputs, base, old=old)
        for fault in SAMPLE:
            check_fault(where, fault, name)


def test_every_command_that_writes_is_tested() -> None:
    names = {name.partition(" ")[0] for name in (*LIGHT, *HEAVY)}  # without the variants
    assert names == writing_command_names()


def outcome(writing: Writing, folder: Path) -> tuple[Ended, dict[str, bytes]]:
    """How an undisturbed command ends, and what it writes."""
    folder.mkdir()
    ended = run_forked(writing.line(folder), folder)
    assert ended.code == 0, ended.err
    return ended, tree(folder)


def check_pair(first: Writing, folder: Path, seed: str) -> None:
    """Let the command that makes the older output run at moments of the other one."""
    second = replace(first, command=first.older)
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


@pytest.mark.parametrize("name", slow_beside_quick((*WRITERS, *HEAVY)))
def test_one_of_two_writers_wins_whole(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    check_pair(command_of(request, name)[0], tmp_path, name)
