"""What differs between the kinds of artifacts of a registry: bundles, memories and models.

`sid.json` is the root document of a model folder: it has the digests of the other files, and the
root documents of bundle and memory inside have those of their objects."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sidtool.base.checkpoint import MAX_JSON
from sidtool.base.errors import CompatibilityError, DataError, IntegrityError
from sidtool.base.output_name import BUNDLE, FOLDER, MEMORY, OutputKind
from sidtool.base.storage import Storage, is_zip
from sidtool.memory import MemoryManifest, is_memory, memory_card, verify_memory
from sidtool.model.contract import (
    BUNDLE_COPY,
    CONTRACT,
    MEMORY_COPY,
    Contract,
    model_card,
    parse_contract,
)
from sidtool.registry.records import Kind
from sidtool.tokenizer.bundle import (
    MAX_ROOT_BYTES,
    ROOT,
    Bundle,
    GroupManifest,
    Manifest,
    bundle_card,
    check_names,
    parse_root,
    read_root,
    verify,
)


@dataclass(frozen=True)
class StoredModel:
    """What the files of a model folder must be. Training logs and the card are no part of it."""

    contract: Contract
    bundle: Manifest
    """of the bundle inside"""
    objects: Mapping[str, str]
    """SHA-256 of every file except sid.json"""
    digest: str
    """SHA-256 of sid.json, which identifies the model"""

    @property
    def items(self) -> int:
        """Items of the bundle, retired ones included."""
        return self.bundle.items


AnyManifest = Manifest | MemoryManifest | StoredModel
"""The record of an artifact: its digest, and the SHA-256 of each object besides the root."""

ROOTS: Mapping[Kind, str] = {"bundle": ROOT, "memory": ROOT, "model": CONTRACT}
"""The root document of a kind: written last, it makes an artifact complete."""
OUTPUTS: Mapping[Kind, OutputKind] = {"bundle": BUNDLE, "memory": MEMORY, "model": FOLDER}


def kind_of(manifest: AnyManifest) -> Kind:
    """The kind of artifact that a manifest describes."""
    if isinstance(manifest, StoredModel):
        return "model"
    return "bundle" if isinstance(manifest, Manifest) else "memory"


def read_manifest(location: str) -> AnyManifest:
    """The manifest of a stored artifact. Raises as `Bundle.open`, `Memory.open` and
    `read_stored_model` do."""
    if is_model(location):
        return read_stored_model(location)
    if is_memory(location):
        return MemoryManifest.from_json(read_root(Storage(location), "memory"))
    return Manifest.from_json(read_root(Storage(location), "bundle"))


def parse_manifest(location: str, root: bytes, kind: Kind) -> AnyManifest:
    """The manifest in a root document. Raises as `parse_root` and `parse_stored_model` do."""
    if kind == "model":
        return parse_stored_model(location, root)
    value = parse_root(location, root, kind)
    return MemoryManifest.from_json(value) if kind == "memory" else Manifest.from_json(value)


def broken_parts(location: str) -> list[tuple[str, str]]:
    """Everything that is wrong with a stored artifact: (object, reason); empty if it is intact."""
    if is_model(location):
        return verify_model(location)
    return verify_memory(location) if is_memory(location) else verify(location)


def published_card(
    location: str, manifest: AnyManifest, reference: str | None, license: str | None
) -> str:
    """The card of the artifact at `location` as it is published under `reference` and a license;
    that of a model without a reference is the card of its copy."""
    if isinstance(manifest, StoredModel):
        contract = replace(manifest.contract, license=license)
        bundle = Bundle.open(f"{location}/{BUNDLE_COPY}")
        return model_card(contract, bundle, reference=reference)
    if isinstance(manifest, MemoryManifest):
        return memory_card(manifest, reference or location, license)
    return bundle_card(manifest, reference or location, license)


def is_model(location: str) -> bool:
    """Whether there is a model folder; nothing is read."""
    return not is_zip(location) and Storage(location).has(CONTRACT)


def read_stored_model(location: str) -> StoredModel:
    """The record of a model folder at a path or URL. Raises as `parse_stored_model`."""
    root = Storage(location).read(CONTRACT, limit=MAX_JSON)
    if root is None:
        raise DataError(f"there is no model at {location}")
    return parse_stored_model(location, root)


def parse_stored_model(location: str, root: bytes) -> StoredModel:
    """The record of the model folder whose sid.json has these bytes. Raises IntegrityError if
    sid.json is damaged or the bundle or memory inside is not the recorded one, CompatibilityError
    if it records no digests, as contracts before 0.3."""
    if len(root) > MAX_JSON:
        raise IntegrityError(f"{location}/{CONTRACT} has more than {MAX_JSON} bytes")
    contract = parse_contract(f"{location}/{CONTRACT}", root)
    if not contract.files:
        raise CompatibilityError(
            f"{location}/{CONTRACT} is of an earlier sidtool, without digests of the model's files",
            hint=f"sidtool rebind {location} {location}/{BUNDLE_COPY} -o NEW records them",
        )
    bundle = Manifest.from_json(_root_of(location, BUNDLE_COPY, contract, "bundle"))
    parts: list[tuple[str, GroupManifest]] = [(BUNDLE_COPY, bundle)]
    pairs = [(BUNDLE_COPY, bundle.digest, contract.identity.digest)]
    if contract.memory is not None:
        memory = MemoryManifest.from_json(_root_of(location, MEMORY_COPY, contract, "memory"))
        parts.append((MEMORY_COPY, memory))
        pairs.append((MEMORY_COPY, memory.digest, contract.memory.digest))
    for name, stored, recorded in pairs:
        if stored != recorded:
            raise IntegrityError(
                f"{location}/{name} has digest {stored[:12]}, the contract says {recorded[:12]}"
            )
    if bundle.space != contract.space:
        raise IntegrityError(f"{location}/{BUNDLE_COPY} has another space than {CONTRACT}")
    objects = dict(contract.files)
    for part, manifest in parts:
        objects |= {f"{part}/{name}": digest for name, digest in manifest.objects.items()}
    try:
        check_names(objects)
    except ValueError as error:
        raise IntegrityError(f"{location}/{CONTRACT} is malformed: {error}") from error
    return StoredModel(contract, bundle, objects, hashlib.sha256(root).hexdigest())


def _root_of(
    location: str, part: str, contract: Contract, kind: Literal["bundle", "memory"]
) -> Mapping[str, object]:
    """The manifest of the bundle or memory inside, as JSON. Raises IntegrityError unless it is the
    one that the contract records."""
    name = f"{part}/{ROOT}"
    data = Storage(location).read(name, limit=MAX_ROOT_BYTES)
    if data is None:
        raise IntegrityError(f"{location} has no {name}")
    if hashlib.sha256(data).hexdigest() != contract.files.get(name):
        raise IntegrityError(f"{location}/{name} is not the one that {CONTRACT} records")
    return parse_root(f"{location}/{part}", data, kind)


def verify_model(location: str) -> list[tuple[str, str]]:
    """Everything that is wrong with a model folder: (file, reason); empty if it is intact. Checks
    every file against its SHA-256, and the values of bundle and memory. Raises DataError if there
    is no model, CompatibilityError if its sid.json is of another version of sidtool."""
    try:
        model = read_stored_model(location)
    except IntegrityError as error:
        return [(CONTRACT, str(error))]
    broken = []
    storage = Storage(location)
    listed = storage.listing()
    for name, digest in sorted(model.objects.items()):
        if name not in listed:
            broken.append((name, "missing"))
            continue
        actual = hashlib.sha256()
        for piece in storage.pieces(name, int(listed[name]["size"])):
            actual.update(piece)
        if actual.hexdigest() != digest:
            broken.append((name, f"its SHA-256 differs from that in {CONTRACT}"))
    if not broken:
        bundle = verify(f"{location}/{BUNDLE_COPY}")
        broken = [(f"{BUNDLE_COPY}/{name}", why) for name, why in bundle]
    if not broken and model.contract.memory is not None:
        memory = verify_memory(f"{location}/{MEMORY_COPY}")
        broken = [(f"{MEMORY_COPY}/{name}", why) for name, why in memory]
    return broken
