from collections.abc import Iterator

import pytest

from sidtool.integrations.cluster.engines import ray_cluster


@pytest.fixture(scope="module")
def ray_of_two() -> Iterator[None]:
    """A cluster of two CPUs, which the engine finds since the process is connected to it."""
    pytest.importorskip("ray")
    with ray_cluster(2):
        yield
