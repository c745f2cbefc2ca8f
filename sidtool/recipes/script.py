"""The steps of a run as a shell script that does the same."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from sidtool.recipes.steps import Step

HEAD = """#!/usr/bin/env bash
# {title}
# Run it in the folder where `sidtool fit` ran, by which its paths are relative.
set -euo pipefail
"""


def shell_script(steps: Sequence[Step], title: str) -> str:
    """The script; a step whose command does not replace its output has it removed first."""
    lines = [HEAD.format(title=title)]
    made: set[Path] = set()
    for step in steps:
        lines.append(f"# {step.name}")
        output, folder = shlex.quote(str(step.output)), step.output.parent
        if folder not in made:
            lines.append(f"mkdir -p {shlex.quote(str(folder))}")
            made.add(folder)
        command = shlex.join(["sidtool", *step.arguments])
        if step.saves_stdout:
            lines += [f"{command} > {output}.partial", f"mv {output}.partial {output}"]
        else:
            lines += [] if "--force" in step.arguments else [f"rm -rf {output}"]
            lines.append(command)
    return "\n".join(lines) + "\n"
