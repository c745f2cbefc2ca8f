"""An empty registry: in a folder, and among the slow tests in the other kinds of stores."""

from pathlib import Path

import pytest

from tests.s3 import empty_folder

in_every_store = pytest.mark.parametrize(
    "shop", ["folder", pytest.param("memory", marks=pytest.mark.slow), "s3"], indirect=True
)
"""A test of what a store guarantees, for each kind; in memory among the slow tests."""


@pytest.fixture(
    params=["folder", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("memory", "s3"))]
)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL/NAME of an empty registry."""
    if request.param == "folder":
        return str(tmp_path / "registries" / "shop")
    return f"{empty_folder(request)}/shop"
