"""The arrays of a stored bundle, whole or in part.

An array of uncompressed chunks of whole rows (what sidtool writes) is read by byte ranges. Any
other one is decoded by Zarr, whole and once.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.item_map import BLOCK
from sidtool.bundle.manifest import Manifest
from sidtool.bundle.storage import Storage
from sidtool.bundle.zarr_group import GroupManifest
from sidtool.errors import IntegrityError

META = "/zarr.json"
RowRange = tuple[int, int]
"""First and last row (exclusive)."""
ByteRange = tuple[str, int, int]
"""An object, and its first and last byte (exclusive)."""
Expected = tuple[str, tuple[int | None, ...]]
"""Type and shape of an array; None is any size."""


@dataclass(frozen=True)
class Layout:
    """Shape and type of an array, and the rows of each chunk; `chunk_rows` is None if only Zarr can
    decode it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int | None

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "Layout":
        """Read an array's Zarr metadata."""
        shape = tuple(meta["shape"])
        dtype = np.dtype(meta["data_type"]).newbyteorder("<")
        return cls(shape, dtype, _plain_chunk_rows(meta, shape, dtype))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * prod(self.shape[1:])

    def byte_ranges(self, name: str, rows: RowRange) -> list[ByteRange]:
        """The byte ranges that make up these rows of the array `name`."""
        chunk_rows = self.chunk_rows or 1
        first, stop = rows
        tail = "/0" * (len(self.shape) - 1)  # one chunk in every other dimension
        ranges = []
        for chunk in range(first // chunk_rows, -(-stop // chunk_rows)):
            start = max(first - chunk * chunk_rows, 0)
            end = min(stop - chunk * chunk_rows, chunk_rows)
            key = f"{name}/c/{chunk}{tail}"
            ranges.append((key, start * self.row_bytes, end * self.row_bytes))
        return ranges


def _plain_chunk_rows(
    meta: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> int | None:
    """The rows of a chunk if chunks are whole rows of uncompressed little-endian bytes under Zarr's
    default keys, else None."""
    (codec, *other_codecs) = meta["codecs"]
    endian = codec.get("configuration", {}).get("endian")
    if codec["name"] != "bytes" or other_codecs or (dtype.itemsize > 1 and endian != "little"):
        return None
    slash_keys = {"name": "default", "configuration": {"separator": "/"}}
    if meta["chunk_grid"]["name"] != "regular" or meta["chunk_key_encoding"] != slash_keys:
        return None
    (rows, *other_sizes) = meta["chunk_grid"]["configuration"]["chunk_shape"]
    return rows if tuple(other_sizes) == shape[1:] else None


class StoredArrays(Mapping[str, NDArray[Any]]):
    """The arrays of a manifest's objects by path; each is read when it is accessed.

    Raises IntegrityError if one is missing, or if its type or shape differs from the manifest.
    """

    def __init__(
        self, storage: Storage, manifest: GroupManifest, expected: Mapping[str, Expected]
    ) -> None:
        self._storage = storage
        self._manifest = manifest
        self._expected = expected
        self._layouts: dict[str, Layout] = {}
        self._decoded: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self:
            raise IntegrityError(f"{self._storage.location} has no array {name}")
        n_rows = self.layout(name).shape[0]
        return self.parts(name, [(0, n_rows)])[0]

    def __contains__(self, name: object) -> bool:
        return f"{name}{META}" in self._manifest.objects

    def __iter__(self) -> Iterator[str]:
        names = (name for name in self._manifest.objects if name.endswith(META))
        nodes = sorted(name.removesuffix(META) for name in names)
        groups = {node.rpartition("/")[0] for node in nodes}
        return (node for node in nodes if node not in groups)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def parts(self, name: str, row_ranges: Sequence[RowRange]) -> list[NDArray[Any]]:
        """The rows of an array for each range."""
        layout = self.layout(name)
        if layout.chunk_rows is None:
            whole = self._decode(name)
            return [whole[first:stop] for first, stop in row_ranges]
        byte_ranges = [layout.byte_ranges(name, rows) for rows in row_ranges]
        try:
            flat = [each for part in byte_ranges for each in part]
            chunks = iter(self._storage.read_ranges(flat))
        except FileNotFoundError as error:
            raise _unreadable(name, "an object is missing") from error
        return [
            _assemble(name, layout, rows, zip(part, chunks, strict=False))
            for rows, part in zip(row_ranges, byte_ranges, strict=True)
        ]

    def layout(self, name: str) -> Layout:
        """The layout of an array, checked against the manifest."""
        if name not in self._layouts:
            try:
                layout = Layout.of(json.loads(self._storage.read(name + META) or b""))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                reason = f"its metadata is damaged ({type(error).__name__})"
                raise _unreadable(name, reason) from error
            self._check(name, layout)
            # with a chunk missing, only Zarr can supply the zeros
            if layout.chunk_rows is not None and not self._all_chunks_stored(name, layout):
                layout = replace(layout, chunk_rows=None)
            self._layouts[name] = layout
        return self._layouts[name]

    def _all_chunks_stored(self, name: str, layout: Layout) -> bool:
        """Zarr writers may omit chunks that are all zeros."""
        ranges = layout.byte_ranges(name, (0, layout.shape[0]))
        return all(key in self._manifest.objects for key, _, _ in ranges)

    def _decode(self, name: str) -> NDArray[Any]:
        """A whole array, decoded by Zarr."""
        if name not in self._decoded:
            import zarr
            from zarr.core.buffer import default_buffer_prototype

            keys = sorted(key for key in self._manifest.objects if key.startswith(f"{name}/"))
            to_buffer = default_buffer_prototype().buffer.from_bytes
            try:
                objects = self._storage.read_many(keys)
                buffers = {key: to_buffer(data) for key, data in objects.items()}
                store = zarr.storage.MemoryStore(buffers)
                array = zarr.open_array(store, path=name, mode="r")
                self._decoded[name] = np.asarray(array[...])
            except (ValueError, TypeError, OSError, RuntimeError, KeyError) as error:
                raise _unreadable(name, str(error)) from error
        return self._decoded[name]

    def _check(self, name: str, layout: Layout) -> None:
        stored: Expected = (layout.dtype.name, layout.shape)
        dtype, shape = self._expected.get(name, stored)
        same_depth = len(shape) == len(layout.shape)
        sizes = zip(shape, layout.shape, strict=False)
        same_sizes = same_depth and all(size in (None, actual) for size, actual in sizes)
        if layout.dtype.name != dtype or not same_sizes:
            spelled = ", ".join("any" if size is None else str(size) for size in shape)
            raise IntegrityError(
                f"{name} is {layout.dtype.name} {layout.shape}, the manifest implies {dtype} "
                f"({spelled})"
            )


def _assemble(
    name: str, layout: Layout, rows: RowRange, pieces: Iterable[tuple[ByteRange, bytes]]
) -> NDArray[Any]:
    array = np.empty((rows[1] - rows[0], *layout.shape[1:]), dtype=layout.dtype)
    target = array.reshape(-1).view(np.uint8)  # the same memory, as bytes
    position = 0
    for (_, start, end), data in pieces:
        missing = end - start - len(data)
        if missing:
            raise _unreadable(name, f"an object ends {missing} bytes early")
        target[position : position + len(data)] = np.frombuffer(data, dtype=np.uint8)
        position += len(data)
    return array


def _unreadable(name: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"{name} cannot be read: {reason}", hint="sidtool verify lists every broken object"
    )


def bundle_layout(manifest: Manifest) -> dict[str, Expected]:
    """Type and shape of the arrays that the format defines."""
    n = manifest.items
    levels = manifest.space.levels
    blocks = -(-n // BLOCK)  # rounded up
    codebook: dict[str, Expected] = {
        f"codebook/level_{level}": ("float32", (size, None))
        for level, size in enumerate(manifest.space.sizes)
    }
    return codebook | {
        "items/id_bytes": ("uint8", (None,)),
        "items/id_offset": ("int64", (n + 1,)),
        "items/sid": ("uint16", (n, levels)),
        "items/retired": ("bool", (n,)),
        "items/title_bytes": ("uint8", (None,)),
        "items/title_offset": ("int64", (n + 1,)),
        "index/id_hash": ("uint64", (n,)),
        "index/id_row": ("uint32", (n,)),
        "index/id_hash_first": ("uint64", (blocks,)),
        "index/sid_first": ("uint16", (blocks, levels)),
    }
