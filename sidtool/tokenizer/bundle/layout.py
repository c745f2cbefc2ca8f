"""How an array is stored: uncompressed chunks of whole rows, under the names and with the metadata
of Zarr v3. docs/format.md specifies both."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.documents import parse_json

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
        """The layout that an array's metadata describes; nothing is allocated by its sizes.

        Raises ValueError, KeyError or TypeError for any other layout than that of `metadata`."""
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
    for group in sorted(_groups(arrays)):
        yield f"{group}{META}", _spelled(GROUP)
    for name, array in arrays.items():
        layout = Layout.of(array)
        yield f"{name}{META}", _spelled(layout.metadata())
        yield from layout.chunks(name, array)


def _groups(names: Iterable[str]) -> set[str]:
    """The folders of arrays."""
    steps = [name.split("/") for name in names]
    return {"/".join(path[:depth]) for path in steps for depth in range(1, len(path))}


def _spelled(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode()


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_DIMENSIONS:
        raise ValueError(f"an array has 1 to {MAX_DIMENSIONS} dimensions")
    if any(type(size) is not int or not 0 <= size < 1 << 48 for size in value):
        raise ValueError(f"a size is not a whole number from 0: {str(value)[:60]}")
    return tuple(value)
