"""Conditional writes: an object is written only if it is still as it was read.

A local folder uses a lock, S3 conditional puts (If-None-Match, If-Match); other stores are compared
before and after the write, which leaves a short window for a race, except on memory://, which
`Storage` locks."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.base.errors import IntegrityError, MissingPackageError

LOCK = ".lock"
"""Lock file beside an object that is written conditionally to a local folder."""

_S3_CONDITION_FAILED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
"""S3's error codes for a condition that does not hold."""


@dataclass(frozen=True)
class Snapshot:
    """An object as it was read; a conditional write compares it with the current one."""

    data: bytes
    etag: str | None = None


def take_snapshot(filesystem: Any, path: str, limit: int | None = None) -> Snapshot | None:
    """Read an object and its ETag; None if it does not exist. Raises IntegrityError if it has more
    than `limit` bytes or is not a regular file: reading a pipe or a device may never end."""
    try:
        # the ETag first: if the object changes in between, a write under this ETag fails
        info = filesystem.info(path)
        if info["type"] != "file":
            raise IntegrityError(f"{path} is not a regular file")
        size = info["size"] or 0
        if limit is not None and size > limit:
            raise IntegrityError(f"{path} has {size} bytes, the limit is {limit}")
        # a range, because the object may grow in between; stores refuse an empty one
        stop = limit if size else None
        return Snapshot(bytes(filesystem.cat_file(path, end=stop)), info.get("ETag"))
    except FileNotFoundError:
        return None


def write_if_unchanged(filesystem: Any, path: str, before: Snapshot | None, data: bytes) -> bool:
    """Write an object if it equals `before` (None: if it does not exist); whether it was
    written."""
    names = protocols(filesystem)
    if "file" in names:
        return _write_local(Path(path), before, data)
    if "s3" in names:
        return _write_s3(filesystem, path, before, data)
    current = take_snapshot(filesystem, path)
    if (current and current.data) != (before and before.data):
        return False
    try:
        # "create" is a true condition on some stores, GCS among them
        mode = "create" if before is None else "overwrite"
        filesystem.pipe_file(path, data, mode=mode)
    except FileExistsError:
        return False
    after = take_snapshot(filesystem, path)
    return after is not None and after.data == data


def protocols(filesystem: Any) -> tuple[str, ...]:
    """The URL protocols of a file system."""
    names = filesystem.protocol
    return (names,) if isinstance(names, str) else tuple(names)


def file_locks() -> Any:
    """The module `fcntl`. Raises MissingPackageError on Windows, which has none."""
    try:
        import fcntl
    except ImportError as error:
        raise MissingPackageError(
            "sidtool writes on Linux and macOS only: on Windows, run it in WSL"
        ) from error
    return fcntl


def _write_local(path: Path, before: Snapshot | None, data: bytes) -> bool:
    fcntl = file_locks()
    path.parent.mkdir(parents=True, exist_ok=True)
    # no link, which could lead outside of the folder, and no pipe
    safe = os.O_NOFOLLOW | os.O_NONBLOCK
    with open(path.with_name(LOCK), "ab", opener=lambda p, flags: os.open(p, flags | safe)) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
        current = path.read_bytes() if path.is_file() else None
        if current != (before and before.data):
            return False
        partial = path.with_name(path.name + ".partial")
        partial.unlink(missing_ok=True)
        with partial.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    return True


def _write_s3(filesystem: Any, path: str, before: Snapshot | None, data: bytes) -> bool:
    condition = {"IfNoneMatch": "*"} if before is None else {"IfMatch": before.etag}
    try:
        filesystem.pipe_file(path, data, **condition)
    except FileExistsError:
        return False
    except OSError as error:
        response = getattr(error.__cause__, "response", None) or {}
        if response.get("Error", {}).get("Code") in _S3_CONDITION_FAILED:
            return False
        raise
    return True
