"""The benchmark of the service on a small model: it runs to its end, and finds a wrong answer."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("serve")


@pytest.mark.slow
def test_the_benchmark_runs_to_its_end(tmp_path: Path) -> None:
    sizes = ("--requests", "48", "--items", "500", "--dim", "32", "--layers", "1")
    soak = ("--soak-requests", "400", "--swap-seconds", "2", "--kill-seconds", "5")
    parts = ("saturation", "queue", "latency", "soak")
    command = [sys.executable, "benchmarks/serve.py", *parts]
    out = tmp_path / "serve.json"
    ran = subprocess.run(
        [*command, *sizes, *soak, "--json", "-o", out], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(out.read_text())
    assert json.loads(ran.stdout) == result
    assert result["saturation"]["requests"] == 48
    assert result["saturation"]["throughput_ratio"] > 0
    assert result["latency"]["p99_over_single"] > 0
    assert result["queue"]["p99_over_single"] > result["queue"]["p50_over_single"] > 0
    soak_result = result["soak"]
    assert soak_result["requests"] == 400
    assert soak_result["lost"] == soak_result["wrong_or_doubled"] == 0
    assert soak_result["exit_code"] == 0
