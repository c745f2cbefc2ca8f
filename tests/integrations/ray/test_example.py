"""The commands of examples/ray exist, with their options."""

import re
from pathlib import Path

import typer

from sidtool.cli.main import app

FOLDER = Path(__file__).parents[3] / "examples" / "ray"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_every_option_of_the_script_is_one_of_its_command() -> None:
    text = (FOLDER / "run.sh").read_text()
    shared = re.search(r"^ray=\((.*)\)$", text, re.M)
    assert shared is not None
    lines = [line for line in text.splitlines() if line.startswith("sidtool ")]
    assert len(lines) == 9
    for line in lines:
        line = line.replace('"${ray[@]}"', shared[1])
        assert flags(line) <= known_flags(line.split()[1])
    assert sum('"${ray[@]}"' in line for line in lines) == 6


def test_the_service_of_the_example_has_options_that_exist() -> None:
    (line,) = re.findall(r"^exec sidtool (serve .*)$", (FOLDER / "serve.sh").read_text(), re.M)
    assert {"--engine", "--token-file"} <= flags(line) <= known_flags("serve")


def flags(line: str) -> set[str]:
    return set(re.findall(r" (--?[a-z][a-z-]*)", line))


def known_flags(command: str) -> set[str]:
    return {flag for each in COMMANDS[command].params for flag in each.opts}
