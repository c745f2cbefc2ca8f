"""Signed versions: who must have signed those of a registry, and whether a version is signed so.

NAME/signed-by.pem                   the policy: keys and certificates, one of which must sign
NAME/versions/1.0-<digits>/
    record.sig                       of the record: number, license, digests
    bundle.zarr.sig                  of the objects; memory.zarr.sig, model.sig
"""

import hashlib
import os

from sidtool.base.errors import IntegrityError
from sidtool.base.signatures import MAX_PEM, MAX_SIGNATURE, SIGNATURE, Signers, sign
from sidtool.base.storage import Storage
from sidtool.registry.kinds import ROOTS, AnyManifest, kind_of, read_manifest
from sidtool.registry.records import MAX_DOCUMENT, VersionRecord, record_name, spell

POLICY = "signed-by.pem"
VARIABLE = "SIDTOOL_SIGNED_BY"
"""Names a file of signers that every published version must have, whatever its registry says."""
_RECORD = f"record{SIGNATURE}"


def required_signers(registry: Storage) -> list[Signers]:
    """Who must have signed a version: by the policy of the registry, and by SIDTOOL_SIGNED_BY.
    Raises IntegrityError if the policy is damaged, and as `Signers.read`."""
    stored = read_policy(registry)
    pinned = os.environ.get(VARIABLE)
    return [
        *([] if stored is None else [stored]),
        *([Signers.read(pinned)] if pinned else []),
    ]


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
        check_root(registry.folder(record.group).location, record)


def verify_record(registry: Storage, record: VersionRecord, signers: list[Signers]) -> None:
    """Raise IntegrityError unless each of the signers signed the stored record."""
    name = record_name(record.version)
    if _read(registry, name, MAX_DOCUMENT) != spell(record):
        raise IntegrityError(f"{registry.location}/{name} is not spelled as this version spells it")
    signature = _read(registry, f"{record.folder}/{_RECORD}", MAX_SIGNATURE)
    _verify(registry, record, signature, signers)


def sign_version(registry: Storage, record: VersionRecord, manifest: AnyManifest, key: str) -> None:
    """Write the signatures of a version. Raises IntegrityError if the registry requires another
    signer, and as `sign`."""
    name = record_name(record.version)
    signature = sign(name, {name: _digest(record)}, key)
    _verify(registry, record, signature, required_signers(registry))
    objects = sign(record.group, signed_objects(manifest, record.root), key)
    registry.put({f"{record.folder}/{_RECORD}": signature, record.group + SIGNATURE: objects})


def _verify(
    registry: Storage, record: VersionRecord, signature: bytes | None, signers: list[Signers]
) -> None:
    digests = {record_name(record.version): _digest(record)}
    for each in signers:
        each.verify(f"version {record.version} of {registry.location}", digests, signature)


def read_signature(registry: Storage, record: VersionRecord, manifest: AnyManifest) -> bytes | None:
    """The signature of the objects of a version, None if there is none. Raises IntegrityError
    unless it is as it must be."""
    signature = _read(registry, record.group + SIGNATURE, MAX_SIGNATURE)
    for each in required_signers(registry):
        digests = signed_objects(manifest, record.root)
        each.verify(f"version {record.version} of {registry.location}", digests, signature)
    return signature


def signed_objects(manifest: AnyManifest, root: str) -> dict[str, str]:
    """The SHA-256 of every object of an artifact; `root` is that of its root document."""
    return {**manifest.objects, ROOTS[kind_of(manifest)]: root}


def verify_signature(location: str, signers: Signers) -> None:
    """Raise IntegrityError unless the artifact at a path or URL has a signature beside it, by one
    of the signers, over its root document and what that says of every other object."""
    manifest = read_manifest(location)
    root = Storage(location).read(ROOTS[kind_of(manifest)]) or b""
    folder, _, name = location.rstrip("/").rpartition("/")
    signature = _read(Storage(folder or "."), name + SIGNATURE, MAX_SIGNATURE)
    digests = signed_objects(manifest, hashlib.sha256(root).hexdigest())
    signers.verify(location, digests, signature)


def check_root(location: str, record: VersionRecord) -> None:
    """Raise IntegrityError unless a root document is the one that a record has."""
    root = Storage(location).read(ROOTS[record.kind]) or b""
    if hashlib.sha256(root).hexdigest() != record.root:
        raise IntegrityError(f"{location}: {ROOTS[record.kind]} differs from the published one")


def _digest(record: VersionRecord) -> str:
    return hashlib.sha256(spell(record)).hexdigest()


def _read(storage: Storage, name: str, limit: int) -> bytes | None:
    """A small object, None if there is none. Raises IntegrityError if it is larger or no file."""
    snapshot = storage.snapshot(name, limit)
    return None if snapshot is None else snapshot.data
