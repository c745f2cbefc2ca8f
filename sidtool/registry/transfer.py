"""Copying the objects of a bundle to and from a registry, with a check at both ends.

An interrupted copy can be repeated: objects that arrived are not copied again.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sidtool.bundle.manifest import Manifest
from sidtool.bundle.storage import Storage
from sidtool.bundle.zarr_group import ROOT, parse_root
from sidtool.errors import IntegrityError
from sidtool.registry.records import VersionRecord

BATCH = 16
"""Objects that are copied at once: the client's concurrency, and a bound on memory."""

Progress = Callable[[int, int], None]
T = TypeVar("T")


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


def upload(source: Storage, target: Storage, manifest: Manifest, progress: Progress | None) -> int:
    """Send the objects that the target lacks, all but the root document; the number sent.

    Raises IntegrityError if the source changes meanwhile or an object does not arrive as sent.
    """
    stored = target.listing()
    checksums: dict[str, Checksums] = {}
    sent = 0
    objects = ((name, data) for name, data in source.read_all() if name != ROOT)
    for batch in _batches(objects):
        missing: dict[str, bytes] = {}
        for name, data in batch:
            checksums[name] = Checksums.of(data)
            if checksums[name].sha256 != manifest.objects.get(name):
                raise IntegrityError(f"{source.location}: {name} changed during the push")
            # an interrupted push leaves complete objects
            if not _is_stored(target, name, stored.get(name), checksums[name]):
                missing[name] = data
        target.put(missing)
        sent += len(missing)
        if progress is not None:
            progress(len(checksums), len(manifest.objects))
    if checksums.keys() != manifest.objects.keys():
        raise IntegrityError(f"{source.location} changed during the push")
    _check_arrival(target, checksums)
    return sent


def upload_root(source: Storage, target: Storage, record: VersionRecord) -> None:
    """Send the root document, which completes the bundle on the target."""
    root = source.read(ROOT) or b""
    checksums = Checksums.of(root)
    if checksums.sha256 != record.root:
        raise IntegrityError(f"{source.location} changed during the push")
    target.put({ROOT: root})
    _check_arrival(target, {ROOT: checksums})


def download(
    source: Storage, record: VersionRecord, folder: Path, progress: Progress | None
) -> None:
    """Copy a published bundle to a folder, which may hold a part of it. Raises IntegrityError if
    the root document differs from the record."""
    root = source.read(ROOT)
    if root is None or hashlib.sha256(root).hexdigest() != record.root:
        raise IntegrityError(f"{source.location}: {ROOT} differs from the published one")
    digests = parse_root(source.location, root).objects
    complete = _remove_incomplete(folder, digests)
    for batch in _batches(name for name in digests if name not in complete):
        try:
            objects = source.read_many(batch)
        except FileNotFoundError as error:
            raise IntegrityError(f"{source.location} lacks the object {error}") from error
        for name, data in objects.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            complete.add(name)
        if progress is not None:
            progress(len(complete), len(digests))
    (folder / ROOT).write_bytes(root)


def _is_stored(
    target: Storage, name: str, info: Mapping[str, Any] | None, expected: Checksums
) -> bool:
    """Whether the store has this object: by the checksum it reports, or else read back."""
    if info is None or info.get("size") != expected.size:
        return False
    etag = str(info.get("ETag", "")).strip('"')  # S3: the MD5 of an object put in one part
    md5_base64 = base64.b64encode(bytes.fromhex(expected.md5)).decode()
    if etag == expected.md5 or info.get("md5Hash") == md5_base64:
        return True
    data = target.read(name)
    return data is not None and hashlib.sha256(data).hexdigest() == expected.sha256


def _check_arrival(target: Storage, checksums: Mapping[str, Checksums]) -> None:
    stored = target.listing()
    for name, expected in checksums.items():
        if not _is_stored(target, name, stored.get(name), expected):
            raise IntegrityError(
                f"{target.location}: {name} did not arrive as it was sent", hint="push again"
            )


def _remove_incomplete(folder: Path, digests: Mapping[str, str]) -> set[str]:
    """Remove files that are not objects of the bundle; the names of the complete ones."""
    complete = set()
    for name, data in Storage(folder).read_all():
        if hashlib.sha256(data).hexdigest() == digests.get(name):
            complete.add(name)
        else:
            (folder / name).unlink()
    return complete


def _batches(values: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(values)
    while batch := list(islice(iterator, BATCH)):
        yield batch
