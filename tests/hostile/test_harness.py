"""The harness catches each way in which a command or function can misbehave."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import typer

from sidtool.base.errors import DataError
from sidtool.cli.terminal.console import Commands
from tests.hostile import harness
from tests.hostile.harness import call, classify, is_printable, run


def fail_twice() -> None:
    typer.echo("error: one\nerror: two", err=True)
    raise typer.Exit(1)


def fail_silently() -> None:
    raise typer.Exit(1)


def fail_unusually() -> None:
    typer.echo("error: no", err=True)
    raise typer.Exit(7)


def ring_the_bell() -> None:
    typer.echo("error: \x07 no", err=True)
    raise typer.Exit(1)


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(60)


def take_memory() -> None:
    np.ones(200 << 20, dtype=np.uint8)


def take_all_memory() -> None:
    np.ones(50 << 30, dtype=np.uint8)


def say_error_and_succeed() -> None:
    typer.echo("error: no", err=True)


MISBEHAVIOUR: tuple[Callable[[], None], ...] = (
    fail_twice,
    fail_silently,
    fail_unusually,
    ring_the_bell,
    spin,
    sleep,
    take_memory,
    take_all_memory,
    say_error_and_succeed,
)


@pytest.mark.parametrize("command", MISBEHAVIOUR, ids=lambda each: each.__name__)
def test_a_command_that_misbehaves_is_caught(
    command: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
    app.command()(command)
    app.command("other")(command)
    monkeypatch.setattr("tests.hostile.limits.DEADLOCK", 1.0)  # it sleeps for longer
    monkeypatch.setattr(harness, "_command", lambda: typer.main.get_command(app))
    before = harness.counts["harness"].refused
    with pytest.raises(AssertionError):
        classify(run(command.__name__.replace("_", "-"), seconds=0.1), seconds=0.1)
    assert harness.counts["harness"].refused == before, "it is no case"


def test_an_exception_of_a_command_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
    app.command("a")(lambda: {}["b"])
    app.command("b")(lambda: None)
    monkeypatch.setattr(harness, "_command", lambda: typer.main.get_command(app))
    with pytest.raises(KeyError):
        run("a")
    assert classify(run("b")).code == 0


def test_a_command_reads_stdin_and_no_variable_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIDTOOL_VERIFY_JSON", "1")
    outcome = classify(run("verify", "/nowhere/at-all.zarr"))
    assert (outcome.code, outcome.out, outcome.refused) == (1, "", True)
    assert outcome.error.startswith("no bundle at")


def test_only_an_error_of_sidtool_may_leave_a_function() -> None:
    def refuse() -> None:
        raise DataError("no")

    assert call(refuse) is None
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
