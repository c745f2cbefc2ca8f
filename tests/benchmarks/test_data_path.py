"""The benchmark of the data path runs to its end."""

import json
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_table_has_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import data_path

    steps = [step for step in data_path.STEPS if step not in ("duckdb split", "polars split")]
    out = tmp_path / "result.json"
    options = ["3000", "--memory", "512KiB", "-o", str(out), "--steps", *steps]
    monkeypatch.setattr(sys, "argv", ["data_path.py", *options])
    data_path.main()
    results = json.loads(out.read_text())["results"]
    assert [result["step"] for result in results] == steps
    assert capsys.readouterr().out.count("| 3,000 |") == len(results)
    assert all(result["peak"] > 0 for result in results)
    assert next(result for result in results if result["step"] == "build-memory")["ratio"] > 0
