import time
from collections.abc import Callable
from unittest.mock import Mock

import numpy as np
import pytest
import typer

from sidtool.base.errors import DataError
from sidtool.cli.terminal.console import Commands
from tests.hostile import harness
from tests.hostile.harness import call, classify, is_printable, run


def fail(line: str, code: int = 1) -> None:
    if line:
        typer.echo(line, err=True)
    raise typer.Exit(code)


def spin() -> None:
    while True:
        pass


def take_memory() -> None:
    np.ones(200 << 20, dtype=np.uint8)


MISBEHAVIOUR: dict[str, Callable[[], object]] = {
    "fail-twice": lambda: fail("error: one\nerror: two"),
    "fail-silently": lambda: fail(""),
    "fail-unusually": lambda: fail("error: no", 7),
    "ring-the-bell": lambda: fail("error: \x07 no"),
    "spin": spin,
    "sleep": lambda: time.sleep(60),
    "take-memory": take_memory,
    "take-all-memory": lambda: np.ones(50 << 30, dtype=np.uint8),
    "say-error-and-succeed": lambda: fail("error: no", 0),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_a_command_that_misbehaves_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
    app.command(name)(MISBEHAVIOUR[name])
    app.command("raise")(lambda: {}["b"])
    monkeypatch.setattr("tests.hostile.limits.DEADLOCK", 1.0)  # it sleeps for longer
    monkeypatch.setattr(harness, "_command", lambda: typer.main.get_command(app))
    before = harness.counts["harness"].copy()
    with pytest.raises(AssertionError):
        classify(run(name, seconds=0.1), seconds=0.1)
    assert (harness.counts["harness"] == before)[:2].all(), "it is no case"
    with pytest.raises(KeyError):
        run("raise")


def test_only_an_error_of_sidtool_may_leave_a_function() -> None:
    assert call(Mock(side_effect=DataError("no"))) is None
    assert call(int, "7") == 7
    with pytest.raises(ValueError):
        call(int, "x")
    with pytest.raises(AssertionError, match="MiB"):
        call(take_memory)
    call(take_memory, input_bytes=10 << 20)
    with pytest.raises(AssertionError, match="out of time"):
        call(spin, seconds=0.1)


@pytest.mark.parametrize("text", ["\x1b[0m", "\x07", "\x9b", "\u202e", "\ud800", "a\rb", "é\x00"])
def test_control_characters_are_not_printable(text: str) -> None:
    assert not is_printable(text)


def test_letters_of_any_script_are_printable() -> None:
    assert is_printable("a line\nÄ é 漢字 😀 [b]\n")
