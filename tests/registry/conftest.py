"""An empty registry: in a folder, and among the slow tests in the other kinds of stores."""

import uuid
from pathlib import Path

import pytest

from tests.s3 import BUCKET

STORES = ("folder", "memory", "s3")

in_every_store = pytest.mark.parametrize(
    "shop", ["folder", pytest.param("memory", marks=pytest.mark.slow), "s3"], indirect=True
)
"""A test of what a store guarantees, for each kind; in memory among the slow tests."""


@pytest.fixture(
    params=["folder", *(pytest.param(kind, marks=pytest.mark.slow) for kind in STORES[1:])]
)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL/NAME of an empty registry."""
    if request.param == "folder":
        return str(tmp_path / "registries" / "shop")
    if request.param == "s3":
        request.getfixturevalue("s3")
    return f"{request.param}://{BUCKET}/{uuid.uuid4().hex}/shop"
