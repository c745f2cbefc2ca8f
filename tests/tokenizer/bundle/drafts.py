"""Bundles that an attacker may write: any manifest, arrays, metadata and objects, signed as
docs/format.md asks, so that digests do not give them away. Written from that page alone."""

import io
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.storage.zips import write_zip
from sidtool.tokenizer.bundle import Bundle
from tests.test_format import canonical, hash_of, identity_of, sha256, strings_of

ROOT = "zarr.json"
GROUP = {"attributes": {}, "node_type": "group", "zarr_format": 3}


@dataclass
class Draft:
    """A bundle before it is signed. Change its parts, then `write` it."""

    manifest: dict[str, Any]
    arrays: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    """Metadata of an array by its name, instead of that which follows from the array."""
    chunks: dict[str, bytes] = field(default_factory=dict)
    """The bytes of an array's one chunk by its name, instead of the array's bytes."""
    objects: dict[str, bytes | None] = field(default_factory=dict)
    """Objects by name, instead of or beside those of the arrays; None removes one."""

    @classmethod
    def of(cls, bundle: Bundle) -> "Draft":
        """A draft of a bundle in memory."""
        manifest = json.loads(json.dumps(bundle.manifest.to_json()))
        del manifest["objects"]
        return cls(manifest, {name: np.array(array) for name, array in bundle.arrays.items()})

    def copy(self) -> "Draft":
        """A draft that can be changed without changing this one."""
        return deepcopy(self)

    def reindex(self) -> None:
        """Make the index of the ids and codes."""
        ids = strings_of(self.arrays, "id")
        hashed = sorted((hash_of(text.encode()), row) for row, text in enumerate(ids))
        self.arrays["index/id_hash"] = np.array([value for value, _ in hashed], dtype=np.uint64)
        self.arrays["index/id_row"] = np.array([row for _, row in hashed], dtype=np.uint32)
        self.arrays["index/id_hash_first"] = self.arrays["index/id_hash"][::4096]
        self.arrays["index/sid_first"] = self.arrays["items/sid"][::4096]

    def set_strings(self, name: str, values: list[bytes]) -> None:
        """Replace the ids ("id") or titles ("title")."""
        offsets = np.cumsum([0, *(len(value) for value in values)], dtype=np.int64)
        self.arrays[f"items/{name}_bytes"] = np.frombuffer(b"".join(values), dtype=np.uint8)
        self.arrays[f"items/{name}_offset"] = offsets

    def identify(self) -> None:
        """Make the identity that of the values."""
        self.manifest["identity"] = identity_of(self.manifest, self.arrays)

    def parts(self) -> dict[str, bytes]:
        """Every object but the root document."""
        made: dict[str, bytes | None] = {}
        for name, array in self.arrays.items():
            for depth in range(1, name.count("/") + 1):
                made["/".join(name.split("/")[:depth]) + "/zarr.json"] = spelled(GROUP)
            chunk = "/".join(["c", *("0" for _ in array.shape)])
            made[f"{name}/zarr.json"] = spelled(self.metadata.get(name, metadata_of(array)))
            made[f"{name}/{chunk}"] = self.chunks.get(name, little_endian(array).tobytes())
        made |= self.objects
        return {name: data for name, data in sorted(made.items()) if data is not None}

    def digests(self) -> dict[str, str]:
        """The SHA-256 of every object but the root document."""
        return {name: sha256(data) for name, data in self.parts().items()}

    def stored(self) -> dict[str, bytes]:
        """Every object, the root document last; its `objects` are made unless they are set."""
        return self.parts() | {ROOT: root_document({"objects": self.digests()} | self.manifest)}

    def write(self, path: Path) -> Path:
        """Write a folder, or a zip if the name ends in .zip."""
        objects = self.stored()
        if path.suffix == ".zip":
            path.write_bytes(zipped(objects))
            return path
        for name, data in objects.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path


def zipped(objects: Mapping[str, bytes]) -> bytes:
    """The one zip that these objects make."""
    stream = io.BytesIO()
    write_zip(stream, objects.items(), last=ROOT)
    return stream.getvalue()


def root_document(manifest: Any) -> bytes:
    """The signed root document of a manifest."""
    attributes = {"sidtool": manifest, "sidtool_sha256": sha256(canonical(manifest))}
    root = {"attributes": attributes, "node_type": "group", "zarr_format": 3}
    return json.dumps(root, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def metadata_of(array: Any) -> dict[str, Any]:
    """The metadata of an array in one chunk."""
    shape = list(array.shape)
    endian = {} if array.dtype.itemsize == 1 else {"configuration": {"endian": "little"}}
    return {
        "attributes": {},
        "chunk_grid": {
            "configuration": {"chunk_shape": [max(size, 1) for size in shape]},
            "name": "regular",
        },
        "chunk_key_encoding": {"configuration": {"separator": "/"}, "name": "default"},
        "codecs": [{"name": "bytes"} | endian],
        "data_type": array.dtype.name,
        "fill_value": False if array.dtype == np.bool_ else 0,
        "node_type": "array",
        "shape": shape,
        "storage_transformers": [],
        "zarr_format": 3,
    }


def spelled(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def little_endian(array: Any) -> Any:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
