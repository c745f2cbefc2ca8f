"""An S3 server for the tests of several rooms, the counts of hostile cases, which tests are slow
or stay together, and no limit of time for Hypothesis: on a shared machine any example may take
seconds. `tests.waiting` is for other waits."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.s3 import Wire, serve

pytest_plugins = ["tests.hostile.summary"]

suppressed = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "shared-machine", deadline=None, max_examples=30, suppress_health_check=suppressed
)
settings.load_profile("shared-machine")

TESTS = Path(__file__).parent
TOGETHER = ("cli", "hostile", "recommendation/serve", "training")
"""Folders whose tests share artifacts that take seconds to make: one process runs them all, with
`--dist loadgroup`. Other tests stay together by file."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of benchmarks as slow, and each test with its group."""
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        if path.startswith("benchmarks/"):
            item.add_marker(pytest.mark.slow)
        group = next((folder for folder in TOGETHER if path.startswith(f"{folder}/")), path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def s3() -> Iterator[Wire]:
    with serve() as wire:
        yield wire
