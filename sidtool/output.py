"""Outputs that appear whole or not at all.

Work is written to the sibling `NAME.partial` and moved into place at the end. An output that
`force` replaces is first moved to `NAME.replaced`, and restored if the move fails, or by the next
run if this one was killed between the two moves.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sidtool.errors import UsageError


def partial_path(path: Path) -> Path:
    """The path of an unfinished output."""
    return path.with_name(path.name + ".partial")


def refuse_existing(path: Path, force: bool) -> None:
    """Raise UsageError if the output exists without `force`, or is a URL. Restores first what a
    killed run moved aside."""
    if re.match(r"[a-z][a-z0-9+]+:/", str(path)):  # Path drops the second slash
        raise UsageError(
            f"{path} is a URL, but outputs are written to disk",
            hint="sidtool push publishes a bundle",
        )
    if not path.name:
        raise UsageError(f"{str(path)!r} names no file or folder to write", hint="-o FOLDER/NAME")
    aside = _aside_path(path)
    if aside.exists() and not path.exists():
        aside.rename(path)
    if path.exists() and not force:
        raise UsageError(f"{path} exists already", hint="--force replaces it")


@contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A path to write a file at; it becomes `path` if the block succeeds, and is removed if not."""
    refuse_existing(path, force)
    partial = partial_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_dir(path: Path, *, force: bool = False, resume: bool = False) -> Iterator[Path]:
    """A folder to write into; it becomes `path` if the block succeeds, and is removed if not.

    With `resume`, the folder has the content of an earlier unfinished run, and is kept if the block
    fails.
    """
    refuse_existing(path, force)
    partial = partial_path(path)
    if not resume:
        remove(partial)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        replace_dir(partial, path)
    except BaseException:
        if not resume:
            remove(partial)
        raise


def replace_dir(new: Path, path: Path) -> None:
    """Move the finished folder or file `new` to `path`; an old output is restored on failure."""
    aside = _aside_path(path)
    for item in new.rglob("*") if new.is_dir() else [new]:
        if item.is_file():
            _sync(item)
    if not path.exists():
        new.rename(path)
        return
    remove(aside)
    path.rename(aside)
    try:
        new.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    remove(aside)


def cache_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array of unfinished work, whole or not at all, for a later run."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
    partial.replace(path)


def cached_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any] | None:
    """The array of an earlier run, or None if it is missing, damaged or of another shape or
    type."""
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _aside_path(path: Path) -> Path:
    return path.with_name(path.name + ".replaced")


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
