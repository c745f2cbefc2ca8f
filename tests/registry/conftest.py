"""An empty registry in each kind of store."""

import uuid
from pathlib import Path

import pytest

from tests.s3 import BUCKET

STORES = ("folder", "memory", "s3")


@pytest.fixture(params=STORES)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL/NAME of an empty registry."""
    name = f"{uuid.uuid4().hex}/shop"
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://{BUCKET}/{name}"
    return f"memory://{name}" if request.param == "memory" else str(tmp_path / name)
