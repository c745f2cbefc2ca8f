"""Vectors and their ids in a Zarr folder or zip that another program wrote.

Zarr fills in what is not stored, allocates what the metadata claims, and knows a codec that runs
code (pickle). So the claims of an array are compared with the stored bytes before it is read."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from sidtool.base.errors import DataError
from sidtool.data.tables.json_tables import is_id
from sidtool.data.tables.opening import MAX_EXPANSION
from sidtool.data.vectors import Opened

CODECS = {
    *("bytes", "transpose", "crc32c", "sharding_indexed", "vlen-utf8", "vlen-bytes"),
    *("zstd", "blosc", "gzip", "zlib", "lz4", "bz2", "lzma", "shuffle", "delta"),
}
"""Codecs that are read, by their names in Zarr formats 2 and 3."""
FREE_BYTES = 1 << 24
"""Bytes that an array of any size may claim: a few rows may be in a large chunk."""
METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def open_zarr(path: Path) -> Opened:
    """The matrix of vectors, its chunks, and the ids of its rows (None if it is an array and not a
    group of `vectors` and `ids`). Raises DataError if an array claims more than is stored."""
    import zarr
    from zarr.storage import ZipStore

    sizes = _object_sizes(path)
    stored = zarr.open(ZipStore(path, mode="r") if path.suffix == ".zip" else path, mode="r")
    ids = None
    if isinstance(stored, zarr.Array):
        vectors = _checked(path, stored, sizes)
    else:
        vectors = _checked(path, stored["vectors"], sizes)
        values = _checked(path, stored["ids"], sizes)[:].tolist()
        ids = [_id(path, row, value) for row, value in enumerate(values, 1)]
    return vectors, lambda: ids, max(vectors.chunks[0], 1)


def _object_sizes(path: Path) -> dict[str, int]:
    """The bytes of each stored object by its name."""
    if path.suffix != ".zip":
        files = (file for file in path.rglob("*") if file.is_file())
        return {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
    with ZipFile(path) as archive:
        entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > _allowed(path.stat().st_size):
        raise DataError(f"{path} expands to more than {MAX_EXPANSION} times its size")
    return {entry.filename: entry.file_size for entry in entries}


def _checked(path: Path, array: Any, sizes: dict[str, int]) -> Any:
    """The array. Raises DataError unless all of its chunks are stored, with codecs of CODECS, and
    their bytes can hold what it claims."""
    prefix = f"{array.path}/" if array.path else ""
    chunks = {
        name: size
        for name, size in sizes.items()
        if name.startswith(prefix) and name.rsplit("/", 1)[-1] not in METADATA
    }
    metadata = array.metadata.to_dict()
    parts = [metadata.get(key) for key in ("codecs", "filters", "compressor")]
    unknown = sorted(set(_codec_names(parts)) - CODECS)
    if unknown:
        raise DataError(f"{path}: the codec {unknown[0]!r} of {prefix or 'the array'} is not read")
    grid = array.shards or array.chunks
    if min((*array.shape, *grid), default=0) < 1:
        raise DataError(f"{path}: {prefix or 'the array'} has no rows")
    n_chunks = math.prod(-(-size // step) for size, step in zip(array.shape, grid, strict=True))
    if len(chunks) < n_chunks:
        raise DataError(
            f"{path}: {n_chunks - len(chunks)} of {n_chunks} chunks of {prefix or 'the array'} are "
            "not stored",
            hint="an array of zeros has to be written with write_empty_chunks",
        )
    claimed = np.dtype(array.dtype).itemsize * max(math.prod(array.shape), math.prod(grid))
    if claimed > _allowed(sum(chunks.values())):
        raise DataError(
            f"{path}: {prefix or 'the array'} claims {claimed} bytes, {sum(chunks.values())} are "
            "stored"
        )
    return array


def _allowed(stored: int) -> int:
    return FREE_BYTES + MAX_EXPANSION * stored


def _codec_names(value: Any) -> Iterator[str]:
    """Every name or id of a codec in metadata, those of codecs inside of codecs included."""
    if isinstance(value, dict):
        yield from (str(value[key]) for key in ("name", "id") if key in value)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for member in value:
            yield from _codec_names(member)


def _id(path: Path, row: int, value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if not is_id(value):
        raise DataError(f"{path}, row {row} of ids: {value!r} is no id")
    return str(value)
