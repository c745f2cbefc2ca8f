import json
import sys
from pathlib import Path
from typing import Any

import pytest


def run_of(events: int) -> dict[str, Any]:
    """A run that takes 1 ms and 20 bytes per event. A worker has 100 MB, 500 bytes per event of a
    part and none per item."""
    from data_path import item_count

    from sidtool.integrations.cluster.shards import part_count

    items = item_count(events)
    return {
        "step": "split",
        "events": events,
        "workers": 1,
        "command": {
            "peak": 50e6 + 200 * items,
            "cpu_seconds": events * 1e-4,
            "shuffled": 20 * events,
        },
        "worker_cpu_seconds": 2 + events * 1e-3,
        "worker_peak": 100e6 + 500 * events / part_count(events),
    }


def test_a_plan_continues_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import cluster_plan

    rates, out = tmp_path / "cluster.json", tmp_path / "plan.json"
    runs = [run_of(events) for events in (100_000, 1_000_000, 10_000_000)]
    rates.write_text(json.dumps({"results": [*runs, {**runs[0], "workers": 2}]}))
    monkeypatch.setattr(cluster_plan, "RATES", rates)
    monkeypatch.setattr(sys, "argv", ["cluster_plan.py", "--deaths", "0", "-o", str(out)])
    cluster_plan.main()
    (plan,) = json.loads(out.read_text())["plans"]
    assert plan["core_hours"] == pytest.approx(1e7 / 3600)
    # 1,024 parts of two rounds, and nearly equal users
    assert plan["worker_minutes"] == pytest.approx(1e7 / 512 / 60, rel=0.01)
    assert plan["network_minutes"] == pytest.approx(2 * 2e11 / (64 * 1.25e9) / 60)
    worker = 100e6 + 500 * 1e10 / 1024
    assert plan["worker_gib_by_parts"] == pytest.approx(worker / 2**30, rel=1e-6)
    assert plan["worker_gib_by_items"] is None  # a worker of split holds none
    assert plan["command_gib"] == pytest.approx((50e6 + 2e11) / 2**30, rel=1e-6)
    printed = capsys.readouterr().out
    assert "does not fit: split: memory of the command, up to 186 GiB of 16" in printed
    assert "does not fit: split: memory of a worker" not in printed


def test_nodes_that_die_delay_a_step() -> None:
    from cluster_plan import Nodes, worker_seconds

    alive, dying = (Nodes(4, 2, 8.0, 1.0, deaths) for deaths in (0.0, 20.0))
    without = worker_seconds(4000.0, 64, 1e6, alive)
    assert without == pytest.approx(1000, rel=0.02)
    assert 1.05 * without < worker_seconds(4000.0, 64, 1e6, dying) < 3 * without
