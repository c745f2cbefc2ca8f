import json
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from threading import Event
from typing import TextIO

import fsspec
import pytest

from sidtool.base.errors import UsageError
from sidtool.recipes import Ran, StepError, Steps
from sidtool.recipes.steps import Step, run_process, shell_script


@pytest.fixture
def ran() -> list[list[str]]:
    return []


def make_steps(work: Path, ran: list[list[str]], code: int = 0, **options: bool) -> Steps:
    """Steps whose commands write their last argument as a file, unless they fail."""

    def run_command(arguments: list[str], stdout: TextIO) -> Ran:
        ran.append(arguments)
        stdout.write("{}")
        if code == 0:
            Path(arguments[-1]).write_text(" ".join(arguments))
        return Ran(code, [f"warning of {arguments[0]}"])

    return Steps(work, run_command, **options)


def test_a_finished_step_is_not_run_again(tmp_path: Path, ran: list[list[str]]) -> None:
    output = tmp_path / "a" / "out"
    for _ in range(2):
        steps = make_steps(tmp_path, ran)
        steps.run(output, "make", "--seed", 1, output)
        assert steps.warnings == ["warning of make"]
    assert ran == [["make", "--seed", "1", str(output)]]


def test_runs_beside_each_other_share_a_step(tmp_path: Path, ran: list[list[str]]) -> None:
    output = tmp_path / "out"
    first_runs, second_asks = Event(), Event()

    def run_command(arguments: list[str], stdout: TextIO) -> Ran:
        ran.append(arguments)
        first_runs.set()
        assert second_asks.wait(60)
        output.write_text("made")
        return Ran(0)

    def second() -> Path:
        second_asks.set()
        return Steps(tmp_path, run_command).run(output, "make", output)

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(Steps(tmp_path, run_command).run, output, "make", output)
        assert first_runs.wait(60)
        other = threads.submit(second)
        assert one.result() == other.result() == output
    assert ran == [["make", str(output)]]


def test_what_something_else_made_is_refused(tmp_path: Path, ran: list[list[str]]) -> None:
    config, first, second = (tmp_path / name for name in ("config.yaml", "first", "second"))
    config.write_text("levels: 4x4")

    def run(seed: int) -> None:
        steps = make_steps(tmp_path, ran)
        steps.run(first, "make", config, "--seed", seed, first)
        steps.run(second, "use", first, second)

    run(1)
    with pytest.raises(StepError, match=r"made with \['1'\], but this run has \['2'\]"):
        run(2)
    second.write_text("by hand")
    with pytest.raises(StepError, match="changed since it was made"):
        run(1)
    first.unlink()
    with pytest.raises(StepError, match="second was made with"):
        run(2)
    config.write_text("levels: 8x8")
    with pytest.raises(StepError, match="digest"):
        run(2)
    (tmp_path / "other").write_text("by hand")
    with pytest.raises(StepError, match="no step made it"):
        make_steps(tmp_path, ran).run(tmp_path / "other", "make", tmp_path / "other")


def test_steps_that_replace_repeat_what_depends_on_a_change(
    tmp_path: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, other = tmp_path / "config.yaml", tmp_path / "other.yaml"
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))

    def run() -> list[str]:
        ran.clear()
        steps = make_steps(tmp_path, ran, replaces=True)
        steps.run(first, "make-first", "--config", config, first)
        steps.run(second, "make-second", "--config", other, second)
        steps.run(third, "make-third", second, third)
        return [arguments[0] for arguments in ran]

    config.write_text("a")
    other.write_text("a")
    assert run() == ["make-first", "make-second", "make-third"]
    assert run() == []
    config.write_text("b")
    assert run() == ["make-first"]  # nothing reads it
    other.write_text("b")
    # the second output has the same content as before
    assert run() == ["make-second"]
    second.write_text("by hand")
    assert run() == ["make-second"]
    third.unlink()
    assert run() == ["make-third"]
    monkeypatch.setattr("sidtool.recipes.steps.__version__", "another")
    assert run() == ["make-first", "make-second", "make-third"]


def test_an_output_that_has_an_input_in_it_is_not_made_again(
    tmp_path: Path, ran: list[list[str]]
) -> None:
    cleaned = tmp_path / "data"
    cleaned.mkdir()
    (cleaned / "items.csv").write_text("item_id,title")
    for source in (cleaned / "items.csv", cleaned / "*.csv"):
        with pytest.raises(UsageError, match=r"data contains the input .*items\.csv"):
            make_steps(tmp_path, ran, replaces=True).run(cleaned, "check", source, "--fix", cleaned)
    assert (cleaned / "items.csv").exists()
    assert ran == []


def test_changed_urls_and_patterns_repeat_their_step(tmp_path: Path, ran: list[list[str]]) -> None:
    store, local = fsspec.filesystem("memory"), tmp_path / "events-1.csv"

    def commands() -> int:
        sources = (Path("memory://shop/items.csv"), tmp_path / "events-*.csv")
        make_steps(tmp_path, ran, replaces=True).run(tmp_path / "out", *sources, tmp_path / "out")
        return len(ran)

    store.pipe_file("/shop/items.csv", b"a")
    local.write_text("a")
    assert [commands(), commands()] == [1, 1]
    store.pipe_file("/shop/items.csv", b"changed")
    assert commands() == 2
    local.write_text("changed")
    assert commands() == 3


def test_a_variable_of_a_step_counts_as_its_option(
    tmp_path: Path, ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    step = Step("make", ("make-it", output), output)
    plain = shell_script([step], "fit")
    monkeypatch.setenv("SIDTOOL_MAKE_SEED", "1")  # of the command `make`
    monkeypatch.setenv("SIDTOOL_TOKEN", "secret")
    monkeypatch.setenv("SIDTOOL_MAKE_IT_RATE", "")  # as if it were not set
    monkeypatch.setenv("SIDTOOL_MAKE_IT_VERBOSE", "1")
    assert shell_script([step], "fit") == plain
    make_steps(tmp_path, ran).do(step)
    monkeypatch.setenv("SIDTOOL_MAKE_IT_SEED", "7 8")
    assert f"env 'SIDTOOL_MAKE_IT_SEED=7 8' sidtool make-it {output}" in shell_script([step], "fit")
    with pytest.raises(StepError, match=r"this run has \['SIDTOOL_MAKE_IT_SEED=7 8'\]"):
        make_steps(tmp_path, ran).do(step)
    monkeypatch.delenv("SIDTOOL_MAKE_IT_SEED")
    make_steps(tmp_path, ran).do(step)
    assert len(ran) == 1


def test_a_failed_step_runs_again_and_its_time_counts(tmp_path: Path, ran: list[list[str]]) -> None:
    output = tmp_path / "out"
    with pytest.raises(StepError, match="exit code 3") as raised:
        make_steps(tmp_path, ran, code=3).run(output, "make", output)
    assert raised.value.exit_code == 3
    make_steps(tmp_path, ran).run(output, "make", output)
    record = json.loads((tmp_path / "steps" / "out.json").read_text())
    assert len(ran) == len(record["seconds"]) == 2


def test_saved_output_appears_only_when_the_command_succeeds(
    tmp_path: Path, ran: list[list[str]]
) -> None:
    output = tmp_path / "metrics.json"
    with pytest.raises(StepError):
        make_steps(tmp_path, ran, code=1).run(output, "evaluate", saves_stdout=True)
    assert not output.exists()
    make_steps(tmp_path, ran).run(output, "evaluate", tmp_path / "log", saves_stdout=True)
    assert output.read_text() == "{}"


def test_a_work_folder_may_be_moved(tmp_path: Path, ran: list[list[str]]) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    make_steps(before, ran).run(before / "out", "make", before / "out")
    before.rename(after)
    make_steps(after, ran).run(after / "out", "make", after / "out")
    assert len(ran) == 1


def test_a_command_runs_in_its_own_process(tmp_path: Path) -> None:
    with (tmp_path / "version.txt").open("w") as stream:
        assert run_process(["--version"], stream) == Ran(0)
    assert (tmp_path / "version.txt").read_text().strip()
    assert run_process(["--version"], StringIO()) == Ran(0)  # as in a captured cell of a notebook
