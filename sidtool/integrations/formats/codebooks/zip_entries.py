"""Entries of zip files of others, whose sizes are compared with the stored bytes before they are
read."""

import zipfile
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.storage import BoundedReader
from sidtool.data import npy_header
from sidtool.data.tables import library_errors, require_regular

MAX_EXPANSION = 8
"""Bytes beyond FREE_BYTES that each byte of a compressed entry may expand to: numbers hardly
compress."""
FREE_BYTES = 1 << 24
"""Bytes that an entry of any size may expand to."""
NUMBERS = "fiu"
"""Kinds of types that an array may have."""
PART = 1 << 20
"""Bytes that are read at once."""


def open_zip(stream: IO[bytes]) -> zipfile.ZipFile:
    """A zip whose directory is bounded. Raises ValueError or what zipfile raises."""
    return zipfile.ZipFile(BoundedReader(stream))


def zip_entries(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by name. Raises ValueError if an entry is encrypted or larger than the file, or
    there are two of one name."""
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


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of numbers by name. Raises DataError if the file is damaged, expands to many times
    its size, or has an array of another type or of another size than its bytes."""
    require_regular(path)
    with library_errors(path, "an .npz"), path.open("rb") as stream:
        archive = open_zip(stream)
        entries = zip_entries(archive, path.stat().st_size)
        for name, entry in entries.items():  # all of them before an array has memory
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"its entry {name[:60]!r} is compressed by an unusual method")
            limit = FREE_BYTES + MAX_EXPANSION * entry.compress_size
            if entry.file_size > limit:
                raise ValueError(
                    f"its entry {name[:60]!r} expands from {entry.compress_size} bytes to "
                    f"{entry.file_size}, the limit is {limit}"
                )
        arrays = {}
        for name, entry in entries.items():
            with archive.open(entry) as member:
                shape, order, dtype = npy_header(member)  # type: ignore[arg-type]
                claimed = member.tell() + dtype.itemsize * prod(shape)
                if dtype.kind not in NUMBERS or min(shape, default=0) < 0:
                    raise ValueError(f"{name} has the shape {shape} and the type {dtype}")
                if claimed != entry.file_size:
                    raise ValueError(
                        f"{name} claims {claimed} bytes of shape {shape}, it has {entry.file_size}"
                    )
                flat = np.empty(prod(shape), dtype=dtype)
                read_exactly(member, flat)
                member.read(1)  # zipfile compares the checksum at the end of an entry
            arrays[name.removesuffix(".npy")] = flat.reshape(shape, order=order)
        return arrays
