"""The benchmark of workers on small data: it runs to its end, and its parts are those of one
process."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.encoders import tiny_encoder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("ray_scale")


def test_the_table_compares_with_one_worker(benchmark: Any) -> None:
    runs = [
        benchmark.Measured("embed", 0, 18.0, 2.0, [18.0], 1.0),
        benchmark.Measured("embed", 1, 20.0, 2.0, [20.0], 1.0),
        benchmark.Measured("embed", 2, 12.5, 1.0, [11.0, 11.0], 2.0),
    ]
    *_, two = benchmark.table(runs).splitlines()
    assert two == "| embed | 2 | 12.5 | 1.60 | 1.00 | 2.00 | 11, 11 | 1.10 | 1.76 | 2.0 |"


@pytest.mark.slow
def test_the_benchmark_runs_to_its_end(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "plain").mkdir()
    encoder = tiny_encoder(tmp_path / "plain", tmp_path / "encoder")
    sizes = ("--items", "48", "--requests", "48", "--shard-rows", "8", "--num-beams", "4")
    model = ("--model-items", "500", "--dim", "32", "--layers", "1")
    out = tmp_path / "result.json"
    ran = subprocess.run(
        [sys.executable, "benchmarks/ray_scale.py", str(encoder), *sizes, *model, "--json", out],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads(out.read_text())["results"]
    runs = [(each["step"], each["workers"]) for each in results]
    assert runs == [(step, count) for step in ("embed", "recommend") for count in (0, 1, 2)]
    for each in results:
        assert len(each["cpu_seconds"]) == max(each["workers"], 1)
        assert 0 < each["seconds_per_part"] < each["seconds"]
