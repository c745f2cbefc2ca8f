"""GRID: the map that its inference writes, a `.pt` file with one tensor of codes, (levels, items).

Column i is item i of the catalog, or of the ids 0, 1, 2 ... without one. The last level separates
items whose other codes are equal: 0 for an item that is alone, otherwise 1, 2, 3 ..."""

from pathlib import Path

import numpy as np

from sidtool.base.digests import file_digest
from sidtool.base.errors import DataError
from sidtool.data import Items
from sidtool.data.tables import library_errors
from sidtool.integrations.formats.codebooks.tensor_files import StoredTensor, TorchFile
from sidtool.integrations.formats.maps import level_sizes, map_bundle
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import LETTERS, SPELLINGS, SidSpace


def read_grid(
    path: Path, *, name: str, sizes: tuple[int, ...] | None = None, items: Items | None = None
) -> Bundle:
    """The bundle of a map of GRID, spelled as OpenOneRec does; ids and titles come from `items`.

    Raises DataError if the file has no such tensor or another number of items, UsageError if the
    sizes do not fit the codes."""
    file = TorchFile(path)
    with library_errors(path, "a map"):
        tensor = StoredTensor.of(file.value)
        if tensor is None:
            raise ValueError("it has no tensor of codes, but another value")
        by_level = file.arrays({"its tensor": tensor})["its tensor"]
        shape = by_level.shape
        if by_level.ndim != 2 or by_level.dtype.kind not in "iu" or not by_level.size:
            raise ValueError(f"its tensor has the shape {shape} and the type {by_level.dtype}")
        if len(by_level) > len(LETTERS):
            raise ValueError(f"its tensor has {len(by_level)} levels: it must be (levels, items)")
    codes = np.ascontiguousarray(by_level.T, dtype=np.int64)
    if items is not None and len(items) != len(codes):
        raise DataError(f"{path} has {len(codes)} items, the catalog {len(items)}")
    ids = [str(number) for number in range(len(codes))] if items is None else list(items.ids)
    space = SidSpace(level_sizes(codes, sizes), **SPELLINGS["openonerec"])  # type: ignore[arg-type]
    titles = None if items is None else list(items.titles)
    source = {"system": "grid", "map": file_digest(path)}
    return map_bundle(space, ids, codes, titles, name=name, source=source, catalog=items)
