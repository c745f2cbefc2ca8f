"""The benchmark of engines writes a table, and what sidtool reads of its data is what it wrote."""

import json
import sys
from pathlib import Path

import pytest


def test_the_table_has_every_engine_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import event_engines

    out = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["event_engines.py", "2000", "--runs", "1", "-o", str(out)])
    event_engines.main()
    assert "| 2,000 | sidtool within a budget |" in capsys.readouterr().out
    engines = json.loads(out.read_text())["sizes"][0]["engines"]
    assert engines["sidtool"]["seconds"] > 0
