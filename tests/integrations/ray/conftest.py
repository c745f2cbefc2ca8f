"""A Ray cluster of two workers on this machine."""

from collections.abc import Iterator

import pytest

from sidtool.integrations.ray.workers import ray_cluster


@pytest.fixture(scope="package")
def ray_of_two() -> Iterator[None]:
    """A cluster of two CPUs, which the engine finds since the process is connected to it."""
    pytest.importorskip("ray")
    with ray_cluster(2):
        yield
