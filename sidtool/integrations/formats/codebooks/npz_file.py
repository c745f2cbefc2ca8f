"""The arrays of an `.npz` of others: sizes are compared with the stored bytes before anything is
allocated, and nothing is unpickled."""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.tables.containers import library_errors, require_regular
from sidtool.data.vector_files import npy_header
from sidtool.integrations.formats.codebooks.zip_entries import (
    expanding_entries,
    open_zip,
    read_exactly,
)

NUMBERS = "fiu"


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of numbers by name. Raises DataError if the file is damaged, or has an array of
    another type or of another size than its bytes."""
    require_regular(path)
    with library_errors(path, "an .npz"), path.open("rb") as stream:
        archive = open_zip(stream)
        entries = expanding_entries(archive, path.stat().st_size)
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
