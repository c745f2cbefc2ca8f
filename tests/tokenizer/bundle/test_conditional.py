"""Conditional writes to a folder and to memory://: only an unchanged object is replaced."""

from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from sidtool.base.storage.conditional import take_snapshot, write_if_unchanged


@pytest.fixture(params=["file", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """A file system and the path of an object that does not exist in it."""
    folder = str(tmp_path) if request.param == "file" else f"/{uuid4()}"
    return fsspec.filesystem(request.param), f"{folder}/refs.json"


def test_a_new_object_is_written_once(target: tuple[fsspec.AbstractFileSystem, str]) -> None:
    filesystem, path = target
    assert take_snapshot(filesystem, path) is None
    assert write_if_unchanged(filesystem, path, None, b"one")
    assert not write_if_unchanged(filesystem, path, None, b"two")
    assert filesystem.cat_file(path) == b"one"


def test_a_changed_object_is_not_replaced(target: tuple[fsspec.AbstractFileSystem, str]) -> None:
    filesystem, path = target
    assert write_if_unchanged(filesystem, path, None, b"one")
    before = take_snapshot(filesystem, path)
    assert before is not None
    assert before.data == b"one"
    assert write_if_unchanged(filesystem, path, before, b"two")
    assert not write_if_unchanged(filesystem, path, before, b"three")
    assert filesystem.cat_file(path) == b"two"


def test_a_removed_object_is_not_written(target: tuple[fsspec.AbstractFileSystem, str]) -> None:
    filesystem, path = target
    assert write_if_unchanged(filesystem, path, None, b"one")
    before = take_snapshot(filesystem, path)
    filesystem.rm(path)
    assert not write_if_unchanged(filesystem, path, before, b"two")
    assert not filesystem.exists(path)
