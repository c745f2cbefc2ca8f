"""The scripts of `benchmarks/` as modules, and sidtool's commands run in this process."""

import sys
from pathlib import Path
from typing import TextIO

import pytest

from tests.cli.road import run

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run steps in this process, which saves the imports of each; returns the names of the
    commands that ran."""
    import steps

    names: list[str] = []

    def run_in_process(arguments: list[str], stdout: TextIO) -> int:
        names.append(arguments[0])
        result = run(*arguments)
        sys.stderr.write(result.err)
        stdout.write(result.out)
        return result.code

    monkeypatch.setattr(steps, "run_sidtool", run_in_process)
    return names
