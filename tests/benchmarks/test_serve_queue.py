"""The simulated queue: what is known of queues with a single server holds."""

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("serve_queue")


def test_single_requests_wait_as_pollaczek_and_khinchine_say(queue: Any) -> None:
    costs = queue.BatchCosts((1,), (0.1,))
    for load in (0.3, 0.5, 0.8):
        seconds = queue.simulate(costs, load / 0.1, wait=0.0, largest=1, n_calls=100_000)
        # M/D/1: the mean time in the system is s (1 + load / (2 (1 - load)))
        assert np.mean(seconds) == pytest.approx(0.1 * (1 + load / (2 * (1 - load))), rel=0.05)


def test_the_figures_of_the_page_hold(queue: Any) -> None:
    alone = queue.BatchCosts((1,), (1.0,))
    seconds = queue.simulate(alone, 0.5, wait=0.0, largest=1, n_calls=100_000)
    assert np.percentile(seconds, 99) == pytest.approx(4.3, rel=0.05)
    shared = queue.BatchCosts((1, 96), (1.0, 2.1))
    seconds = queue.simulate(shared, shared.saturated_rate(96) / 2, wait=0.0, largest=96)
    assert np.percentile(seconds, 99) == pytest.approx(2.8, rel=0.03)


def test_a_batch_is_what_waits_when_the_model_is_free(queue: Any) -> None:
    costs = queue.BatchCosts((1, 100), (1.0, 1.0))
    # many more calls than single answers could carry: all that arrive in a second share a batch
    seconds = queue.simulate(costs, 3.0, wait=0.0, largest=100)
    assert min(seconds) >= 1.0
    assert max(seconds) <= 2.0
    waited = queue.simulate(costs, 0.001, wait=0.25, largest=100, n_calls=50)
    assert np.median(waited) == pytest.approx(1.25)


def test_costs_are_those_of_the_thread(queue: Any) -> None:
    def run(n: int) -> None:
        end = time.thread_time() + 0.002 * n
        while time.thread_time() < end:
            pass

    costs = queue.batch_costs(run, sizes=(1, 2, 8))
    assert costs.sizes == (1, 2, 8)
    for size, seconds in zip(costs.sizes, costs.seconds, strict=True):
        assert seconds == pytest.approx(0.002 * size, rel=0.5)
    assert costs.of(5) == pytest.approx((costs.of(2) + costs.of(8)) / 2)
    assert costs.of(16) == pytest.approx(2 * costs.of(8))
    assert costs.saturated_rate(8) == pytest.approx(8 / costs.seconds[-1])
