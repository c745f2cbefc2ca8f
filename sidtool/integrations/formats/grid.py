"""GRID: the map that its inference writes, a `.pt` file with one tensor of codes, (levels, items).

Column i is item i of the catalog, or of the ids 0, 1, 2 ... without one. The last level separates
items whose other codes are equal: 0 for an item that is alone, otherwise 1, 2, 3 ..."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import file_digest
from sidtool.base.errors import DataError
from sidtool.data import Items
from sidtool.data.tables import library_errors
from sidtool.integrations.formats.codebooks.torch_file import StoredTensor, TorchFile
from sidtool.integrations.formats.maps import level_sizes, map_bundle
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import LETTERS, SPELLINGS, SidSpace


def read_grid(
    path: Path, *, name: str, sizes: tuple[int, ...] | None = None, items: Items | None = None
) -> Bundle:
    """The bundle of a map of GRID, spelled as OpenOneRec does; ids and titles come from `items`.

    Raises DataError if the file has no such tensor or another number of items, UsageError if the
    sizes do not fit the codes."""
    codes = _read_codes(path)
    if items is not None and len(items) != len(codes):
        raise DataError(f"{path} has {len(codes)} items, the catalog {len(items)}")
    ids = [str(number) for number in range(len(codes))] if items is None else list(items.ids)
    space = SidSpace(level_sizes(codes, sizes), **SPELLINGS["openonerec"])  # type: ignore[arg-type]
    titles = None if items is None else list(items.titles)
    source = {"system": "grid", "map": file_digest(path)}
    return map_bundle(space, ids, codes, titles, name=name, source=source, catalog=items)


def _read_codes(path: Path) -> NDArray[np.int64]:
    """(items, levels) codes."""
    file = TorchFile(path)
    with library_errors(path, "a map"):
        tensor = StoredTensor.of(file.value)
        if tensor is None:
            raise ValueError("it has no tensor of codes, but another value")
        codes = file.arrays({"its tensor": tensor})["its tensor"]
        if codes.ndim != 2 or codes.dtype.kind not in "iu" or not codes.size:
            raise ValueError(f"its tensor has the shape {codes.shape} and the type {codes.dtype}")
        if len(codes) > len(LETTERS):
            raise ValueError(f"its tensor has {len(codes)} levels: it must be (levels, items)")
    return np.ascontiguousarray(codes.T, dtype=np.int64)
