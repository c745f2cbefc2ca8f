"""The metadata of a stored array, checked before anything is read or allocated, and the decoding of
its chunks."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.documents import parse_json

MAX_METADATA_BYTES = 1 << 16
"""A larger document of an array is refused."""
MAX_DIMENSIONS = 8

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = ("bool", *_INTEGERS, "float32", "float64")
"""Types of arrays, by their names in Zarr."""
COMPRESSORS = ("gzip", "zstd")
"""Codecs that may follow `bytes`."""
_KEYS = {
    "zarr_format",
    "node_type",
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
}
_OPTIONAL_KEYS = {"attributes", "dimension_names", "storage_transformers"}


@dataclass(frozen=True)
class ArrayMetadata:
    """What the chunks of an array are: their shape, type, names and compressor."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """with the byte order of the chunks"""
    chunk_shape: tuple[int, ...]
    key_prefix: str
    """of the chunks' names, behind the name of the array"""
    separator: str
    compressor: str | None
    fill_value: Any

    @classmethod
    def parse(cls, data: bytes) -> "ArrayMetadata":
        """Read an array's `zarr.json`.

        Raises ValueError for a document that Zarr v3 does not specify, or with parts that
        docs/format.md excludes.
        """
        if len(data) > MAX_METADATA_BYTES:
            raise ValueError(f"it has more than {MAX_METADATA_BYTES} bytes")
        meta = parse_json(data)
        if not isinstance(meta, dict) or not meta.keys() >= _KEYS:
            raise ValueError("a key is missing")
        unknown = meta.keys() - _KEYS - _OPTIONAL_KEYS
        if unknown or meta.get("storage_transformers"):
            raise ValueError(f"the key {min(unknown, default='storage_transformers')!r} is unknown")
        if meta["zarr_format"] != 3 or meta["node_type"] != "array":
            raise ValueError("it is not an array of Zarr 3")
        shape = _sizes(meta["shape"], 0)
        chunk_shape = _sizes(_configuration(meta["chunk_grid"], "regular")["chunk_shape"], 1)
        if len(shape) != len(chunk_shape):
            raise ValueError(f"chunks have {len(chunk_shape)} dimensions, the array {len(shape)}")
        if meta["data_type"] not in DTYPES:
            raise ValueError(f"the type {meta['data_type']!r} is not supported")
        dtype = np.dtype(meta["data_type"])
        endian, compressor = _codecs(meta["codecs"], dtype)
        prefix, separator = _key_encoding(meta["chunk_key_encoding"])
        fill_value = _fill_value(meta["fill_value"], dtype)
        return cls(
            shape,
            dtype.newbyteorder(endian),
            chunk_shape,
            prefix,
            separator,
            compressor,
            fill_value,
        )

    @property
    def n_bytes(self) -> int:
        """Bytes of the array and of a chunk, without compression."""
        return self.dtype.itemsize * (prod(self.shape) + prod(self.chunk_shape))

    def place(self, name: str, key: str) -> tuple[slice, ...] | None:
        """The part of the array that the chunk under a key fills; None if it is no chunk of it."""
        start = f"{name}/{self.key_prefix}"
        numbers = key.removeprefix(start).split(self.separator) if key.startswith(start) else []
        if len(numbers) != len(self.shape) or not all(_is_index(number) for number in numbers):
            return None
        firsts = [
            int(number) * size for number, size in zip(numbers, self.chunk_shape, strict=True)
        ]
        if any(first >= size for first, size in zip(firsts, self.shape, strict=True)):
            return None
        return tuple(
            slice(first, first + size) for first, size in zip(firsts, self.chunk_shape, strict=True)
        )

    def decode(self, data: bytes) -> NDArray[Any]:
        """The values of a chunk. Raises ValueError unless it has exactly the bytes of one."""
        n_bytes = self.dtype.itemsize * prod(self.chunk_shape)
        if self.compressor == "gzip":
            data = _gunzip(data, n_bytes)
        elif self.compressor == "zstd":
            data = _unzstd(data, n_bytes)
        if len(data) != n_bytes:
            raise ValueError(f"a chunk has {len(data)} bytes, not {n_bytes}")
        return np.frombuffer(data, dtype=self.dtype).reshape(self.chunk_shape)


def _sizes(value: Any, least: int) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_DIMENSIONS:
        raise ValueError(f"an array has 1 to {MAX_DIMENSIONS} dimensions")
    if any(type(size) is not int or not least <= size < 1 << 48 for size in value):
        raise ValueError(f"a size is not a whole number from {least}: {str(value)[:60]}")
    return tuple(value)


def _configuration(value: Any, *names: str) -> dict[str, Any]:
    """The configuration of a named part."""
    if not isinstance(value, Mapping) or value.get("name") not in names:
        raise ValueError(f"{str(value)[:60]} is not supported, only {' and '.join(names)}")
    configuration = value.get("configuration", {})
    if not isinstance(configuration, dict) or value.keys() - {"name", "configuration"}:
        raise ValueError(f"{str(value)[:60]} is malformed")
    return configuration


def _codecs(value: Any, dtype: np.dtype[Any]) -> tuple[Literal["<", ">"], str | None]:
    """The byte order ("<" or ">") and the compressor."""
    if not isinstance(value, list) or not 1 <= len(value) <= 2:
        raise ValueError("codecs are bytes, and at most one compressor behind it")
    endian = _configuration(value[0], "bytes").get("endian")
    if endian not in ("little", "big") and (endian is not None or dtype.itemsize > 1):
        raise ValueError(f"the byte order is {endian!r}")
    compressor = None
    if len(value) == 2:
        _configuration(value[1], *COMPRESSORS)
        compressor = value[1]["name"]
    return (">" if endian == "big" else "<"), compressor


def _key_encoding(value: Any) -> tuple[str, str]:
    configuration = _configuration(value, "default", "v2")
    default = value["name"] == "default"
    separator = configuration.get("separator", "/" if default else ".")
    if separator not in ("/", "."):
        raise ValueError(f"the separator is {separator!r}")
    return (f"c{separator}" if default else ""), separator


def _fill_value(value: Any, dtype: np.dtype[Any]) -> Any:
    """The value of chunks that are not stored."""
    kinds: dict[str, type | tuple[type, ...]] = {"b": bool, "i": int, "u": int, "f": (int, float)}
    kind = dtype.kind
    fits = isinstance(value, kinds[kind]) and isinstance(value, bool) == (kind == "b")
    if fits and kind in "iu":
        fits = np.iinfo(dtype).min <= int(value) <= np.iinfo(dtype).max
    if not fits:
        raise ValueError(f"the fill value {str(value)[:60]} is not of type {dtype.name}")
    return value


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15 and str(int(text)) == text


def _gunzip(data: bytes, n_bytes: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)  # gzip
    try:
        values = stream.decompress(data, n_bytes + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not stream.eof or stream.unused_data:
        raise ValueError(f"a chunk is not one gzip member of {n_bytes} bytes")
    return values


def _unzstd(data: bytes, n_bytes: int) -> bytes:
    from numcodecs.zstd import decompress  # type: ignore[import-untyped]

    # without a size in its header, a frame could grow without end
    if _zstd_size(data) != n_bytes:
        raise ValueError(f"a chunk is not one zstd frame of {n_bytes} bytes")
    try:
        return bytes(decompress(data))
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _zstd_size(data: bytes) -> int | None:
    """The size that a zstd frame claims to have without compression (RFC 8878, 3.1.1.1)."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = data[4]
    single_segment = descriptor >> 5 & 1
    length = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if not length or len(data) < start + length:
        return None
    size = int.from_bytes(data[start : start + length], "little")
    return size + 256 if length == 2 else size
