"""An S3 server for the tests of several rooms, and the counts of hostile cases."""

from collections.abc import Iterator

import pytest

from tests.s3 import Wire, serve

pytest_plugins = ["tests.hostile.summary"]


@pytest.fixture(scope="session")
def s3() -> Iterator[Wire]:
    with serve() as wire:
        yield wire
