"""Entries of zip files of others, whose sizes are compared with the stored bytes before they are
read."""

import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.storage import BoundedReader

MAX_EXPANSION = 8
"""Bytes beyond FREE_BYTES that each byte of a compressed entry may expand to: numbers hardly
compress."""
FREE_BYTES = 1 << 24
"""Bytes that an entry of any size may expand to."""
PART = 1 << 20
"""Bytes that are read at once."""


def open_zip(stream: IO[bytes]) -> zipfile.ZipFile:
    """A zip whose directory is bounded. Raises ValueError or what zipfile raises."""
    return zipfile.ZipFile(BoundedReader(stream))


def stored_entries(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name. Raises ValueError if an entry is compressed, encrypted, larger than the
    file, or there are two of one name."""
    entries = _entries(archive, file_size)
    for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError(f"its entry {name[:60]!r} is compressed, which torch.save never does")
    return entries


def expanding_entries(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, compressed or not. Raises ValueError as `stored_entries`, and if an
    entry expands to many times its size."""
    entries = _entries(archive, file_size)
    for name, entry in entries.items():
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its entry {name[:60]!r} is compressed by an unusual method")
        limit = FREE_BYTES + MAX_EXPANSION * entry.compress_size
        if entry.file_size > limit:
            raise ValueError(
                f"its entry {name[:60]!r} expands from {entry.compress_size} bytes to "
                f"{entry.file_size}, the limit is {limit}"
            )
    return entries


def _entries(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise ValueError("it has two entries of one name")
    for name, entry in entries.items():
        if entry.compress_size > file_size or entry.flag_bits & 1:
            raise ValueError(f"its entry {name[:60]!r} is encrypted or larger than the file")
    return entries


def read_exactly(stream: IO[bytes], array: NDArray[Any]) -> None:
    """Fill an array with the next bytes. Raises ValueError if there are fewer."""
    view = array.reshape(-1).view(np.uint8)
    position = 0
    while position < len(view):
        part = stream.read(min(PART, len(view) - position))
        if not part:
            raise ValueError(f"it ends after {position} of {len(view)} bytes of numbers")
        view[position : position + len(part)] = np.frombuffer(part, dtype=np.uint8)
        position += len(part)
