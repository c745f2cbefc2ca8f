"""The arrays of a stored bundle: whole, or rows of them by ranges of bytes.

Knows the names, types and shapes that the manifest implies, and how Zarr v3 lays an array in
objects; knows nothing of what the values mean. An array that is stored plainly (no codec but
`bytes`, chunks of whole rows: what sidtool writes) is read by arithmetic. Any other one is decoded
by Zarr, whole and once."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.item_map import BLOCK
from sidtool.bundle.manifest import Manifest
from sidtool.bundle.storage import Objects
from sidtool.errors import IntegrityError

META = "/zarr.json"
Span = tuple[int, int]
"""First and stop row."""


@dataclass(frozen=True)
class Layout:
    """How an array lies in its objects; `chunk_rows` is None where only Zarr can tell."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int | None

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "Layout":
        """Read an array's Zarr metadata."""
        shape, dtype = tuple(meta["shape"]), np.dtype(meta["data_type"]).newbyteorder("<")
        plain = (
            [codec["name"] for codec in meta["codecs"]] == ["bytes"]
            and (
                dtype.itemsize == 1
                or meta["codecs"][0].get("configuration", {}).get("endian") == "little"
            )
            and meta["chunk_grid"]["name"] == "regular"
            and meta["chunk_key_encoding"]
            == {"name": "default", "configuration": {"separator": "/"}}
            and tuple(meta["chunk_grid"]["configuration"]["chunk_shape"][1:]) == shape[1:]
        )
        return cls(
            shape, dtype, meta["chunk_grid"]["configuration"]["chunk_shape"][0] if plain else None
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * prod(self.shape[1:])

    def ranges(self, name: str, span: Span) -> list[tuple[str, int, int]]:
        """Objects and their bytes that make up rows first..stop-1 of a plain array."""
        rows, (first, stop), tail = self.chunk_rows or 1, span, "/0" * (len(self.shape) - 1)
        found = []
        for chunk in range(first // rows, -(-stop // rows)):
            start, end = max(first - chunk * rows, 0), min(stop - chunk * rows, rows)
            found.append((f"{name}/c/{chunk}{tail}", start * self.row_bytes, end * self.row_bytes))
        return found


class StoredArrays(Mapping[str, NDArray[Any]]):
    """The arrays that a manifest lists, by path, each read when it is asked for.

    Raises IntegrityError if one is missing, or its type or shape is not what the manifest says.
    """

    def __init__(self, objects: Objects, manifest: Manifest) -> None:
        self._objects, self._manifest = objects, manifest
        self._expected = _expected(manifest)
        self._layouts: dict[str, Layout] = {}
        self._decoded: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self:
            raise IntegrityError(f"the bundle holds no {name}")
        return self.parts(name, [(0, self.layout(name).shape[0])])[0]

    def __contains__(self, name: object) -> bool:
        return f"{name}{META}" in self._manifest.objects

    def __iter__(self) -> Iterator[str]:
        nodes = sorted(
            name.removesuffix(META) for name in self._manifest.objects if name.endswith(META)
        )
        groups = {node.rpartition("/")[0] for node in nodes}
        return (node for node in nodes if node not in groups)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def parts(self, name: str, spans: Sequence[Span]) -> list[NDArray[Any]]:
        """Rows first..stop-1 of an array for each span."""
        layout = self.layout(name)
        if layout.chunk_rows is None:
            whole = self._decode(name)
            return [whole[first:stop] for first, stop in spans]
        ranges = [layout.ranges(name, span) for span in spans]
        try:
            read = iter(self._objects.read_ranges([each for own in ranges for each in own]))
        except FileNotFoundError as error:
            raise _unreadable(name, "an object is missing") from error
        return [
            self._join(name, layout, span, own, read)
            for span, own in zip(spans, ranges, strict=True)
        ]

    def layout(self, name: str) -> Layout:
        """How an array lies in its objects."""
        if name not in self._layouts:
            try:
                layout = Layout.of(json.loads(self._objects.read(name + META) or b""))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise _unreadable(
                    name, f"its metadata is damaged ({type(error).__name__})"
                ) from error
            self._check(name, layout)
            objects = layout.ranges(name, (0, layout.shape[0])) if layout.chunk_rows else ()
            if any(
                own not in self._manifest.objects for own, _, _ in objects
            ):  # Zarr may leave out what is all zeros
                layout = replace(layout, chunk_rows=None)
            self._layouts[name] = layout
        return self._layouts[name]

    def _join(
        self,
        name: str,
        layout: Layout,
        span: Span,
        ranges: Sequence[tuple[str, int, int]],
        read: Iterator[bytes],
    ) -> NDArray[Any]:
        rows = np.empty((span[1] - span[0], *layout.shape[1:]), dtype=layout.dtype)
        target, at = rows.reshape(-1).view(np.uint8), 0
        for _, start, end in ranges:
            data = next(read)
            if len(data) != end - start:
                raise _unreadable(name, f"an object ends {end - start - len(data)} bytes early")
            target[at : at + len(data)] = np.frombuffer(data, dtype=np.uint8)
            at += len(data)
        return rows

    def _decode(self, name: str) -> NDArray[Any]:
        """An array by Zarr, from its objects."""
        if name not in self._decoded:
            import zarr
            from zarr.core.buffer import default_buffer_prototype

            own = sorted(each for each in self._manifest.objects if each.startswith(f"{name}/"))
            wrap = default_buffer_prototype().buffer.from_bytes
            try:
                read = self._objects.read_ranges([(each, None, None) for each in own])
                stored = {each: wrap(data) for each, data in zip(own, read, strict=True)}
                array = zarr.open_array(zarr.storage.MemoryStore(stored), path=name, mode="r")
                self._decoded[name] = np.asarray(array[...])
            except (ValueError, TypeError, OSError, RuntimeError, KeyError) as error:
                raise _unreadable(name, str(error)) from error
        return self._decoded[name]

    def _check(self, name: str, layout: Layout) -> None:
        dtype, shape = self._expected.get(name, (layout.dtype.name, layout.shape))
        fits = len(shape) == len(layout.shape) and all(
            due in (None, own) for due, own in zip(shape, layout.shape, strict=True)
        )
        if layout.dtype.name != dtype or not fits:
            due = ", ".join("any" if size is None else str(size) for size in shape)
            raise IntegrityError(
                f"{name} is {layout.dtype.name} {layout.shape}, the manifest says {dtype} ({due})"
            )


def _unreadable(name: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"{name} cannot be read: {reason}", hint="sidtool verify names what is broken"
    )


def _expected(manifest: Manifest) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Type and shape of the arrays that every sidtool knows; None is any length."""
    n, levels, blocks = manifest.items, manifest.space.levels, -(-manifest.items // BLOCK)
    codebook: dict[str, tuple[str, tuple[int | None, ...]]] = {
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
