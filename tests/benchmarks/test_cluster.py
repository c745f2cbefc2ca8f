"""The benchmark of a cluster runs to its end, and every output is that of one process."""

import json
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_step_runs_by_workers_of_two_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    import cluster

    out = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["cluster.py", "3000", "--items", "90", "-o", str(out)])
    cluster.main()
    results = json.loads(out.read_text())["results"]
    runs = [(one["step"], one["workers"]) for one in results]
    numbers = (0, *cluster.WORKERS)
    assert runs == [(step, workers) for step in cluster.STEPS for workers in numbers]
    assert capsys.readouterr().out.count("| 3,000 | 90 |") == len(runs)
    for one in results:
        with_workers = one["workers"] > 0
        assert (one["worker_cpu_seconds"] > 0) == with_workers
        assert (one["worker_peak"] > 0) == with_workers
        exchanges = with_workers and cluster.STEPS[one["step"]].exchanged != ""
        assert (one["command"]["shuffled"] > 0) == exchanges
    digests = {(one["step"], one["command"]["digest"]) for one in results}
    assert len(digests) == len(cluster.STEPS)
