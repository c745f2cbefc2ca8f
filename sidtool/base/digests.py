"""SHA-256 digests of columns of strings, of arrays and of files."""

import hashlib
import time
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sidtool.base.documents import canonical
from sidtool.base.errors import DataError

BLOCK = 1 << 16
"""Strings that are hashed at once; the digest depends on it."""

CLOCK_NS = 2_000_000_000
"""A file that changed so recently may change again without another time stamp."""


def digest_strings(*columns: Iterable[str]) -> str:
    """SHA-256 (hex) over columns of strings, each read once. Lengths are hashed too, so different
    columns never feed the hash the same bytes."""
    state = hashlib.sha256()
    for column in columns:
        strings = iter(column)
        while block := list(islice(strings, BLOCK)):
            joined = "".join(block)
            encoded = block if joined.isascii() else [text.encode("utf-8") for text in block]
            state.update(",".join(map(str, map(len, encoded))).encode() + b":")
            state.update(joined.encode("utf-8"))
        state.update(b"|")
    return state.hexdigest()


def hash_array(digest: Any, name: str, array: NDArray[Any]) -> None:
    """Add a named array to a digest, whatever its byte order."""
    # name, type and shape are hashed too: other arrays could have the same bytes
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    digest.update(canonical([name, little_endian.dtype.str, list(array.shape)]))
    # as bytes without a copy: an array may be a mapped file that is larger than memory
    digest.update(np.ascontiguousarray(little_endian).reshape(-1).view(np.uint8))


class HashedFile:
    """A file that is hashed as it is written."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._state = hashlib.sha256()

    def write(self, data: Any) -> None:
        """Add bytes, or a buffer of them."""
        self._stream.write(data)
        self._state.update(data)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what was written."""
        return self._state.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file. Raises DataError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def cached_digest(path: Path) -> str:
    """As `file_digest`; a file with the size, times and inode of an earlier call is not read again
    in this process."""
    try:
        stat = path.stat()
    except OSError as error:  # it was replaced after it was listed
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    changed = max(stat.st_mtime_ns, stat.st_ctime_ns)
    if time.time_ns() - changed < CLOCK_NS:
        return file_digest(path)
    return _digest_of(path.absolute(), stat.st_dev, stat.st_ino, stat.st_size, changed)


@lru_cache(maxsize=4096)
def _digest_of(path: Path, device: int, inode: int, size: int, changed: int) -> str:
    return file_digest(path)
