"""The arrays of a stored bundle, whole or in part.

Chunks are uncompressed whole rows, so some rows are byte ranges of some objects. Objects that are
read whole are checked against the digests of the manifest.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.base.storage import Storage
from sidtool.tokenizer.bundle.item_map import BLOCK
from sidtool.tokenizer.bundle.layout import (
    MAX_METADATA_BYTES,
    META,
    ByteRange,
    Layout,
    RowRange,
)
from sidtool.tokenizer.bundle.manifest import Manifest
from sidtool.tokenizer.bundle.zarr_group import GroupManifest

Expected = tuple[str, tuple[int | None, ...]]
"""Type and shape of an array; None is any size."""


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

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self:
            raise IntegrityError(f"{self._storage.location} has no array {name}")
        layout = self.layout(name)
        rows = (0, layout.shape[0])
        ranges = layout.byte_ranges(name, rows)
        chunks = self._read(name, [(key, 0, layout.chunk_bytes) for key, _, _ in ranges])
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
        byte_ranges = [layout.byte_ranges(name, rows) for rows in row_ranges]
        chunks = iter(self._read(name, [each for part in byte_ranges for each in part]))
        return [
            _assemble(name, layout, rows, zip(part, chunks, strict=False))
            for rows, part in zip(row_ranges, byte_ranges, strict=True)
        ]

    def layout(self, name: str) -> Layout:
        """The layout of an array, checked against the manifest."""
        if name not in self._layouts:
            try:
                data = self._storage.read(name + META, limit=MAX_METADATA_BYTES) or b""
                layout = Layout.parse(data)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _unreadable(name, f"its metadata is damaged: {error}") from error
            self._check_digests({name + META: data})
            self._check(name, layout)
            self._check_chunks(name, layout)
            self._layouts[name] = layout
        return self._layouts[name]

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

    def _check_chunks(self, name: str, layout: Layout) -> None:
        """Raise IntegrityError unless the manifest has every chunk of an array."""
        objects = self._manifest.objects
        if layout.n_chunks <= len(objects):  # there may be 2^48
            ranges = layout.byte_ranges(name, (0, layout.shape[0]))
            if all(key in objects for key, _, _ in ranges):
                return
        raise _unreadable(name, "an object is missing")

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
    encoder_dim = manifest.made_by.encoder.dim
    return codebook | {
        "encoder/components": ("float16", (None, encoder_dim)),
        "encoder/feature_hash": ("uint64", (None,)),
        "encoder/idf": ("float32", (None,)),
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
