"""References to published bundles, memories and models: URL/NAME (the latest version),
URL/NAME@VERSION, URL/NAME@TAG."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sidtool.base.checkpoint import DEFAULT_ACCESS, download, fetch_roots, is_hub_repository
from sidtool.base.errors import DataError, IntegrityError, UsageError
from sidtool.base.signatures import Signers
from sidtool.base.storage import Storage
from sidtool.memory import Memory
from sidtool.model import MemoryOptions
from sidtool.model.contract import BUNDLE_COPY, CONTRACT, model_folder
from sidtool.registry.kinds import AnyManifest
from sidtool.registry.records import (
    LATEST,
    POINTER,
    VersionRecord,
    list_records,
    list_versions,
    read_pointer,
    read_record,
)
from sidtool.registry.signing import (
    check_root,
    check_version,
    required_signers,
    verify_record,
    verify_signature,
)
from sidtool.tokenizer.bundle import ROOT, Bundle, Manifest, download_group

MAX_LISTED = 20
"""Names that an error lists."""


def open_bundle(reference: str | Path) -> Bundle:
    """Open a bundle at a path or URL, or a published URL/NAME[@VERSION|@TAG].

    Raises DataError if the registry has no such version or tag, or it is a model, IntegrityError if
    a record is of another bundle, and what `Bundle.open` raises.
    """
    return _open_bundle(reference, Bundle.open)


def open_source(reference: str | Path) -> Bundle:
    """As `open_bundle`, with everything checked that `verify` checks: for commands that make
    something of the bundle, so that no damage becomes part of it."""
    return _open_bundle(reference, Bundle.open_verified)


def _open_bundle(reference: str | Path, open_at: Callable[[str], Bundle]) -> Bundle:
    location, record = locate(str(reference))
    if record is not None and record.kind == "model":
        raise DataError(
            f"{reference} is a model, not a bundle",
            hint=f"the model's bundle is {location}/{BUNDLE_COPY}",
        )
    if record is not None and required_signers(Storage(split_reference(str(reference))[0])):
        open_at = Bundle.open_verified  # parts of a large bundle are read without their digests
    bundle = open_at(location)
    check_published(location, bundle.manifest, record)
    return bundle


def open_parent(reference: str | Path, bundle: Bundle) -> Bundle | None:
    """The bundle that a published one was made from; None if it is not a version of the same
    URL/NAME.

    Raises as `open_bundle` does."""
    if bundle.manifest.parent is None or is_group(str(reference)):
        return None
    registry = Storage(split_reference(str(reference))[0])
    for record in list_records(registry):
        if record.digest == bundle.manifest.parent:
            check_version(registry, record)
            location = registry.folder(record.group).location
            parent = Bundle.open(location)
            check_published(location, parent.manifest, record)
            return parent
    return None


def open_memory(reference: str | Path) -> Memory:
    """Open and verify a memory at a path or URL, or a published URL/NAME[@VERSION|@TAG].

    Raises as `open_bundle` does; IntegrityError if the memory is damaged."""
    location, record = locate(str(reference))
    memory = Memory.open_verified(location)
    check_published(location, memory.manifest, record)
    return memory


def located(memory: MemoryOptions) -> MemoryOptions:
    """The same options with the location of the memory that a reference names.

    Raises as `open_memory` does, but for damage, which is found when the memory is opened."""
    if memory.location is None:
        return memory
    location, record = locate(str(memory.location))
    if record is not None:
        check_published(location, Memory.open(location).manifest, record)
    return replace(memory, location=location)


def resolve(reference: str) -> str:
    """The path or URL of what a reference names; the path or URL of an artifact itself is returned
    unchanged.

    Raises DataError if the registry has no such version or tag.
    """
    return locate(reference)[0]


def locate(reference: str) -> tuple[str, VersionRecord | None]:
    """The path or URL of what a reference names, and the record of a published version. A
    repository of the hub goes to the hub's cache."""
    if is_flat_repository(reference):
        return _downloaded(reference), None
    if is_group(reference):
        return reference, None
    registry, record = find_version(reference)
    return registry.folder(record.group).location, record


def _downloaded(repository: str) -> str:
    """The local folder of the model in a repository of the hub, or else its bundle or memory."""
    if fetch_roots(repository, CONTRACT, DEFAULT_ACCESS)[1]:
        return str(model_folder(repository))
    return str(download_group(repository))


def check_published(location: str, manifest: AnyManifest, record: VersionRecord | None) -> None:
    """Raise IntegrityError if an artifact is not the one that its record describes, if there is a
    record."""
    if record is None:
        return
    pairs = [("digest", manifest.digest, record.digest)]
    if isinstance(manifest, Manifest):  # the version of others is in their record only
        pairs.append(("version", manifest.version, record.version))
    for name, stored, published in pairs:
        if stored != published:
            raise IntegrityError(
                f"{location} has {name} {stored[:12]}, its record says {published[:12]}"
            )


def find_version(reference: str) -> tuple[Storage, VersionRecord]:
    """The registry folder and the record of URL/NAME[@VERSION|@TAG]. Raises DataError if there is
    none, IntegrityError unless it is signed as the registry requires."""
    base, name = split_reference(reference)
    registry = Storage(base)
    pointer = read_pointer(registry)
    name = name or LATEST
    version = pointer.latest if name == LATEST else pointer.tags.get(name, name)
    record = read_record(registry, version) if version else None
    if record is not None:
        check_version(registry, record)
        return registry, record
    available = [*list_versions(registry), *pointer.tags]
    if not available:
        raise DataError(
            f"nothing was pushed to {base}", hint=f"sidtool push BUNDLE {registry.location}"
        )
    names = ", ".join(available[:MAX_LISTED])
    more = f" and {len(available) - MAX_LISTED} more" if len(available) > MAX_LISTED else ""
    raise DataError(f"{base} has no {name[:80]!r}: it has {names}{more}")


def check_signed(reference: str, signed_by: str | Path) -> None:
    """Raise IntegrityError unless a bundle, memory or model (a path, URL or reference) is signed by
    one of the keys or certificates in a PEM file: its objects, and the record of a published
    version. A signature is beside what it signs, under its name and `.sig`."""
    signers = Signers.read(signed_by)
    location, record = locate(reference)
    if record is not None:
        registry = Storage(split_reference(reference)[0])
        verify_record(registry, record, [signers])
        check_root(location, record)
    verify_signature(location, signers)


def split_reference(reference: str) -> tuple[str, str | None]:
    """The two parts of a reference: "URL/NAME@TAG" -> ("URL/NAME", "TAG"); None if it has no
    "@"."""
    folder, slash, last = reference.rstrip("/").rpartition("/")
    name, at, version = last.partition("@")
    if not name or (at and not version):
        raise UsageError(
            f"{reference!r} names no published version",
            hint="a reference is URL/NAME, URL/NAME@VERSION or URL/NAME@TAG",
        )
    return folder + slash + name, version or None


def is_flat_repository(location: str) -> bool:
    """Whether a location is a repository of the hub that is an artifact itself, or may become one,
    and not a registry."""
    if not is_hub_repository(location):
        return False
    try:
        copy = download(location.partition("@")[0], allow=[POINTER])
    except DataError:
        return True  # there is none yet
    return not (copy / POINTER).is_file()


def is_group(location: str) -> bool:
    """Whether a location is a bundle, memory or model itself, and not a reference. A remote store
    is read only if the spelling is ambiguous."""
    if "://" not in location:
        path = Path(location)
        try:
            if path.exists():
                return (path / ROOT).exists() or not (path / POINTER).exists()
        except OSError as error:
            raise UsageError(f"{location[:80]!r} is not a path: {error.strerror}") from error
        return "@" not in path.name
    name = location.rstrip("/").rpartition("/")[2]
    if "@" in name or name.endswith((".zarr", ".zip")):
        return "@" not in name
    storage = Storage(location)
    return storage.has(ROOT) or not storage.has(POINTER)
