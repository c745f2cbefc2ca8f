"""What is published, a bundle, memory or model that was checked, and how its objects are copied to
and from a registry, with a check at both ends.

An interrupted copy can be repeated: objects that arrived are not copied again."""

import base64
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.base.digests import file_digest
from sidtool.base.errors import DataError, IntegrityError, UsageError
from sidtool.base.hub import HubCommit, HubPush
from sidtool.base.progress import Progress
from sidtool.base.storage import Storage, is_zip
from sidtool.memory import Memory, is_memory, verify_memory
from sidtool.model.contract import StoredModel, check_license, push_model, verify_model
from sidtool.registry import kinds
from sidtool.registry.kinds import ROOTS, AnyManifest
from sidtool.registry.records import VersionRecord
from sidtool.registry.references import check_published, check_signed, locate, published_root
from sidtool.tokenizer.bundle import Bundle

BATCH = 16
"""Objects that are copied at once: the client's concurrency, and a bound on memory."""

BATCH_BYTES = 64 << 20
"""Bytes that are copied at once; a larger object goes in pieces."""


@dataclass(frozen=True)
class Source:
    """An intact artifact, and the license under which it is published, if it is known."""

    storage: Storage
    manifest: AnyManifest
    license: str | None

    @property
    def n_objects(self) -> int:
        """Objects of the artifact, the root document included."""
        return len(self.manifest.objects) + 1


def check_source(source: str, license: str | None) -> Source:
    """Check a bundle, memory or model (a path, URL or reference). The license is by default that of
    the model's contract. Raises IntegrityError if it is damaged, RefusedError if a model needs a
    base."""
    check_license(license or "")
    location, record = locate(source)
    manifest = kinds.read_manifest(location)
    check_published(location, manifest, record)
    for name, reason in broken_parts(location):
        raise IntegrityError(
            f"{location}: {name}: {reason}", hint="sidtool verify lists every broken object"
        )
    if isinstance(manifest, StoredModel):
        manifest.check_whole(location)
        license = license or manifest.contract.license
    return Source(Storage(location), manifest, license)


def push_to_hub(source: Source, url: str, push: HubPush) -> HubCommit:
    """Write a checked artifact with its card to `hf://ORG/NAME`, in one commit. Raises as
    `Bundle.push_to_hub`, UsageError for a model that is not on this machine."""
    storage = source.storage
    kind = source.manifest.kind
    if kind != "model":
        opened = (Bundle if kind == "bundle" else Memory).open_verified(storage.location)
        return opened.upload_to(url, source.license, push)
    if storage.local_path is None:
        raise UsageError(
            f"{storage.location} is not a folder of this machine",
            hint="sidtool pull it, and push the copy",
        )
    return push_model(storage.local_path, url, source.license, push)


def broken_parts(location: str, record: VersionRecord | None = None) -> list[tuple[str, str]]:
    """Everything that is wrong with a stored artifact: (object, reason); empty if it is intact, and
    if it is the one of the record of a published version."""
    if record is not None:
        try:
            published_root(location, record)
            check_published(location, kinds.read_manifest(location), record)
        except IntegrityError as error:
            return [(ROOTS[record.kind], str(error))]
    if kinds.is_model(location):
        return verify_model(location)
    return verify_memory(location) if is_memory(location) else Bundle.broken(location)


def verify(artifact: str | Path, *, signed_by: str | Path | None = None) -> list[tuple[str, str]]:
    """Everything that is wrong with a stored bundle, memory or model (a path, URL or reference):
    (object, reason); empty if it is intact.

    Checks every object against its SHA-256, the manifest against its own, and the values against
    the rules of the format. `signed_by` is a file of public keys or certificates in PEM, or
    `keyless:IDENTITY@ISSUER`. Raises DataError if there is no artifact, IntegrityError if it is not
    signed by one of them.

    Examples:
        >>> sidtool.verify("shop.zarr"), sidtool.verify("tuned")
        ([], [])
    """
    if signed_by is not None:
        check_signed(str(artifact), signed_by)
    return broken_parts(*locate(str(artifact)))


@dataclass(frozen=True)
class Checksums:
    """Size and digests of an object, to compare with what a store reports."""

    size: int
    md5: str
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Checksums":
        """The checksums of an object."""
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return cls(len(data), md5, hashlib.sha256(data).hexdigest())


def upload(
    source: Source, target: Storage, record: VersionRecord, progress: Progress | None
) -> int:
    """Send the objects that the target lacks, the root document last, which completes the artifact;
    the number sent. Raises IntegrityError if the source changes meanwhile or an object does not
    arrive as sent."""
    manifest, storage = source.manifest, source.storage
    stored = target.listing()
    large = {}  # objects that go in pieces, with their sizes; those of a zip are chunks of arrays
    if not is_zip(storage.location):
        infos = storage.infos(manifest.objects)
        sizes = {name: int(info.get("size") or 0) for name, info in infos.items()}
        large = {name: size for name, size in sizes.items() if size > BATCH_BYTES}
    checksums: dict[str, Checksums] = {}
    sent = 0
    small = sorted(manifest.objects.keys() - large)
    for start in range(0, len(small), BATCH):
        missing: dict[str, bytes] = {}
        try:
            objects = storage.read_many(small[start : start + BATCH])
        except FileNotFoundError as error:
            raise IntegrityError(f"{storage.location} changed during the push") from error
        for name, data in objects.items():
            checksums[name] = Checksums.of(data)
            if checksums[name].sha256 != manifest.objects.get(name):
                raise IntegrityError(f"{storage.location}: {name} changed during the push")
            # an interrupted push leaves complete objects
            if not _is_stored(target, name, stored.get(name), checksums[name]):
                missing[name] = data
        target.put(missing)
        sent += len(missing)
        if progress is not None:
            progress(len(checksums), len(manifest.objects))
    _check_arrival(target, checksums)
    for number, (name, size) in enumerate(large.items(), 1):
        if not _has_digest(target, name, stored.get(name), size, manifest.objects[name]):
            _send_pieces(storage, target, name, size, manifest.objects[name])
            sent += 1
        if progress is not None:
            progress(len(checksums) + number, len(manifest.objects))
    name = ROOTS[record.kind]
    root = storage.read(name) or b""
    expected = Checksums.of(root)
    if expected.sha256 != record.root:
        raise IntegrityError(f"{storage.location} changed during the push")
    if not _is_stored(target, name, stored.get(name), expected):
        target.put({name: root})
        sent += 1
    _check_arrival(target, {name: expected})
    return sent


def _send_pieces(source: Storage, target: Storage, name: str, size: int, digest: str) -> None:
    """Send a large object and read it back."""
    sent = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for piece in source.pieces(name, size):
            sent.update(piece)
            yield piece

    target.put_pieces(name, pieces())
    if sent.hexdigest() != digest:
        raise IntegrityError(f"{source.location}: {name} changed during the push")
    if not _has_digest(target, name, target.info(name), size, digest):
        raise _not_arrived(target, name)


def _has_digest(
    storage: Storage, name: str, info: Mapping[str, Any] | None, size: int, digest: str
) -> bool:
    """Whether a store has an object of this size and SHA-256, by reading it."""
    with suppress(FileNotFoundError):  # removed since it was listed
        is_whole = info is not None and info.get("size") == size
        return is_whole and storage.digest(name, size) == digest
    return False


def download(
    source: Storage, record: VersionRecord, folder: Path, progress: Progress | None
) -> None:
    """Copy a published artifact to a folder, which may hold a part of it. No more is read of an
    object than the store says it has, and one that differs from its digest is removed again.
    Raises IntegrityError if the root document or an object differs from what was published,
    DataError if the disk has no room for it."""
    root, manifest, sizes = published(source, record)
    complete = set()
    for name in Storage(folder).names():
        if file_digest(folder / name) == manifest.objects.get(name):
            complete.add(name)
        else:
            (folder / name).unlink()
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    missing = {name: size for name, size in sizes.items() if name not in complete}
    size, free = sum(missing.values()), shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"the {record.kind} has {size} bytes, but {folder.parent} has room for {free}"
        )
    copied = len(complete)
    for batch in _batches_of_bytes(missing):
        _copy(source, folder, batch, manifest)
        copied += len(batch)
        if progress is not None:
            progress(copied, len(sizes))
    (folder / ROOTS[record.kind]).write_bytes(root)


def published(source: Storage, record: VersionRecord) -> tuple[bytes, AnyManifest, dict[str, int]]:
    """The root document of a published artifact, its manifest, and the size of each other object.
    Raises IntegrityError if it is not what was published, or if an object cannot be read in bounded
    time and memory."""
    root = published_root(source.location, record)
    manifest = kinds.parse_manifest(source.location, root, record.kind)
    check_published(source.location, manifest, record)
    infos = source.infos(manifest.objects)
    sizes = {}
    for name in manifest.objects:
        if name not in infos:
            raise IntegrityError(f"{source.location} lacks the object {name}")
        info = infos[name]
        if info.get("type", "file") != "file" or info.get("size") is None:
            raise IntegrityError(f"{source.location}: {name} is not a regular file")
        sizes[name] = int(info["size"])
    return root, manifest, sizes


def _batches_of_bytes(sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Objects with their sizes: batches of at most `BATCH_BYTES`, or of one larger object."""
    batch: dict[str, int] = {}
    for name, size in sizes.items():
        if batch and (len(batch) == BATCH or sum(batch.values()) + size > BATCH_BYTES):
            yield batch
            batch = {}
        batch[name] = size
    if batch:
        yield batch


def _copy(source: Storage, folder: Path, batch: Mapping[str, int], manifest: AnyManifest) -> None:
    """Copy objects, a large one in pieces. Raises IntegrityError if one differs from its digest."""
    digests = {name: hashlib.sha256() for name in batch}
    for start in range(0, max(1, *batch.values()), BATCH_BYTES):
        ranges = [(name, start, min(start + BATCH_BYTES, size)) for name, size in batch.items()]
        try:
            pieces = source.read_ranges(ranges)
        except FileNotFoundError as error:
            raise IntegrityError(f"{source.location} lacks the object {error}") from error
        for name, piece in zip(batch, pieces, strict=True):
            path = folder / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab" if start else "wb") as stream:
                    stream.write(piece)
            except OSError as error:
                raise DataError(f"{path} cannot be written: {error.strerror}") from error
            digests[name].update(piece)
    for name, digest in digests.items():
        if digest.hexdigest() != manifest.objects[name]:
            (folder / name).unlink()
            raise IntegrityError(f"{source.location}: {name} differs from the published one")


def _is_stored(
    target: Storage, name: str, info: Mapping[str, Any] | None, expected: Checksums
) -> bool:
    """Whether the store has this object: by the checksum it reports, or else read back."""
    if info is not None and info.get("size") == expected.size:
        etag = str(info.get("ETag", "")).strip('"')  # S3: the MD5 of an object put in one part
        md5_base64 = base64.b64encode(bytes.fromhex(expected.md5)).decode()
        if etag == expected.md5 or info.get("md5Hash") == md5_base64:
            return True
    return _has_digest(target, name, info, expected.size, expected.sha256)


def _check_arrival(target: Storage, checksums: Mapping[str, Checksums]) -> None:
    stored = target.listing()
    for name, expected in checksums.items():
        if not _is_stored(target, name, stored.get(name), expected):
            raise _not_arrived(target, name)


def _not_arrived(target: Storage, name: str) -> IntegrityError:
    return IntegrityError(
        f"{target.location}: {name} did not arrive as it was sent", hint="push again"
    )
