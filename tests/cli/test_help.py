import re
import shlex
from functools import cache

import pytest
import typer
from rich.text import Text

from sidtool.cli.command import PANELS
from sidtool.cli.main import PANELS as COMMAND_PANELS
from sidtool.cli.main import app
from tests.cli.road import done, refused

GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)  # type: ignore[attr-defined]


@cache
def help_of(name: str) -> str:
    return done(name, "--help", env={"COLUMNS": "80"}).out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_into_80_columns_with_nothing_cut_off(name: str) -> None:
    text = help_of(name)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "[[" not in text  # an optional argument has one pair of brackets
    assert f"SIDTOOL_{name.replace('-', '_').upper()}_" not in text  # variables of options
    panels = re.findall(r"╭─ (.+?) ─", text)
    common_panels = [panel for panel in panels if panel in PANELS]
    assert common_panels == sorted(common_panels, key=list(PANELS).index)
    assert panels[-1] == "General"
    assert re.search(r"--quiet .* -q .*\n.*--verbose .* -v ", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_option_is_shown_whole(name: str) -> None:
    shown = set(help_of(name).split())
    command = GROUP.commands[name]  # type: ignore[attr-defined]
    command.describe()
    for parameter in command.params:
        assert set((parameter.help or "").split()) <= shown, parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_parses(name: str) -> None:
    command = GROUP.commands[name]  # type: ignore[attr-defined]
    example = Text.from_markup(command.epilog).plain
    program, called, *words = shlex.split(example.removeprefix("Example: "))
    assert (program, called) == ("sidtool", name)
    context = command.make_context(name, words)
    required = [parameter.name for parameter in command.params if parameter.required]
    assert all(context.params[required_name] is not None for required_name in required)
    assert "Example: sidtool" in " ".join(help_of(name).split())


def test_choices_are_spelled() -> None:
    text = "".join(line.strip("│ ") for line in help_of("evaluate").splitlines())
    assert "<test|valid>" in text


def test_the_environment_sets_options_but_none_before_the_command() -> None:
    assert done("settings", "build-codebook", env={"SIDTOOL_INSTALL_COMPLETION": "1"}).out
    assert "give either -q or -v" in refused(2, "settings", "train", "-q", "-v")


def test_help_lists_every_command_in_one_panel() -> None:
    listed = [name for commands in COMMAND_PANELS.values() for name in commands]
    assert len(listed) == len(set(listed)) == len(app.registered_commands)
    text = done("--help").out
    positions = [text.index(f"─ {panel} ─") for panel in COMMAND_PANELS]
    assert positions == sorted(positions)
    for command in app.registered_commands:
        assert re.search(rf"^│ {command.name} ", text, flags=re.MULTILINE), command.name
        assert (command.callback.__doc__ or "").rstrip().endswith("."), command.name


def test_options_of_the_catalog_are_in_the_panel_of_inputs() -> None:
    text = done("build-codebook", "--help").out
    panel = text[text.index("─ Data ─") : text.index("─ Quantizer ─")]
    for option in ("--embeddings", "--id-column", "--title-column"):
        assert f" {option} " in panel
