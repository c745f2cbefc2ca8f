"""The manifest: what a bundle says of itself, and the three digests that are its identity.

Knows the keys and how values are hashed; knows nothing of storage. Digests are taken over values,
so chunks, compressors, zip or folder do not change them. Name, version, parent, dates, stats and
the index stand outside."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.item_map import ItemMap
from sidtool.errors import CompatibilityError, IntegrityError
from sidtool.quantize.codebook import Codebook
from sidtool.sid import SidSpace

FORMAT = 1
"""The newest bundle format that this version reads and the one that it writes; it reads every older
one too."""


@dataclass(frozen=True)
class Identity:
    """SHA-256 (hex) of the three parts of a bundle."""

    space: str
    codebook: str
    items: str

    @property
    def digest(self) -> str:
        """One SHA-256 over the three."""
        return hashlib.sha256(f"{self.space}:{self.codebook}:{self.items}".encode()).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """Everything that a bundle knows beside its arrays. Mappings hold JSON values only."""

    name: str
    space: SidSpace
    identity: Identity
    items: int
    collisions: Mapping[str, Any]
    """policy, and the capacity of an appended level"""
    version: str = "1.0"
    parent: str | None = None
    compatible_with: tuple[str, ...] = ()
    recipe: Mapping[str, Any] | None = None
    """how a text becomes a vector and a vector a SID; None where a map came without its codebook"""
    source: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    change: Mapping[str, Any] = field(default_factory=dict)
    """what this version changed: kind and counts; empty for a bundle that was built"""
    lineage: tuple[Mapping[str, Any], ...] = ()
    """the versions before this one, oldest first: version, digest, name, created and change of each
    """
    format: int = FORMAT
    objects: Mapping[str, str] = field(default_factory=dict)
    """stored object -> SHA-256 of its bytes, the root document excepted"""

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is stored."""
        value = {f.name: getattr(self, f.name) for f in fields(self)}
        return value | {
            "space": self.space.to_json(),
            "identity": asdict(self.identity) | {"digest": self.identity.digest},
            "compatible_with": list(self.compatible_with),
            "lineage": [dict(entry) for entry in self.lineage],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Manifest":
        """Read a stored manifest; keys that this version does not know are ignored.

        Raises CompatibilityError on a newer format, IntegrityError on a missing or malformed key.
        """
        if not isinstance(value.get("format"), int):
            raise IntegrityError(
                f"the bundle's manifest says format {value.get('format')!r}, not a number"
            )
        if value["format"] > FORMAT:
            raise CompatibilityError(
                f"the bundle has format {value['format']}, this sidtool reads up to {FORMAT}",
                hint="upgrade sidtool",
            )
        try:
            known = {f.name: value[f.name] for f in fields(cls) if f.name in value}
            identity = {part: value["identity"][part] for part in ("space", "codebook", "items")}
            return cls(
                **known
                | {
                    "space": SidSpace.from_json(value["space"]),
                    "identity": Identity(**identity),
                    "compatible_with": tuple(value.get("compatible_with", ())),
                    "lineage": tuple(value.get("lineage", ())),
                }
            )
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"the bundle's manifest is malformed: {error}") from error


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes. NaN and infinities are
    refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def identify(
    space: SidSpace,
    items: ItemMap,
    codebook: Codebook | None,
    recipe: Mapping[str, Any] | None,
    policy: str,
) -> Identity:
    """Hash the values of a bundle."""
    return Identity(
        space=hashlib.sha256(canonical(space.to_json())).hexdigest(),
        codebook=_hash_codebook(codebook, recipe, policy),
        items=_hash_items(items),
    )


def codebook_arrays(codebook: Codebook) -> dict[str, NDArray[Any]]:
    """A codebook's arrays by the name under which a bundle stores them."""
    levels = {
        f"codebook/level_{level}": centroids for level, centroids in enumerate(codebook.levels)
    }
    return levels | {f"codebook/encoder/{name}": array for name, array in codebook.encoder.items()}


_NOT_IDENTITY = ("model", "revision", "trust_remote_code", "probes")
"""Keys of an encoder's recipe that say where it was found and what it gave there: its weights say
what it is."""


def _hash_codebook(codebook: Codebook | None, recipe: Mapping[str, Any] | None, policy: str) -> str:
    encoder = (recipe or {}).get("encoder", {})
    if "weights" in encoder:
        recipe = {
            **(recipe or {}),
            "encoder": {key: encoder[key] for key in encoder if key not in _NOT_IDENTITY},
        }
    digest = hashlib.sha256(canonical({"recipe": recipe, "policy": policy}))
    for name, array in sorted(codebook_arrays(codebook).items()) if codebook else ():
        _update(digest, name, array)
    return digest.hexdigest()


def _hash_items(items: ItemMap) -> str:
    digest = hashlib.sha256()
    columns: dict[str, NDArray[Any]] = {
        "id_bytes": items.ids.data,
        "id_offset": items.ids.offsets,
        "sid": items.codes,
        "retired": items.retired,
    }
    if items.titles is not None:
        columns |= {"title_bytes": items.titles.data, "title_offset": items.titles.offsets}
    for name, array in columns.items():
        _update(digest, name, array)
    return digest.hexdigest()


def _update(digest: Any, name: str, array: NDArray[Any]) -> None:
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    digest.update(canonical([name, little.dtype.str, list(little.shape)]))
    digest.update(little.tobytes())


def library_versions(*packages: str) -> dict[str, str]:
    """Installed versions of sidtool and of those packages that are there."""
    found = {}
    for package in ("sidtool", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
