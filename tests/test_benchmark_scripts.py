"""Each script of `benchmarks/` loads and explains itself; `make test-slow` runs them."""

import runpy
import sys
from contextlib import suppress
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if place % 5 else ())
        for place, path in enumerate(SCRIPTS)
    ],
)
def test_a_script_loads_and_explains_itself(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    with suppress(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    has_options = "parse_args(" in script.read_text(encoding="utf-8")
    assert capsys.readouterr().out.startswith("usage: ") == has_options
