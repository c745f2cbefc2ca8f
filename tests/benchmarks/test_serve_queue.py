"""The simulated queue: what is known of queues with a single server holds."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("serve_queue")


def test_the_figures_of_the_page_hold(queue: Any) -> None:
    alone = queue.BatchCosts((1,), (1.0,))
    seconds = queue.simulate(alone, 0.5, wait=0.0, largest=1, n_calls=100_000)
    assert np.percentile(seconds, 99) == pytest.approx(4.3, rel=0.05)
    shared = queue.BatchCosts((1, 96), (1.0, 2.1))
    seconds = queue.simulate(shared, shared.saturated_rate(96) / 2, wait=0.0, largest=96)
    assert np.percentile(seconds, 99) == pytest.approx(2.8, rel=0.03)
