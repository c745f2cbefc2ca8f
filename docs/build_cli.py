"""Write docs/cli.md from the commands' own help; `--check` fails if the committed page is stale."""

import sys
from pathlib import Path
from typing import Any

import typer

from sidtool.cli.main import app

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# The command line

Written by `make docs` from the commands' own help; do not edit.

Results go to stdout, all else to stderr; `--json` prints one object (JSON Lines for `encode`, `decode`, `log`,
`recommend`).
Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 the answer is no (integrity, compatibility, a threshold not
met), 130 interrupted. Options come from flags, then the environment (`SIDTOOL_EVALUATE_NUM_BEAMS` is `sidtool evaluate
--num-beams`), then `--config FILE.yaml`, then defaults; an unknown key is an error. `SIDTOOL_DEBUG=1` shows tracebacks.
"""


def spell(parameter: Any) -> str:
    """One line of a command's table."""
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
    default = "required" if parameter.required else parameter.default
    hidden = default is None or default is False or default in ((), [])
    shown = default if default == "required" else "" if hidden else f"`{default}`"
    return f"| {name} | {(parameter.help or '').strip().replace('|', '/')} | {shown} |"


def page() -> str:
    """The whole page."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parts = [HEAD]
    for name, command in commands.items():
        rows = [spell(parameter) for parameter in command.params if parameter.name != "help"]
        table = "\n".join(["| | | default |", "| --- | --- | --- |", *rows])
        parts.append(f"## `sidtool {name}`\n\n{command.help.strip()}\n\n{table}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
        sys.exit("docs/cli.md is stale: run `make docs`" if stale else 0)
    PAGE.write_text(text, encoding="utf-8")
