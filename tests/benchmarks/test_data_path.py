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


def test_the_data_have_ten_events_per_user(tmp_path: Path) -> None:
    import data_path
    from pyarrow import csv

    data_path.write_events(tmp_path / "events.csv", 1000)
    users = csv.read_csv(tmp_path / "events.csv")["user_id"].value_counts().to_pylist()
    assert [user["counts"] for user in users] == [10] * 100
