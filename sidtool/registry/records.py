"""The JSON documents of a registry folder, and how they are published.

    NAME/refs.json              the pointer: latest version and tags; the only object overwritten
    NAME/versions/1.0.json      the record of a version: written last, and only if there is none
    NAME/versions/1.0-<12 digits of the SHA-256 of zarr.json>/
        README.md               the card
        bundle.zarr/            the bundle

The folder of a version is named by its content, so two versions never write the same object.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sidtool.bundle.conditional import Snapshot
from sidtool.bundle.storage import Storage
from sidtool.errors import CompatibilityError, DataError, IntegrityError, RefusedError, UsageError
from sidtool.json_record import JsonRecord

FORMAT = 1
"""The registry layout that this version writes, and the newest that it reads."""

POINTER = "refs.json"
VERSIONS = "versions"
BUNDLE = "bundle.zarr"
CARD = "README.md"
LATEST = "latest"

ATTEMPTS = 50
"""Lost races after which a conditional write fails."""

_VERSION = re.compile(r"\d+\.\d+")
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")

Document = TypeVar("Document", "VersionRecord", "Pointer")


@dataclass(frozen=True)
class VersionRecord(JsonRecord):
    """One published version."""

    version: str
    digest: str
    """the bundle's identity"""
    root: str
    """SHA-256 of its zarr.json, which holds the SHA-256 of every other object"""
    license: str = "unknown"
    format: int = FORMAT

    @property
    def folder(self) -> str:
        """The folder of the version, relative to NAME."""
        return f"{VERSIONS}/{self.version}-{self.root[:12]}"

    @property
    def bundle(self) -> str:
        """The folder of the bundle, relative to NAME."""
        return f"{self.folder}/{BUNDLE}"


@dataclass(frozen=True)
class Pointer(JsonRecord):
    """The highest version, and versions by tag."""

    latest: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def with_version(self, version: str, tag: str | None) -> "Pointer":
        """The pointer after a version is published. `latest` is the highest version, in whatever
        order versions are pushed."""
        latest = max(filter(None, (self.latest, version)), key=version_key)
        tags = {**self.tags, tag: version} if tag else self.tags
        return replace(self, latest=latest, tags=tags)


def list_records(registry: Storage) -> list[VersionRecord]:
    """Every published version, newest first."""
    names = registry.folder(VERSIONS).child_names()
    versions = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    records = [record for version in versions if (record := read_record(registry, version))]
    return sorted(records, key=lambda record: version_key(record.version), reverse=True)


def read_record(registry: Storage, version: str) -> VersionRecord | None:
    """The record of a version, or None. Raises IntegrityError if it is damaged."""
    if not _VERSION.fullmatch(version):
        return None
    snapshot = registry.snapshot(_record_name(version))
    return _parse(registry, _record_name(version), VersionRecord, snapshot)


def publish_record(registry: Storage, record: VersionRecord) -> tuple[VersionRecord, bool]:
    """Write the record of a version unless there is one: the version's record, and whether it is
    new.

    Raises RefusedError if the version is another bundle.
    """
    for attempt in range(ATTEMPTS):
        published = read_record(registry, record.version)
        if published is not None:
            refuse_other_bundle(registry, published, record)
            return published, False
        # the write fails if another push recorded the version since the read
        if registry.put_if_unchanged(_record_name(record.version), None, spell(record)):
            return record, True
        time.sleep(0.01 * attempt)
    raise DataError(
        f"{registry.location}: version {record.version} could not be recorded", hint="push again"
    )


def refuse_other_bundle(registry: Storage, published: VersionRecord, record: VersionRecord) -> None:
    """Raise RefusedError if the published version has another identity than the record."""
    if published.digest != record.digest:
        raise RefusedError(
            f"{registry.location} already has version {record.version} with digest "
            f"{published.digest[:12]}; this bundle's digest is {record.digest[:12]}",
            hint="published versions never change: make a new version with add-items or align, "
            "or push to another NAME",
        )


def read_pointer(registry: Storage) -> Pointer:
    """The pointer; an empty one if nothing was published. Raises IntegrityError if it is
    damaged."""
    return _parse(registry, POINTER, Pointer, registry.snapshot(POINTER)) or Pointer()


def update_pointer(registry: Storage, change: Callable[[Pointer], Pointer]) -> Pointer:
    """Change the pointer; if another writer is faster, apply the change to what it wrote."""
    for attempt in range(ATTEMPTS):
        snapshot = registry.snapshot(POINTER)
        pointer = _parse(registry, POINTER, Pointer, snapshot)
        changed = change(pointer or Pointer())
        if changed == pointer:
            return changed  # repeating a push writes nothing
        if registry.put_if_unchanged(POINTER, snapshot, spell(changed)):
            return changed
        time.sleep(0.01 * attempt)
    raise DataError(
        f"{registry.location}/{POINTER} was changed by other writers {ATTEMPTS} times",
        hint="try again",
    )


def check_tag(tag: str) -> None:
    """Raise UsageError if a tag could be read as a version or is "latest"."""
    if tag == LATEST or not _TAG.fullmatch(tag):
        raise UsageError(
            f"{tag!r} is not a valid tag",
            hint="a letter, then letters, digits, '.', '_' or '-'; not 'latest'",
        )


def version_key(version: str) -> tuple[int, int]:
    """The sort key of a version: "1.10" -> (1, 10). Raises DataError if it is not two numbers."""
    if not _VERSION.fullmatch(version):
        raise DataError(f"{version!r} is not a version: two numbers separated by a dot")
    major, _, minor = version.partition(".")
    return int(major), int(minor)


def spell(document: VersionRecord | Pointer) -> bytes:
    """The stored bytes of a document."""
    text = json.dumps(document.to_json(), indent=1, sort_keys=True, ensure_ascii=False)
    return f"{text}\n".encode()


def _record_name(version: str) -> str:
    return f"{VERSIONS}/{version}.json"


def _parse(
    registry: Storage, name: str, kind: type[Document], snapshot: Snapshot | None
) -> Document | None:
    """The document in an object; unknown keys are ignored."""
    if snapshot is None:
        return None
    try:
        value: dict[str, Any] = json.loads(snapshot.data)
        newer = value.get("format", FORMAT) > FORMAT
        document = kind.from_json(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{registry.location}/{name} is damaged: {error}") from error
    if newer:
        raise CompatibilityError(
            f"{registry.location} has registry layout {value['format']}, this version of sidtool "
            f"reads up to {FORMAT}",
            hint="upgrade sidtool",
        )
    return document
