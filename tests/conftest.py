"""The S3 that tests of several rooms share."""

from collections.abc import Iterator

import pytest

from tests.s3 import Wire, serve


@pytest.fixture(scope="session")
def s3() -> Iterator[Wire]:
    with serve() as wire:
        yield wire
