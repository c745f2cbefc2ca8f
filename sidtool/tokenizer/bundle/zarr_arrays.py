"""The arrays of a stored bundle, whole or in part, under the names and with the metadata of Zarr v3
(docs/format.md).

Chunks are uncompressed whole rows, so some rows are byte ranges of some objects. Objects that are
read whole are checked against the digests of the manifest."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sidtool.base.artifact import MAX_ROOT_BYTES
from sidtool.base.documents import parse_json
from sidtool.base.errors import IntegrityError, SidtoolError
from sidtool.base.storage import Storage

META = "/zarr.json"
"""The metadata of an array or a group, behind its name."""
MAX_METADATA_BYTES = 1 << 16
"""A larger document of an array is refused."""
MAX_DIMENSIONS = 8
CHUNK_BYTES = 1 << 22
"""A larger array is cut into equal chunks of at most this size."""

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = ("bool", *_INTEGERS, "float16", "float32", "float64")
"""Types of arrays, by their names in Zarr."""
GROUP = {"attributes": {}, "zarr_format": 3, "node_type": "group"}

_UNSAFE = re.compile(r"[\\:\x00]")
"""Characters of Windows paths and drives, and the end of a C string."""

RowRange = tuple[int, int]
"""First and last row (exclusive)."""
ByteRange = tuple[str, int, int]
"""An object, and its first and last byte (exclusive)."""


@dataclass(frozen=True)
class Layout:
    """Shape and type of a stored array, and the rows of each chunk."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """little-endian"""
    chunk_rows: int

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Layout":
        """The layout in which an array is written."""
        n_chunks = max(1, -(-array.nbytes // CHUNK_BYTES))  # rounded up
        chunk_rows = max(1, -(-len(array) // n_chunks))
        return cls(array.shape, array.dtype.newbyteorder("<"), chunk_rows)

    @classmethod
    def parse(cls, data: bytes) -> "Layout":
        """The layout that an array's metadata describes; nothing is allocated by its sizes. Raises
        ValueError, KeyError or TypeError for any other layout than that of `metadata`."""
        if len(data) > MAX_METADATA_BYTES:
            raise ValueError(f"it has more than {MAX_METADATA_BYTES} bytes")
        meta = parse_json(data)
        shape = _sizes(meta["shape"])
        chunk_rows = _sizes(meta["chunk_grid"]["configuration"]["chunk_shape"])[0]
        if meta["data_type"] not in DTYPES:
            raise ValueError(f"the type {meta['data_type']!r} is not supported")
        layout = cls(shape, np.dtype(meta["data_type"]).newbyteorder("<"), chunk_rows)
        expected = layout.metadata()
        differing = [key for key, value in expected.items() if meta.get(key, value) != value]
        differing += meta.keys() ^ expected.keys()
        unread = {"attributes", "dimension_names", "fill_value", "storage_transformers"}
        if set(differing) - unread or meta.get("storage_transformers") or not chunk_rows:
            raise ValueError(
                f"its {min(differing, default='chunk_grid')} is not that of uncompressed chunks of "
                "whole rows"
            )
        return layout

    def metadata(self) -> dict[str, Any]:
        """The document that is stored with the array."""
        codec: dict[str, Any] = {"name": "bytes"}
        if self.dtype.itemsize > 1:
            codec["configuration"] = {"endian": "little"}
        chunk_shape = [self.chunk_rows, *self.shape[1:]]
        return {
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.dtype.type(0).item(),
            "codecs": [codec],
            "attributes": {},
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * prod(self.shape[1:])

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk; the last one is as long as the others, whatever it has behind the last
        row."""
        return self.chunk_rows * self.row_bytes

    @property
    def n_chunks(self) -> int:
        """The number of chunks."""
        return -(-self.shape[0] // self.chunk_rows)  # rounded up

    def byte_ranges(self, name: str, rows: RowRange) -> list[ByteRange]:
        """The byte ranges that make up these rows of the array `name`."""
        first, stop = rows
        ranges = []
        for chunk in range(first // self.chunk_rows, -(-stop // self.chunk_rows)):
            start = max(first - chunk * self.chunk_rows, 0)
            end = min(stop - chunk * self.chunk_rows, self.chunk_rows)
            key = self._key(name, chunk)
            ranges.append((key, start * self.row_bytes, end * self.row_bytes))
        return ranges

    def chunks(self, name: str, array: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
        """The name and bytes of each chunk of an array; zeros fill up the last one."""
        for chunk in range(self.n_chunks):
            start = chunk * self.chunk_rows
            rows = array[start : start + self.chunk_rows]
            data = rows.astype(self.dtype, copy=False).tobytes()
            yield self._key(name, chunk), data.ljust(self.chunk_bytes, b"\0")

    def _key(self, name: str, chunk: int) -> str:
        tail = "/0" * (len(self.shape) - 1)  # one chunk in every other dimension
        return f"{name}/c/{chunk}{tail}"


def array_objects(arrays: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, bytes]]:
    """The name and bytes of each object that stores arrays: metadata of groups and arrays, and
    chunks."""
    steps = [name.split("/") for name in arrays]
    groups = {"/".join(path[:depth]) for path in steps for depth in range(1, len(path))}
    for group in sorted(groups):
        yield f"{group}{META}", _spelled(GROUP)
    for name, array in arrays.items():
        layout = Layout.of(array)
        yield f"{name}{META}", _spelled(layout.metadata())
        yield from layout.chunks(name, array)


def _spelled(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode()


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_DIMENSIONS:
        raise ValueError(f"an array has 1 to {MAX_DIMENSIONS} dimensions")
    if any(type(size) is not int or not 0 <= size < 1 << 48 for size in value):
        raise ValueError(f"a size is not a whole number from 0: {str(value)[:60]}")
    return tuple(value)


Expected = tuple[str, tuple[int | None, ...]]
"""Type and shape of an array; None is any size."""


class GroupManifest(Protocol):
    """What the storage needs of a manifest: its JSON object, and the digests of the objects."""

    @property
    def objects(self) -> Mapping[str, str]:
        """SHA-256 of every stored object except the root document."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is stored."""


class StoredArrays(Mapping[str, NDArray[Any]]):
    """The arrays of a manifest's objects by path; each is read when it is accessed.

    Raises IntegrityError if one is missing, if its type or shape differs from the manifest, or if
    an object that is read whole differs from its digest."""

    def __init__(
        self, storage: Storage, manifest: GroupManifest, expected: Mapping[str, Expected]
    ) -> None:
        self.location = storage.location
        self._storage = storage
        self._manifest = manifest
        self._expected = expected
        self._layouts: dict[str, Layout] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self:
            raise IntegrityError(f"{self._storage.location} has no array {name}")
        try:
            return self._read_whole(name)
        except IntegrityError as error:
            if self._was_replaced():
                message = f"{self.location} was replaced after it was opened"
                raise IntegrityError(message, hint="open it again") from error
            raise

    def _was_replaced(self) -> bool:
        """Whether the root document names other objects than when it was opened."""
        try:
            root = parse_json(Storage(self.location).read(META[1:], limit=MAX_ROOT_BYTES) or b"")
            return bool(root["attributes"]["sidtool"]["objects"] != self._manifest.objects)
        except (SidtoolError, ValueError, KeyError, TypeError):
            return False

    def _read_whole(self, name: str) -> NDArray[Any]:
        layout = self.layout(name)
        rows = (0, layout.shape[0])
        ranges = layout.byte_ranges(name, rows)
        keys = [key for key, _, _ in ranges]
        # read whole for the digests, also what fills up the last one
        chunks = self._read(name, [(key, 0, layout.chunk_bytes) for key in keys])
        stored_rows = [data[:end] for (_, _, end), data in zip(ranges, chunks, strict=True)]
        array = _assemble(name, layout, rows, zip(ranges, stored_rows, strict=True))
        self._check_digests(dict(zip(keys, chunks, strict=True)))
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

    def part(self, name: str, rows: RowRange) -> NDArray[Any]:
        """Some rows of an array, which are checked against no digest."""
        layout = self.layout(name)
        ranges = layout.byte_ranges(name, rows)
        return _assemble(name, layout, rows, zip(ranges, self._read(name, ranges), strict=True))

    def in_parts(self, name: str) -> Any:
        """An array whose layout is checked, and whose rows are read when they are asked for
        (`ArrayInParts`)."""
        self.layout(name)
        return ArrayInParts(self, name)

    def layout(self, name: str) -> Layout:
        """The layout of an array, checked against the manifest."""
        if name not in self._layouts:
            try:
                data = self._storage.read(name + META, limit=MAX_METADATA_BYTES) or b""
                layout = Layout.parse(data)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _unreadable(name, f"its metadata is damaged: {error}") from error
            self._check_digests({name + META: data})
            dtype, shape = self._expected.get(name, (layout.dtype.name, layout.shape))
            same_depth = len(shape) == len(layout.shape)
            sizes = zip(shape, layout.shape, strict=False)
            same_sizes = same_depth and all(size in (None, actual) for size, actual in sizes)
            if layout.dtype.name != dtype or not same_sizes:
                spelled = ", ".join("any" if size is None else str(size) for size in shape)
                raise IntegrityError(
                    f"{name} is {layout.dtype.name} {layout.shape}, the manifest implies {dtype} "
                    f"({spelled})"
                )
            objects = self._manifest.objects
            is_whole = layout.n_chunks <= len(objects)  # there may be 2^48 chunks
            ranges = layout.byte_ranges(name, (0, layout.shape[0])) if is_whole else []
            if not is_whole or any(key not in objects for key, _, _ in ranges):
                raise _unreadable(name, "an object is missing")
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


class ArrayInParts:
    """A stored array whose rows are read when they are asked for, together with those beside them,
    and not checked against digests. numpy reads it whole."""

    ROWS = 1 << 10

    def __init__(self, arrays: StoredArrays, name: str) -> None:
        self._arrays = arrays
        self._name = name
        self._last = (0, np.empty(0))  # the first row that was read last, and the rows

    def __len__(self) -> int:
        return self._arrays.layout(self._name).shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._arrays[self._name]

    def __getitem__(self, key: Any) -> Any:
        rows = range(len(self))[key] if isinstance(key, slice) else range(key, key + 1)
        start, block = self._last
        if not start <= rows.start <= rows.stop <= start + len(block):
            start = rows.start // self.ROWS * self.ROWS
            stop = min(max(rows.stop, start + self.ROWS), len(self))
            block = self._arrays.part(self._name, (start, max(start, stop)))
            if len(block) <= 4 * self.ROWS:  # a larger one is not worth its memory
                self._last = start, block
        part = block[rows.start - start : rows.stop - start]
        return part if isinstance(key, slice) else part[0]


def _assemble(
    name: str, layout: Layout, rows: RowRange, pieces: Iterable[tuple[ByteRange, bytes]]
) -> NDArray[Any]:
    """The rows, from the bytes that were read for each range."""
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
    # NumPy takes other bytes for true, but computes with them as numbers
    if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
        raise _unreadable(name, "a value is neither true nor false")
    return array


def _unreadable(name: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"{name} cannot be read: {reason}", hint="sidtool verify lists every broken object"
    )


def check_names(names: Collection[str]) -> None:
    """Raise IntegrityError for a name that could lead outside of the folder of a bundle, a model or
    training examples, ValueError for one that no folder can hold beside the others."""
    for name in names:
        if _UNSAFE.search(name) or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise IntegrityError(f"a file is listed that is outside of the folder: {name!r:.80}")
    # what is in a folder comes directly behind it, since no name has a NUL
    ordered = sorted(name.replace("/", "\0") for name in names)
    for name, next_name in pairwise(ordered):
        if next_name.startswith(f"{name}\0"):
            spelled = name.replace("\0", "/")
            raise ValueError(f"{spelled!r:.80} is an object and a folder of objects")
