"""No command opens a socket, starts a process, unpickles or runs code that it was not asked to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import audited
from tests.hostile.crash import make_forked

ROOT = Path(__file__).resolve().parents[1]
QUIET = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "CI")
"""Variables with which the libraries are quiet by themselves."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the road; the libraries have a token and an agent, which the hub would get."""
    for name in (*QUIET, *(name for name in os.environ if name.startswith("SIDTOOL_"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setenv("AI_AGENT", "x")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "road"
    folder.mkdir()
    return folder


def check_audit(folder: Path) -> None:
    """Nothing was seen."""
    assert json.loads((folder / "audit.json").read_text()) == {"events": {}, "ran": []}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_commands_only_read_and_write_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that has imported everything: a hook for audits stays until its end."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
    make_forked(audited.main, folder)
    check_audit(folder)


@pytest.mark.slow
def test_neither_do_the_packages_that_they_import(folder: Path) -> None:
    line = [sys.executable, "-P", "-m", "tests.audited", str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = subprocess.run(line, env=env, capture_output=True, text=True)
    assert program.returncode == 0, program.stderr[-3000:]
    check_audit(folder)
