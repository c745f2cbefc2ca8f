"""A Ray cluster of two workers on this machine."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def ray_of_two() -> Iterator[None]:
    """A cluster of two CPUs, which the engine finds since the process is connected to it."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for attempt in range(3):
        try:
            ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
            break
        except Exception:  # on a busy machine it gives up after 30 seconds
            ray.shutdown()
            if attempt == 2:
                raise
    yield
    ray.shutdown()
