"""The scripts that measure time and memory run to their end on small sizes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.conftest import Run
from tests.encoders import tiny_encoder

ROOT = Path(__file__).resolve().parents[2]


def run_alone(name: str, *words: object) -> "subprocess.CompletedProcess[str]":
    """Run a script in a process of its own, to its end."""
    command = [sys.executable, f"benchmarks/{name}.py", *map(str, words)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "result.json"


def results_of(out: Path) -> list[Any]:
    results: list[Any] = json.loads(out.read_text())["results"]
    return results


def test_both_ways_to_read_a_bundle_and_a_build(script: Run, out: Path, tmp_path: Path) -> None:
    sizes = (9000, "--in-parts", 9000, "--build", 3000)
    printed = script("bundle_scale", *sizes, "-o", out, "--work", tmp_path)
    assert printed.count("| 9,000 |") == 2
    assert [result["in_parts"] for result in results_of(out)] == [False, True]
    built = json.loads(out.read_text())["built"]
    assert all(result["peak"] > 0 for result in results_of(out) + built)


def test_every_step_runs_by_workers_of_two_nodes(script: Run, out: Path) -> None:
    pytest.importorskip("ray")
    import cluster

    printed = script("cluster", 3000, "--items", 90, "-o", out)
    results = results_of(out)
    runs = [(one["step"], one["workers"]) for one in results]
    assert runs == [(step, workers) for step in cluster.STEPS for workers in cluster.WORKERS]
    assert printed.count("| 3,000 | 90 |") == len(runs)
    for one in results:
        with_workers = one["workers"] > 0
        assert (one["worker_cpu_seconds"] > 0) == with_workers
        assert (one["worker_peak"] > 0) == with_workers
        exchanges = with_workers and cluster.STEPS[one["step"]].exchanged != ""
        assert (one["command"]["shuffled"] > 0) == exchanges
    # every output is that of one process
    digests = {(one["step"], one["command"]["digest"]) for one in results}
    assert len(digests) == len(cluster.STEPS)


def test_the_data_path_has_every_step(script: Run, out: Path) -> None:
    import data_path

    steps = [step for step in data_path.STEPS if step not in ("duckdb split", "polars split")]
    printed = script("data_path", 3000, "--memory-limit", "512KiB", "-o", out, "--steps", *steps)
    results = results_of(out)
    assert [result["step"] for result in results] == steps
    assert printed.count("| 3,000 |") == len(results)
    assert all(result["peak"] > 0 for result in results)
    assert next(result for result in results if result["step"] == "build-memory")["ratio"] > 0


def test_the_table_has_every_engine_that_is_installed(script: Run, out: Path) -> None:
    printed = script("event_engines", 2000, "--runs", 1, "-o", out)
    assert "| 2,000 | sidtool within a budget |" in printed
    assert json.loads(out.read_text())["sizes"][0]["engines"]["sidtool"]["seconds"] > 0


def test_the_sides_of_inference_agree(script: Run, tmp_path: Path) -> None:
    """Without an engine; `tests/integrations/vllm` runs the script with one."""
    sides = ("--sides", "level,vocabulary,generate")
    sizes = ("--quick", "--dtypes", "float32", "--widths", 4, "--batches", "1,2", "--repeats", 1)
    words = ("-o", tmp_path, *sides, *sizes)
    assert "| float32 2x4 |" in script("engines", *words)
    before = (tmp_path / "result.json").read_bytes()
    for measured in json.loads(before)["settings"].values():
        assert list(measured) == ["level", "vocabulary", "generate"]
        for figures in measured.values():
            assert figures["seconds"] > 0
            assert figures["illegal_share"] == 0
        assert measured["generate"]["agreement"] == 1
    script("engines", *words)  # nothing is measured again
    assert (tmp_path / "result.json").read_bytes() == before
    assert "no side 'sglang'" in script("engines", *words, "--sides", "sglang", code=1)


def test_the_speed_of_lists_is_measured(script: Run) -> None:
    printed = script("lists_speed", "--quick", "--json", "--threads", 1)
    (ratios,) = json.loads(printed)["cases"]
    assert ratios["batch"] == ratios["width"] == 2
    for name in ("seconds", "over_floor", "searches_over_list", "wide_searches_over_list"):
        assert ratios[name] > 0


def test_the_speed_of_reinforcement_ends_with_a_table(script: Run) -> None:
    import reinforcement_speed

    printed = script("reinforcement_speed", "--steps", 1, "--size", 4, "--prompts", 2)
    for variant in reinforcement_speed.VARIANTS:
        assert f"| {variant} | 0." in printed
    assert "peak memory:" in printed


def test_the_table_of_workers_compares_with_one() -> None:
    from ray_scale import Measured, table

    runs = [
        Measured("embed", 0, 18.0, 2.0, [18.0], 1.0),
        Measured("embed", 1, 20.0, 2.0, [20.0], 1.0),
        Measured("embed", 2, 12.5, 1.0, [11.0, 11.0], 2.0),
    ]
    *_, two = table(runs).splitlines()
    assert two == "| embed | 2 | 12.5 | 1.60 | 1.00 | 2.00 | 11, 11 | 1.10 | 1.76 | 2.0 |"


def test_the_benchmark_of_workers_runs_to_its_end(tmp_path: Path, out: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "plain").mkdir()
    encoder = tiny_encoder(tmp_path / "plain", tmp_path / "encoder")
    sizes = ("--items", 48, "--requests", 48, "--shard-rows", 8, "--num-beams", 4)
    model = ("--model-items", 500, "--dim", 32, "--layers", 1)
    run_alone("ray_scale", encoder, *sizes, *model, "--json", out)
    results = results_of(out)
    runs = [(result["step"], result["workers"]) for result in results]
    assert runs == [(step, count) for step in ("embed", "recommend") for count in (0, 1, 2)]
    for result in results:
        assert len(result["cpu_seconds"]) == max(result["workers"], 1)
        assert 0 < result["seconds_per_part"] < result["seconds"]


def test_the_benchmark_of_the_service_runs_to_its_end(out: Path) -> None:
    sizes = ("--requests", 48, "--items", 500, "--dim", 32, "--layers", 1)
    times = ("--soak-requests", 400, "--swap-seconds", 2, "--kill-seconds", 5)
    parts = ("saturation", "queue", "latency", "soak")
    ran = run_alone("serve", *parts, *sizes, *times, "--json", "-o", out)
    result = json.loads(out.read_text())
    assert json.loads(ran.stdout) == result
    assert result["saturation"]["requests"] == 48
    assert result["saturation"]["throughput_ratio"] > 0
    assert result["latency"]["p99_over_single"] > 0
    assert result["queue"]["p99_over_single"] > result["queue"]["p50_over_single"] > 0
    soak = result["soak"]
    assert (soak["requests"], soak["lost"], soak["wrong_or_doubled"]) == (400, 0, 0)
    assert soak["exit_code"] == 0


def test_the_simulated_queue_has_the_figures_of_the_page() -> None:
    import numpy as np
    from serve_queue import BatchCosts, simulate

    seconds = simulate(BatchCosts((1,), (1.0,)), 0.5, wait=0.0, largest=1, n_calls=100_000)
    assert np.percentile(seconds, 99) == pytest.approx(4.3, rel=0.05)
    costs = BatchCosts((1, 96), (1.0, 2.1))
    seconds = simulate(costs, costs.saturated_rate(96) / 2, wait=0.0, largest=96)
    assert np.percentile(seconds, 99) == pytest.approx(2.8, rel=0.03)
