"""The commands of examples/ray/run.sh exist, with their options."""

import re
from pathlib import Path

import typer

from sidtool.cli.main import app

SCRIPT = Path(__file__).parents[2] / "examples" / "ray" / "run.sh"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_every_option_of_the_script_is_one_of_its_command() -> None:
    text = SCRIPT.read_text()
    shared = re.search(r"^ray=\((.*)\)$", text, re.M)
    assert shared is not None
    lines = [line for line in text.splitlines() if line.startswith("sidtool ")]
    assert len(lines) == 8
    for line in lines:
        line = line.replace('"${ray[@]}"', shared[1])
        command = COMMANDS[line.split()[1]]
        known = {flag for each in command.params for flag in each.opts}
        assert set(re.findall(r" (--?[a-z][a-z-]*)", line)) <= known
    assert sum('"${ray[@]}"' in line for line in lines) == 4
