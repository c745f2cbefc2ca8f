"""References to published bundles, memories and models: URL/NAME (the latest version),
URL/NAME@VERSION, URL/NAME@TAG; and by whom a version must be signed.

NAME/signed-by.pem                   the policy: keys and certificates, one of which must sign
NAME/versions/1.0-<digits>/
    record.sig                       of the record: number, license, digests
    bundle.zarr.sig                  of the objects; memory.zarr.sig, model.sig
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sidtool.base.artifact import MAX_ROOT_BYTES
from sidtool.base.checkpoint import MAX_JSON
from sidtool.base.errors import DataError, IntegrityError, UsageError
from sidtool.base.hub import DEFAULT_ACCESS, HubAccess, download, fetch_roots, is_hub_repository
from sidtool.base.signatures import (
    MAX_PEM,
    MAX_SIGNATURE,
    SIGNATURE,
    Signer,
    Signers,
    published_signers,
)
from sidtool.base.storage import Storage
from sidtool.memory import Memory
from sidtool.memory.mixture import MemoryOptions
from sidtool.model.contract import BUNDLE_COPY, CONTRACT, model_folder
from sidtool.registry import records
from sidtool.registry.kinds import ROOTS, AnyManifest, read_manifest
from sidtool.registry.records import VersionRecord
from sidtool.tokenizer.bundle import ROOT, Bundle, Manifest, download_group

MAX_LISTED = 20
"""Names that an error lists."""


def open_bundle(reference: str | Path) -> Bundle:
    """Open a bundle at a path or URL, or a published URL/NAME[@VERSION|@TAG]. Raises DataError if
    the registry has no such version or tag, or it is a model, IntegrityError if a record is of
    another bundle, and what `Bundle.open` raises."""
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
    URL/NAME. Raises as `open_bundle` does."""
    if bundle.manifest.parent is None or is_group(str(reference)):
        return None
    base = split_reference(str(reference))[0]
    for record in records.list_records(Storage(base)):
        if record.digest == bundle.manifest.parent:
            return open_bundle(f"{base}@{record.version}")
    return None


def open_memory(reference: str | Path) -> Memory:
    """Open and verify a memory at a path or URL, or a published URL/NAME[@VERSION|@TAG]. Raises as
    `open_bundle` does; IntegrityError if the memory is damaged."""
    location, record = locate(str(reference))
    memory = Memory.open_verified(location)
    check_published(location, memory.manifest, record)
    return memory


def located(memory: MemoryOptions) -> MemoryOptions:
    """The same options with the location of the memory that a reference names. Raises as
    `open_memory` does, but for damage, which is found when the memory is opened."""
    if memory.location is None:
        return memory
    location, record = locate(str(memory.location))
    if record is not None:
        check_published(location, Memory.open(location).manifest, record)
    return replace(memory, location=location)


def locate(reference: str, access: HubAccess = DEFAULT_ACCESS) -> tuple[str, VersionRecord | None]:
    """The path or URL of what a reference names, and the record of a published version; the path or
    URL of an artifact itself is returned unchanged. A repository of the hub goes to the hub's
    cache. Raises DataError if the registry has no such version or tag."""
    if is_flat_repository(reference):
        if fetch_roots(reference, CONTRACT, access)[1]:
            return str(model_folder(reference, access)), None
        return str(download_group(reference, access=access)), None
    if is_group(reference):
        return reference, None
    registry, record = find_version(reference)
    return registry.folder(record.group).location, record


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
    name = name or records.LATEST
    record = records.read_record(registry, name)  # a version number needs no pointer
    if record is None:
        pointer = records.read_pointer(registry)
        version = pointer.latest if name == records.LATEST else pointer.tags.get(name)
        record = records.read_record(registry, version) if version else None
    if record is not None:
        check_version(registry, record)
        return registry, record
    available = [*records.list_versions(registry), *pointer.tags]
    if not available and is_hub_repository(base):
        download(base, allow=[records.POINTER])  # raises where the hub has no such repository
        raise DataError(
            f"{base} has commits of the hub, not versions",
            hint="`hf download` copies its files, and `push --tag` sets a tag",
        )
    if not available:
        raise DataError(
            f"nothing was pushed to {base}", hint=f"sidtool push BUNDLE {registry.location}"
        )
    names = ", ".join(available[:MAX_LISTED])
    more = f" and {len(available) - MAX_LISTED} more" if len(available) > MAX_LISTED else ""
    lost = repr(name[:80])
    if version is not None:
        lost = f"version {version} for {lost}"
    raise DataError(f"{base} has no {lost}: it has {names}{more}")


def check_signed(reference: str, signed_by: str | Path) -> None:
    """Raise IntegrityError unless a bundle, memory or model (a path, URL or reference) is signed by
    one of the keys or certificates in a PEM file, or by `keyless:IDENTITY@ISSUER`: its objects, and
    the record of a published version. A signature is beside what it signs, under its name and
    `.sig`."""
    signers = Signers.read(signed_by)
    location, record = locate(reference, HubAccess(signed_by=signed_by))
    if is_hub_repository(reference) and record is None:
        return  # its copy was checked
    if record is not None:
        registry = Storage(split_reference(reference)[0])
        verify_record(registry, record, [signers])
        published_root(location, record)
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
        copy = download(location.partition("@")[0], allow=[records.POINTER])
    except DataError:
        return True  # there is none yet
    return not (copy / records.POINTER).is_file()


def is_group(location: str) -> bool:
    """Whether a location is a bundle, memory or model itself, and not a reference. A remote store
    is read only if the spelling is ambiguous."""
    if "://" not in location:
        path = Path(location)
        try:
            if path.exists():
                is_file = not path.is_dir()
                return is_file or (path / ROOT).exists() or not _is_registry(Storage(location))
        except OSError as error:
            raise UsageError(f"{location[:80]!r} is not a path: {error.strerror}") from error
        return "@" not in path.name
    name = location.rstrip("/").rpartition("/")[2]
    if "@" in name or name.endswith((".zarr", ".zip")):
        return "@" not in name
    storage = Storage(location)
    return storage.has(ROOT) or not _is_registry(storage)


def _is_registry(storage: Storage) -> bool:
    """Whether a folder has published versions; its pointer may be lost or not be written yet."""
    return storage.has(records.POINTER) or bool(records.list_versions(storage))


POLICY = "signed-by.pem"
_RECORD = f"record{SIGNATURE}"


def required_signers(registry: Storage) -> list[Signers]:
    """Who must have signed a version: by the policy of the registry, and by SIDTOOL_SIGNED_BY.
    Raises IntegrityError if the policy is damaged, and as `Signers.read`."""
    stored = read_policy(registry)
    return [*([] if stored is None else [stored]), *published_signers()]


def read_policy(registry: Storage) -> Signers | None:
    """Who must have signed by the policy of a registry, None if it has none. Raises IntegrityError
    if it is damaged."""
    data = _read(registry, POLICY, MAX_PEM)
    if not data:
        return None
    try:
        signers = Signers(data.decode("ascii"))
        signers.check()
    except ValueError as error:
        raise IntegrityError(f"{registry.location}/{POLICY} is damaged: {error}") from error
    return signers


def check_version(registry: Storage, record: VersionRecord) -> None:
    """Raise IntegrityError unless a version is signed as it must be, with the root document that
    its record has."""
    signers = required_signers(registry)
    if signers:
        verify_record(registry, record, signers)
        published_root(registry.folder(record.group).location, record)


def verify_record(registry: Storage, record: VersionRecord, signers: list[Signers]) -> None:
    """Raise IntegrityError unless each of the signers signed the stored record."""
    name = records.record_name(record.version)
    if _read(registry, name, records.MAX_DOCUMENT) != records.spell(record):
        raise IntegrityError(f"{registry.location}/{name} is not spelled as this version spells it")
    signature = _read(registry, f"{record.folder}/{_RECORD}", MAX_SIGNATURE)
    _verify(registry, record, {name: _digest(record)}, signature, signers)


def make_signatures(
    registry: Storage, record: VersionRecord, manifest: AnyManifest, signer: Signer
) -> dict[str, bytes]:
    """The signatures of a version by their names in the registry; stores nothing. Raises
    IntegrityError if the registry requires another signer, and as `Signer.sign`."""
    name = records.record_name(record.version)
    digests = {name: _digest(record)}
    signature = signer.sign(name, digests)
    _verify(registry, record, digests, signature, required_signers(registry))
    objects = signer.sign(record.group, signed_objects(manifest, record.root))
    return {f"{record.folder}/{_RECORD}": signature, record.group + SIGNATURE: objects}


def _verify(
    registry: Storage,
    record: VersionRecord,
    digests: Mapping[str, str],
    signature: bytes | None,
    signers: list[Signers],
) -> None:
    for signer in signers:
        signer.verify(f"version {record.version} of {registry.location}", digests, signature)


def read_signature(registry: Storage, record: VersionRecord, manifest: AnyManifest) -> bytes | None:
    """The signature of the objects of a version, None if there is none. Raises IntegrityError
    unless it is as it must be."""
    signature = _read(registry, record.group + SIGNATURE, MAX_SIGNATURE)
    digests = signed_objects(manifest, record.root)
    _verify(registry, record, digests, signature, required_signers(registry))
    return signature


def signed_objects(manifest: AnyManifest, root: str) -> dict[str, str]:
    """The SHA-256 of every object of an artifact; `root` is that of its root document."""
    return {**manifest.objects, ROOTS[manifest.kind]: root}


def verify_signature(location: str, signers: Signers) -> None:
    """Raise IntegrityError unless the artifact at a path or URL has a signature beside it, by one
    of the signers, over its root document and what that says of every other object."""
    manifest = read_manifest(location)
    root = Storage(location).read(ROOTS[manifest.kind]) or b""
    folder, _, name = location.rstrip("/").rpartition("/")
    signature = _read(Storage(folder or "."), name + SIGNATURE, MAX_SIGNATURE)
    if signature is None:  # a copy of a hub repository has it inside
        inside = records.FOLDERS[manifest.kind] + SIGNATURE
        signature = _read(Storage(location), inside, MAX_SIGNATURE)
    digests = signed_objects(manifest, hashlib.sha256(root).hexdigest())
    signers.verify(location, digests, signature)


def published_root(location: str, record: VersionRecord) -> bytes:
    """The root document of a published artifact. Raises IntegrityError unless it is the one that
    its record has."""
    name = ROOTS[record.kind]
    root = _read(Storage(location), name, max(MAX_ROOT_BYTES, MAX_JSON)) or b""
    if hashlib.sha256(root).hexdigest() != record.root:
        raise IntegrityError(f"{location}: {name} differs from the published one")
    return root


def _digest(record: VersionRecord) -> str:
    return hashlib.sha256(records.spell(record)).hexdigest()


def _read(storage: Storage, name: str, limit: int) -> bytes | None:
    """A small object, None if there is none. Raises IntegrityError if it is larger or no file."""
    snapshot = storage.snapshot(name, limit)
    return None if snapshot is None else snapshot.data
