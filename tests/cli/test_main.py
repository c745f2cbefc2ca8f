"""The list of commands, and the printing of users' text on the terminal."""

import re

import pytest

from sidtool.cli.main import PANELS, app
from sidtool.cli.terminal.console import note, say_table
from tests.cli.road import done


def test_help_lists_every_command_in_one_panel() -> None:
    listed = [name for commands in PANELS.values() for name in commands]
    assert len(listed) == len(set(listed)) == len(app.registered_commands)
    text = done("--help").out
    positions = [text.index(f"─ {panel} ─") for panel in PANELS]
    assert positions == sorted(positions)
    for command in app.registered_commands:
        assert re.search(rf"^│ {command.name} ", text, flags=re.MULTILINE), command.name


def test_every_command_has_one_help_sentence() -> None:
    for command in app.registered_commands:
        text = " ".join((command.callback.__doc__ or "").split())
        assert text.endswith("."), command.name


def test_square_brackets_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[red]title[/] [link]"
    note(text, label="error:", style="bold red")
    say_table([text, "n"], [(text, 1)], title=text)
    captured = capsys.readouterr()
    assert captured.err == f"error: {text}\n"
    assert captured.out.count(text) == 3


def test_options_of_the_catalog_are_in_the_panel_of_inputs() -> None:
    text = done("build-codebook", "--help").out
    panel = text[text.index("─ Data ─") : text.index("─ Quantizer ─")]
    for option in ("--embeddings", "--id-column", "--title-column"):
        assert f" {option} " in panel
