"""Outputs that appear whole or not at all, and that one process at a time writes.

Work is written to the sibling `NAME.partial` and moved into place at the end, while the output is
locked. A folder that `force` replaces is first moved to `NAME.replaced`, and restored if the move
fails, or by the next run, with a warning, if this one was killed between the two moves."""

import errno
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sidtool.base.errors import DataError, SidtoolError, SidtoolWarning, UsageError
from sidtool.base.output_lock import hold_lock
from sidtool.base.output_name import (
    OutputKind,
    check_name,
    check_place,
    check_replaced,
    check_suffix,
)
from sidtool.base.threads import run_in_threads

_RESERVED: ContextVar[frozenset[Path]] = ContextVar("reserved", default=frozenset())
"""The outputs that this call has reserved."""
SYNC_THREADS = 16
"""Files that a disk is asked to store at once: it waits for each, whatever its size."""

_DISK_ERRORS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
_SPELLED = re.compile(
    rf"\(os error (\d+)\)|\[Errno ({errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG}|{errno.EROFS})\]"
)
"""How the libraries in Rust spell an error of the disk, and shutil those of the files it copied."""
_UNEXPLAINED = ("inline_container", " requested and ")
"""What PyTorch and NumPy say of a file that they could not write whole."""
_UNKNOWN = "a file was not written whole"
_HINTS = dict.fromkeys(
    [os.strerror(errno.ENOSPC).lower(), os.strerror(errno.EDQUOT).lower(), _UNKNOWN],
    "free space on that disk and run the command again",
)


def partial_path(path: Path) -> Path:
    """The path of an unfinished output."""
    return path.with_name(path.name + ".partial")


def _aside_path(path: Path) -> Path:
    return path.with_name(path.name + ".replaced")


def _removed_paths(path: Path) -> list[Path]:
    """Where a folder is moved before it is removed: the next name if one is still in use."""
    return [path.with_name(f"{path.name}{number}.removed") for number in ("", *range(1, 9))]


def refuse_existing(path: Path, force: bool, kind: OutputKind | None = None) -> None:
    """Raise UsageError if the output exists without `force` or is a folder that sidtool did not
    write, cannot be one, or has the name of another kind. Restores first what a killed run moved
    aside, and removes what it was about to remove."""
    check_name(path)
    if kind is not None:
        check_suffix(path, kind)
        if kind.is_file and _is_folder(path):
            raise UsageError(
                f"{path} is a folder, and {kind.content} is a file",
                hint="--force replaces no folder by a file",
            )
    check_place(path)
    if os.path.lexists(_aside_path(path)) and not os.path.lexists(path):
        with locked(path):
            pass  # restores it, unless its writer is alive and just replaces it
    if _is_folder(path):
        with disk_errors(path):
            check_replaced(path, [item.name for item in path.iterdir()], kind)
    if os.path.lexists(path) and not force:
        tidy(path)
        raise UsageError(f"{path} exists already", hint="--force replaces it")


def tidy(path: Path) -> None:
    """Remove what the run that made an existing output was about to remove when it was killed."""
    siblings = (_aside_path(path), partial_path(path))
    half_removed = [removed for sibling in siblings for removed in _removed_paths(sibling)]
    if any(map(os.path.lexists, (_aside_path(path), *half_removed))):
        with suppress(SidtoolError), locked(path):
            pass


@contextmanager
def locked(path: Path) -> Iterator[Path]:
    """Hold the lock of an output while it is written; yields its `partial_path`. Completes what a
    killed run left. Raises UsageError if another process writes the output, DataError if the block
    fails because the disk is full or cannot be written."""
    check_name(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext() if _place(path) in _RESERVED.get() else hold_lock(path):
            _recover(path)
            yield partial_path(path)


@contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Hold the lock of an output from before the work for it, so that a second writer is refused
    before it works. The block may lock the output. No new folder stays if nothing is written.
    Raises as `locked`."""
    check_name(path)
    above = [folder for folder in path.absolute().parents if not folder.exists()]
    with ExitStack() as lock:
        lock.callback(_remove_empty, above)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if _place(path) not in _RESERVED.get():
                lock.enter_context(hold_lock(path))
            _recover(path)
        token = _RESERVED.set(_RESERVED.get() | {_place(path)})
        lock.callback(_RESERVED.reset, token)
        yield


def _place(path: Path) -> Path:
    """Where an output is, however its folder is spelled."""
    return path.parent.resolve() / path.name


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):  # one is not empty
        for folder in folders:
            folder.rmdir()


def new_file(path: Path, *, force: bool = False) -> AbstractContextManager[Path]:
    """A path to write a file at; it becomes `path` if the block succeeds, and is removed if not."""
    return _new_output(path, force, None, is_folder=False, resume=False)


def new_dir(
    path: Path, *, force: bool = False, resume: bool = False, kind: OutputKind | None = None
) -> AbstractContextManager[Path]:
    """A folder to write into; it becomes `path` if the block succeeds, and is removed if not. With
    `resume`, the folder has the content of an earlier unfinished run, and is kept if the block
    fails."""
    return _new_output(path, force, kind, is_folder=True, resume=resume)


@contextmanager
def _new_output(
    path: Path, force: bool, kind: OutputKind | None, *, is_folder: bool, resume: bool
) -> Iterator[Path]:
    refuse_existing(path, force, kind)
    with locked(path) as partial:
        # another process may have made it until the lock was held
        refuse_existing(path, force, kind)
        if not resume:
            remove(partial)
        if is_folder:
            partial.mkdir(exist_ok=True)
        try:
            yield partial
            refuse_existing(path, force, kind)
            publish(partial, path)
        finally:
            if not resume:
                remove(partial)


def publish(new: Path, path: Path) -> None:
    """Move the finished file or folder `new` to `path`, durably. The caller holds the lock. An
    older output is replaced; it is restored if the move fails."""
    items = [item for item in new.rglob("*") if item.is_file() or item.is_dir()]
    run_in_threads([partial(_sync, item) for item in [*items, new]], SYNC_THREADS)
    if not os.path.lexists(path) or not (_is_folder(new) or _is_folder(path)):
        new.replace(path)
        _sync(path.parent)
        return
    # two moves, because a folder is not replaced in one
    aside = _aside_path(path)
    path.rename(aside)
    try:
        new.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    _sync(path.parent)
    remove(aside)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write a file of unfinished work at; it then replaces `path`, durably. For state
    that a killed run leaves to a later one. The caller holds the lock of the output."""
    partial = partial_path(path)
    yield partial
    publish(partial, path)


def write_whole(path: Path, text: str) -> None:
    """Write a small file of state, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def cache_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array of unfinished work, whole or not at all, for a later run."""
    with whole_file(path) as partial, partial.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


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
    free = []
    for removed in _removed_paths(path):
        _discard(removed)
        if not os.path.lexists(removed):
            free.append(removed)
    if _is_folder(path) and free:
        # a kill leaves it half removed: under a name that no run restores or resumes
        path.rename(free[0])
        _discard(free[0])
    else:
        _delete(path)


def _recover(path: Path) -> None:
    """Complete what a killed run left: restore the output that it moved aside and did not replace,
    and remove what it was about to remove, and a link in place of unfinished work, which may lead
    to somebody's folder."""
    aside = _aside_path(path)
    if os.path.lexists(aside) and not os.path.lexists(path):
        aside.rename(path)
        # whole unless another program changed it
        warnings.warn(
            f"{path} is restored from {aside.name}, where a killed run had moved it: check it "
            "before you use it (sidtool verify)",
            SidtoolWarning,
            stacklevel=2,
        )
    remove(aside)
    partial = partial_path(path)
    for removed in _removed_paths(partial):
        _discard(removed)
    if partial.is_symlink():
        partial.unlink()


def _discard(removed: Path) -> None:
    """Remove what was moved aside for it. On a network file system a folder stays as long as a
    process has one of its files mapped: a later run removes it."""
    try:
        _delete(removed)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        shutil.rmtree(removed, ignore_errors=True)  # the rest


def _delete(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # some file systems cannot sync folders, and what was moved is in place already
        with suppress(OSError) if path.is_dir() else nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path, name: str = "") -> Iterator[None]:
    """Turn errors of the disk in writing `path`, which libraries raise in many ways, into a
    DataError, which names it so if there is a name."""
    try:
        yield
    except SidtoolError:
        raise
    except Exception as error:
        reason = _disk_error(error, path)
        if reason is None:
            raise
        message = f"{name or path} cannot be written: {reason}"
        raise DataError(message, hint=_HINTS.get(reason)) from error


def _disk_error(error: BaseException | None, path: Path) -> str | None:
    """Why the disk refused `path`; None if an exception has another reason."""
    while error is not None:
        code = None
        if isinstance(error, OSError) and error.errno is not None:
            code = error.errno
            if not _is_within(error.filename, path):
                return None
        elif match := _SPELLED.search(str(error)):
            code = int(match[1] or match[2])
        elif any(words in str(error) for words in _UNEXPLAINED):
            return _UNKNOWN
        if code in _DISK_ERRORS:
            return os.strerror(code).lower()
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _is_within(file: object, path: Path) -> bool:
    """Whether an error's file belongs to the output `path`, its partial or a folder above them, and
    is no input; an error of a write names no file."""
    if not isinstance(file, str | bytes | os.PathLike):
        return True
    named = Path(os.fsdecode(file)).absolute()
    output = path.absolute()
    depth = len(output.parent.parts)
    sibling = named.parts[depth] if len(named.parts) > depth else ""
    in_output = named.is_relative_to(output.parent) and f"{sibling}.".startswith(f"{output.name}.")
    return in_output or output.is_relative_to(named)


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """A folder beside an output, which is removed afterwards, or by the next call where this one
    was killed. Raises UsageError if another process has it, DataError if it cannot be made."""
    place = next(folder for folder in out.absolute().parents if folder.is_dir())
    name = "-".join(out.absolute().relative_to(place).parts)  # a/split and b/split may be new
    with locked(place / f"{name}.files") as folder:
        remove(folder)
        folder.mkdir()
        try:
            yield folder
        finally:
            remove(folder)
