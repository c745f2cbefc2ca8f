"""An S3 server for the tests of several rooms, the counts of hostile cases, and no limit of time
for Hypothesis: on a shared machine any example may take seconds. `tests.waiting` is for other
waits."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.s3 import Wire, serve

pytest_plugins = ["tests.hostile.summary"]

suppressed = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("shared-machine", deadline=None, suppress_health_check=suppressed)
settings.load_profile("shared-machine")


@pytest.fixture(scope="session")
def s3() -> Iterator[Wire]:
    with serve() as wire:
        yield wire
