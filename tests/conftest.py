"""An S3 server for the tests of several rooms, the counts of hostile cases, and no deadline for
examples of Hypothesis: on a shared machine any of them may take a second."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.s3 import Wire, serve

pytest_plugins = ["tests.hostile.summary"]

settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")


@pytest.fixture(scope="session")
def s3() -> Iterator[Wire]:
    with serve() as wire:
        yield wire
