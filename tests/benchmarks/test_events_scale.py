"""The benchmark of events runs to its end, with equal results with and without a budget."""

import json
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_table_has_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import events_scale

    out = tmp_path / "result.json"
    options = ["3000", "--memory", "512KiB", "--plain", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["events_scale.py", *options])
    events_scale.main()
    printed = capsys.readouterr().out
    results = json.loads(out.read_text())["results"]
    assert [result["step"] for result in results] == [
        step for step in events_scale.STEPS for _ in ("budget", "none")
    ]
    assert printed.count("| 3,000 | 100 |") == len(results)
    assert all(result["peak"] > 0 for result in results)


def test_the_data_have_ten_events_per_user(tmp_path: Path) -> None:
    import events_scale
    import pyarrow.parquet as pq

    events_scale.write_events(tmp_path / "events.parquet", 1000)
    users = pq.read_table(tmp_path / "events.parquet")["user_id"].value_counts().to_pylist()
    assert [user["counts"] for user in users] == [10] * 100
