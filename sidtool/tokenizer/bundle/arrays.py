"""The arrays of a stored bundle, whole or in part.

An array of uncompressed chunks of whole rows (what sidtool writes) can be read in part, by byte
ranges. Any other one is decoded whole and once. Objects that are read whole are checked against the
digests of the manifest.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.base.storage import Storage
from sidtool.tokenizer.bundle.array_metadata import MAX_METADATA_BYTES, ArrayMetadata
from sidtool.tokenizer.bundle.item_map import BLOCK
from sidtool.tokenizer.bundle.manifest import Manifest
from sidtool.tokenizer.bundle.zarr_group import GroupManifest

META = "/zarr.json"
FREE_BYTES = 32 << 20
"""Bytes that decoded arrays may take, ..."""
MAX_EXPANSION = 20
"""... and more for each byte of their stored chunks."""

RowRange = tuple[int, int]
"""First and last row (exclusive)."""
ByteRange = tuple[str, int, int]
"""An object, and its first and last byte (exclusive)."""
Expected = tuple[str, tuple[int | None, ...]]
"""Type and shape of an array; None is any size."""


@dataclass(frozen=True)
class Layout:
    """Shape and type of an array, and the rows of each chunk; `chunk_rows` is None if chunks are
    decoded, and not read in part."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int | None

    @classmethod
    def of(cls, meta: ArrayMetadata) -> "Layout":
        """The layout of an array: plain if chunks are whole rows of uncompressed little-endian
        bytes under Zarr's default keys."""
        slash_keys = (meta.key_prefix, meta.separator) == ("c/", "/")
        whole_rows = meta.chunk_shape[1:] == meta.shape[1:]
        little = meta.dtype == meta.dtype.newbyteorder("<")
        plain = slash_keys and whole_rows and little and meta.compressor is None
        return cls(meta.shape, meta.dtype, meta.chunk_shape[0] if plain else None)

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


class StoredArrays(Mapping[str, NDArray[Any]]):
    """The arrays of a manifest's objects by path; each is read when it is accessed.

    Raises IntegrityError if one is missing, if its type or shape differs from the manifest, or if
    an object that is read whole differs from its digest.
    """

    def __init__(
        self, storage: Storage, manifest: GroupManifest, expected: Mapping[str, Expected]
    ) -> None:
        self._storage = storage
        self._manifest = manifest
        self._expected = expected
        self._layouts: dict[str, Layout] = {}
        self._decoded: dict[str, NDArray[Any]] = {}
        self._n_decoded = 0
        self._n_stored = 0

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self:
            raise IntegrityError(f"{self._storage.location} has no array {name}")
        layout = self.layout(name)
        if layout.chunk_rows is None:
            return self._decode(name)
        rows = (0, layout.shape[0])
        ranges = layout.byte_ranges(name, rows)
        chunk_bytes = layout.chunk_rows * layout.row_bytes
        chunks = self._read(name, [(key, 0, chunk_bytes) for key, _, _ in ranges])
        # the last chunk is as long as the others, whatever it has behind the last row
        pieces = [(each, data[: each[2]]) for each, data in zip(ranges, chunks, strict=True)]
        array = _assemble(name, layout, rows, pieces)
        self._check_digests({key: data for (key, _, _), data in zip(ranges, chunks, strict=True)})
        return array

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
        chunks = iter(self._read(name, [each for part in byte_ranges for each in part]))
        return [
            _assemble(name, layout, rows, zip(part, chunks, strict=False))
            for rows, part in zip(row_ranges, byte_ranges, strict=True)
        ]

    def layout(self, name: str) -> Layout:
        """The layout of an array, checked against the manifest."""
        if name not in self._layouts:
            meta = self._metadata(name)
            layout = Layout.of(meta)
            self._check(name, layout)
            # of a chunk that is missing, the values follow from the metadata
            if layout.chunk_rows is not None and not self._all_chunks_stored(name, layout):
                layout = replace(layout, chunk_rows=None)
            self._layouts[name] = layout
        return self._layouts[name]

    def _metadata(self, name: str) -> ArrayMetadata:
        try:
            data = self._storage.read(name + META, limit=MAX_METADATA_BYTES) or b""
            meta = ArrayMetadata.parse(data)
        except (ValueError, KeyError, TypeError) as error:
            raise _unreadable(name, f"its metadata is damaged: {error}") from error
        self._check_digests({name + META: data})
        return meta

    def _read(self, name: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        try:
            return self._storage.read_ranges(ranges)
        except FileNotFoundError as error:
            raise _unreadable(name, "an object is missing") from error

    def _check_digests(self, objects: Mapping[str, bytes]) -> None:
        """Raise IntegrityError if whole objects are not those of the manifest."""
        for key, data in objects.items():
            if hashlib.sha256(data).hexdigest() != self._manifest.objects[key]:
                raise _unreadable(key, "its SHA-256 differs from the manifest's")

    def _all_chunks_stored(self, name: str, layout: Layout) -> bool:
        """Whether every chunk is an object: Zarr writers may omit chunks of one value."""
        objects = self._manifest.objects
        if layout.shape[0] > (layout.chunk_rows or 1) * len(objects):
            return False
        ranges = layout.byte_ranges(name, (0, layout.shape[0]))
        return all(key in objects for key, _, _ in ranges)

    def _decode(self, name: str) -> NDArray[Any]:
        """A whole array, from chunks of any kind."""
        if name not in self._decoded:
            meta = self._metadata(name)
            keys = sorted(key for key in self._manifest.objects if key.startswith(f"{name}/"))
            places = {key: place for key in keys if (place := meta.place(name, key)) is not None}
            try:
                chunks = self._storage.read_many(list(places))
                self._check_digests(chunks)
                self._refuse_excess(meta.n_bytes, sum(map(len, chunks.values())))
                array = np.full(meta.shape, meta.fill_value, dtype=meta.dtype)
                for key, place in places.items():
                    part = array[place]
                    part[...] = meta.decode(chunks[key])[tuple(slice(n) for n in part.shape)]
            except FileNotFoundError as error:
                raise _unreadable(name, "an object is missing") from error
            except ValueError as error:
                raise _unreadable(name, str(error)) from error
            self._decoded[name] = _checked(name, array)
        return self._decoded[name]

    def _refuse_excess(self, n_bytes: int, stored: int) -> None:
        """Raise ValueError if the arrays that were decoded so far would take much more memory than
        their chunks take in the store."""
        self._n_decoded += n_bytes
        self._n_stored += stored
        if self._n_decoded > FREE_BYTES + MAX_EXPANSION * self._n_stored:
            raise ValueError(
                f"arrays of {self._n_decoded} bytes are made of {self._n_stored} stored ones"
            )

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
    parts = []
    for (_, start, end), data in pieces:
        missing = end - start - len(data)
        if missing:
            raise _unreadable(name, f"an object ends {missing} bytes early")
        parts.append(data)
    # allocated after the bytes are there
    array = np.empty((rows[1] - rows[0], *layout.shape[1:]), dtype=layout.dtype)
    target = array.reshape(-1).view(np.uint8)  # the same memory, as bytes
    position = 0
    for data in parts:
        target[position : position + len(data)] = np.frombuffer(data, dtype=np.uint8)
        position += len(data)
    if position != len(target):
        raise _unreadable(name, f"rows {rows[0]} to {rows[1]} are not within the array")
    return _checked(name, array)


def _checked(name: str, array: NDArray[Any]) -> NDArray[Any]:
    # NumPy takes other bytes for true, but computes with them as numbers
    if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
        raise _unreadable(name, "a value is neither true nor false")
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
