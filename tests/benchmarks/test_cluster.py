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
    monkeypatch.setattr(sys, "argv", ["cluster.py", "3000", "-o", str(out)])
    cluster.main()
    results = json.loads(out.read_text())["results"]
    runs = [(one["step"], one["workers"]) for one in results]
    assert runs == [(step, workers) for step in cluster.STEPS for workers in cluster.WORKERS]
    assert capsys.readouterr().out.count("| 3,000 |") == len(runs)
    for one in results:
        with_workers = one["workers"] > 0
        assert (one["worker_cpu_seconds"] > 0) == with_workers
        assert (one["worker_peak"] > 0) == with_workers
        assert (one["command"]["shuffled"] > 0) == with_workers
    digests = {(one["step"], one["command"]["digest"]) for one in results}
    assert len(digests) == len(cluster.STEPS)
