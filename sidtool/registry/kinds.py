"""What differs between the kinds of artifacts of a registry: bundles, memories and models.

`sid.json` is the root document of a model folder: it has the digests of the other files, and the
root documents of bundle and memory inside have those of their objects."""

from collections.abc import Mapping

from sidtool.base.errors import RefusedError
from sidtool.base.output_name import BUNDLE, FOLDER, MEMORY, OutputKind
from sidtool.base.records import version_key
from sidtool.base.storage import Storage, is_zip
from sidtool.memory import MemoryManifest, is_memory, memory_card
from sidtool.model.contract import CONTRACT, StoredModel, stored_card
from sidtool.registry.records import Kind, VersionRecord
from sidtool.tokenizer.bundle import ROOT, Manifest, bundle_card, parse_root, read_root

AnyManifest = Manifest | MemoryManifest | StoredModel
"""The record of an artifact: its digest, and the SHA-256 of each object besides the root."""

ROOTS: Mapping[Kind, str] = {"bundle": ROOT, "memory": ROOT, "model": CONTRACT}
"""The root document of a kind: written last, it makes an artifact complete."""
OUTPUTS: Mapping[Kind, OutputKind] = {"bundle": BUNDLE, "memory": MEMORY, "model": FOLDER}


def read_manifest(location: str) -> AnyManifest:
    """The manifest of a stored artifact. Raises as `Bundle.open`, `Memory.open` and
    `StoredModel.read` do."""
    if is_model(location):
        return StoredModel.read(location)
    if is_memory(location):
        return MemoryManifest.from_json(read_root(Storage(location), "memory"))
    return Manifest.from_json(read_root(Storage(location), "bundle"))


def parse_manifest(location: str, root: bytes, kind: Kind) -> AnyManifest:
    """The manifest in a root document. Raises as `parse_root` and `StoredModel.parse` do."""
    if kind == "model":
        return StoredModel.parse(location, root)
    value = parse_root(location, root, kind)
    return MemoryManifest.from_json(value) if kind == "memory" else Manifest.from_json(value)


def record_of(
    manifest: AnyManifest, root: str, license: str, last: VersionRecord | None
) -> VersionRecord:
    """The record to publish after the last published one: a bundle has its own version, others get
    the next one, or that of the last one if they are the same. Raises RefusedError if the last one
    is of another kind."""
    if isinstance(manifest, Manifest):
        version = manifest.version
    elif last is None:
        version = "1.0"
    elif last.digest == manifest.digest:
        version = last.version
    else:
        major, minor = version_key(last.version)
        version = f"{major}.{minor + 1}"
    if last is not None and last.kind != manifest.kind:
        raise RefusedError(
            f"the folder has versions of a {last.kind}, and this is a {manifest.kind}",
            hint="push to another NAME",
        )
    return VersionRecord(version, manifest.digest, root, license, manifest.kind)


def published_card(
    location: str, manifest: AnyManifest, reference: str | None, license: str | None
) -> str:
    """The card of the artifact at `location` as it is published under `reference` and a license;
    that of a model without a reference is the card of its copy."""
    if isinstance(manifest, StoredModel):
        return stored_card(manifest.contract, location, reference, license)
    if isinstance(manifest, MemoryManifest):
        return memory_card(manifest, reference or location, license)
    return bundle_card(manifest, reference or location, license)


def is_model(location: str) -> bool:
    """Whether there is a model folder; nothing is read."""
    return not is_zip(location) and Storage(location).has(CONTRACT)
