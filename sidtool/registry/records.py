"""The JSON documents of a registry folder, and how they are published.

    NAME/refs.json              the pointer: latest version and tags; the only object overwritten
    NAME/versions/1.0.json      the record of a version: written last, and only if there is none
    NAME/versions/1.0-<12 digits of the SHA-256 of its root document>/
        README.md               the card
        bundle.zarr/            the bundle; memory.zarr/ of a memory, model/ of a model

The folder of a version is named by its content, so two versions never write the same object.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeVar

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError, IntegrityError, RefusedError, UsageError
from sidtool.base.records import (
    VERSION,
    Digest,
    JsonRecord,
    Rule,
    VersionNumber,
    refuse_newer,
    version_key,
)
from sidtool.base.storage import Snapshot, Storage

Kind = Literal["bundle", "memory", "model"]

FOLDERS: Mapping[Kind, str] = {"bundle": "bundle.zarr", "memory": "memory.zarr", "model": "model"}
"""The folder of the objects in that of a version."""

FORMAT = 1
"""The registry layout that this version writes, and the newest that it reads."""

POINTER = "refs.json"
VERSIONS = "versions"
CARD = "README.md"
LATEST = "latest"
UNKNOWN_LICENSE = "unknown"

ATTEMPTS = 50
"""Lost races after which a conditional write fails."""

MAX_DOCUMENT = 1 << 20
"""Bytes of the largest document that is read."""
MAX_VERSIONS = 10_000
"""The most versions that a registry may have."""

_TAG = re.compile(rf"(?!{LATEST}$)[A-Za-z][A-Za-z0-9._-]{{0,127}}")
Tag = Annotated[str, Rule("the name of a tag", _TAG.pattern)]

Document = TypeVar("Document", "VersionRecord", "Pointer")


@dataclass(frozen=True)
class VersionRecord(JsonRecord):
    """One published version."""

    version: VersionNumber
    digest: Digest
    """the identity of the bundle, the digest of the memory, or `root` of a model"""
    root: Digest
    """SHA-256 of its zarr.json or sid.json, which leads to the SHA-256 of every other object"""
    license: str = UNKNOWN_LICENSE
    kind: Kind = "bundle"
    format: Annotated[int, Rule("a known format", minimum=1, maximum=FORMAT)] = FORMAT

    @property
    def folder(self) -> str:
        """The folder of the version, relative to NAME."""
        return f"{VERSIONS}/{self.version}-{self.root[:12]}"

    @property
    def group(self) -> str:
        """The folder of the bundle, memory or model, relative to NAME."""
        return f"{self.folder}/{FOLDERS[self.kind]}"


@dataclass(frozen=True)
class Pointer(JsonRecord):
    """The highest version, and versions by tag."""

    latest: VersionNumber | None = None
    tags: Mapping[Tag, VersionNumber] = field(default_factory=dict)
    format: Annotated[int, Rule("a known format", minimum=1, maximum=FORMAT)] = FORMAT

    def with_version(self, version: str, tag: str | None) -> "Pointer":
        """The pointer after a version is published. `latest` is the highest version, in whatever
        order versions are pushed."""
        latest = max(filter(None, (self.latest, version)), key=version_key)
        tags = {**self.tags, tag: version} if tag else self.tags
        return replace(self, latest=latest, tags=tags)


def list_versions(registry: Storage) -> list[str]:
    """The numbers of the published versions, newest first. Raises DataError if there are too
    many."""
    names = registry.folder(VERSIONS).child_names()
    numbers = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    versions = [number for number in numbers if VERSION.fullmatch(number)]
    if len(versions) > MAX_VERSIONS:
        raise DataError(
            f"{registry.location} has {len(versions)} versions, the limit is {MAX_VERSIONS}"
        )
    return sorted(versions, key=version_key, reverse=True)


def list_records(registry: Storage) -> list[VersionRecord]:
    """Every published version, newest first."""
    versions = list_versions(registry)
    return [record for version in versions if (record := read_record(registry, version))]


def read_record(registry: Storage, version: str) -> VersionRecord | None:
    """The record of a version, or None. Raises IntegrityError if it is damaged."""
    if not VERSION.fullmatch(version):
        return None
    name = record_name(version)
    return _parse(registry, name, VersionRecord, registry.snapshot(name, MAX_DOCUMENT))


def publish_record(registry: Storage, record: VersionRecord) -> tuple[VersionRecord, bool]:
    """Write the record of a version unless there is one: the version's record, which may be that of
    another push, and whether it is new."""
    name = record_name(record.version)
    return _change(registry, name, VersionRecord, lambda published: published or record)


def refuse_other(registry: Storage, published: VersionRecord, record: VersionRecord) -> None:
    """Raise RefusedError if the version of a bundle is published with another digest."""
    if published.digest != record.digest and record.kind == "bundle":
        raise RefusedError(
            f"{registry.location} already has version {record.version} with digest "
            f"{published.digest[:12]}; this bundle's digest is {record.digest[:12]}",
            hint="published versions never change: make the bundle from a published one "
            f"(add-items or align on {registry.location}@VERSION), which gives it a free number, "
            "or push to another NAME",
        )


def read_pointer(registry: Storage) -> Pointer:
    """The pointer; an empty one if nothing was published. Raises IntegrityError if it is
    damaged."""
    return _parse(registry, POINTER, Pointer, registry.snapshot(POINTER, MAX_DOCUMENT)) or Pointer()


def update_pointer(registry: Storage, change: Callable[[Pointer], Pointer]) -> Pointer:
    """Change the pointer; repeating a change writes nothing."""
    return _change(registry, POINTER, Pointer, lambda pointer: change(pointer or Pointer()))[0]


def _change(
    registry: Storage,
    name: str,
    kind: type[Document],
    change: Callable[[Document | None], Document],
) -> tuple[Document, bool]:
    """Change a document, and whether it was written; if another writer is faster, apply the change
    to what it wrote."""
    for attempt in range(ATTEMPTS):
        snapshot = registry.snapshot(name, MAX_DOCUMENT)
        stored = _parse(registry, name, kind, snapshot)
        changed = change(stored)
        if changed == stored:
            return changed, False
        if registry.put_if_unchanged(name, snapshot, spell(changed)):
            return changed, True
        time.sleep(0.01 * attempt)
    raise DataError(
        f"{registry.location}/{name} was changed by other writers {ATTEMPTS} times",
        hint="try again",
    )


def check_tag(tag: str) -> None:
    """Raise UsageError if a tag could be read as a version or is "latest"."""
    if not _TAG.fullmatch(tag):
        raise UsageError(
            f"{tag!r} is not a valid tag",
            hint="a letter, then at most 127 letters, digits, '.', '_' or '-'; not 'latest'",
        )


def spell(document: VersionRecord | Pointer) -> bytes:
    """The stored bytes of a document."""
    text = json.dumps(document.to_json(), indent=1, sort_keys=True, ensure_ascii=False)
    return f"{text}\n".encode()


def record_name(version: str) -> str:
    """The record of a version, relative to NAME."""
    return f"{VERSIONS}/{version}.json"


def _parse(
    registry: Storage, name: str, kind: type[Document], snapshot: Snapshot | None
) -> Document | None:
    """The document in an object; unknown keys are ignored."""
    if snapshot is None:
        return None
    try:
        value = parse_json(snapshot.data)
        refuse_newer(value, FORMAT, registry.location)
        document = kind.from_json(value)
        if isinstance(document, VersionRecord) and record_name(document.version) != name:
            raise ValueError(f"it is the record of version {document.version}")
        return document
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{registry.location}/{name} is damaged: {error}") from error
