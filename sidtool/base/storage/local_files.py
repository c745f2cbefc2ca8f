"""Local files of a bundle that somebody else wrote: only regular files are opened."""

import stat
from pathlib import Path

from sidtool.base.errors import IntegrityError

SPARSE_BYTES = 64 << 20
"""Bytes that a file may claim beyond ..."""
SPARSE_RATIO = 20
"""... this many times the bytes that it takes on the disk."""


def check_file(path: str) -> int:
    """The size of a regular file, or of one that a link leads to.

    Raises IntegrityError for anything else, which could have no end (a device) or make the reader
    wait (a FIFO), and for a sparse file, which takes more memory than it takes on the disk.
    """
    info = Path(path).stat()
    if not stat.S_ISREG(info.st_mode):
        raise IntegrityError(f"{path} is not a regular file")
    stored = getattr(info, "st_blocks", info.st_size) * 512
    if info.st_size > SPARSE_BYTES + SPARSE_RATIO * stored:
        raise IntegrityError(f"{path} has {info.st_size} bytes, but only {stored} are stored")
    return info.st_size


def read_range(path: str, start: int | None, stop: int | None) -> bytes:
    """The bytes of a range of a file, fewer where it ends earlier. Raises as `check_file`."""
    size = check_file(path)
    first = start or 0
    end = size if stop is None else min(stop, size)
    with Path(path).open("rb") as stream:
        stream.seek(first)
        return stream.read(max(end - first, 0))
