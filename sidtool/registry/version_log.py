"""The versions of a bundle, a memory or a model, with the names under which they are published."""

from dataclasses import dataclass
from pathlib import Path

from sidtool.base.records import JsonRecord
from sidtool.base.storage import Storage
from sidtool.memory import MemoryManifest
from sidtool.model.contract import StoredModel
from sidtool.registry import records
from sidtool.registry.kinds import parse_manifest, read_manifest
from sidtool.registry.records import VersionRecord
from sidtool.registry.references import check_published, locate, published_root, split_reference
from sidtool.tokenizer.bundle import Manifest, Version


@dataclass(frozen=True)
class MemoryVersion(JsonRecord):
    """A memory, or a published version of one."""

    version: str
    """"-" if it is not published: the registry numbers the versions of a memory"""
    digest: str
    name: str
    created: str
    train_events: int
    split: str

    @property
    def change(self) -> str:
        """What it was built from."""
        return f"built from {self.train_events} training events of split {self.split}"


@dataclass(frozen=True)
class ModelVersion(JsonRecord):
    """A model, or a published version of one."""

    version: str
    """"-" if it is not published: the registry numbers the versions of a model"""
    digest: str
    name: str
    stages: tuple[str, ...]
    bundle: str
    """digest of the identity of its bundle"""
    created: str = ""
    """always empty: equal models are equal whenever they were made"""

    @property
    def change(self) -> str:
        """How it was made."""
        return f"{' > '.join(self.stages)}, bundle {self.bundle[:12]}"


AnyVersion = Version | MemoryVersion | ModelVersion


@dataclass(frozen=True)
class LoggedVersion:
    """A version, and the number, "latest" and tags that refer to it."""

    version: AnyVersion
    published: tuple[str, ...]


@dataclass(frozen=True)
class VersionLog:
    """The lineage of a bundle, or the published versions of a memory or model, newest first."""

    versions: tuple[LoggedVersion, ...]
    in_registry: bool
    """whether it was opened by a reference to a registry"""
    other_versions: tuple[str, ...] = ()
    """published versions that are not in the lineage of this bundle"""


def log(reference: str | Path) -> VersionLog:
    """The versions of a bundle, memory or model (a path, URL or reference); for URL/NAME also which
    are published, and under which names. Those of a bundle are its lineage, those of others what
    was published under their name.

    Examples:
        >>> [each.version.version for each in sidtool.log("shop.zarr").versions]
        ['1.0']
    """
    reference = str(reference)
    location, record = locate(reference)
    manifest = read_manifest(location)
    check_published(location, manifest, record)
    published = {} if record is None else published_names(reference)
    if isinstance(manifest, Manifest):
        names = {(version.version, version.digest): names for version, names in published.items()}
        # a later version may revert a change, so two versions may have the same digest
        keys = [(version.version, version.digest) for version in manifest.history]
        return VersionLog(
            versions=tuple(
                LoggedVersion(version, names.get((version.version, version.digest), ()))
                for version in reversed(manifest.history)
            ),
            in_registry=bool(published),
            other_versions=tuple(key[0] for key in names if key not in keys),
        )
    base = split_reference(reference)[0]
    name = base.rpartition("/")[2]
    if not published:
        return VersionLog((LoggedVersion(_version(manifest, name, "-"), ()),), False)
    versions = []
    for version, version_names in published.items():
        location = Storage(base).folder(version.group).location
        stored = parse_manifest(location, published_root(location, version), version.kind)
        check_published(location, stored, version)
        if not isinstance(stored, Manifest):
            versions.append(LoggedVersion(_version(stored, name, version.version), version_names))
    return VersionLog(tuple(versions), True)


def published_versions(reference: str | Path) -> list[str]:
    """The numbers of the versions of URL/NAME, newest first; none for a path or URL of an
    artifact itself. `add_items` and `align` take them as `published`.

    Examples:
        >>> sidtool.published_versions("shop.zarr")
        []
    """
    if locate(str(reference))[1] is None:
        return []
    return records.list_versions(Storage(split_reference(str(reference))[0]))


def _version(manifest: MemoryManifest | StoredModel, name: str, version: str) -> AnyVersion:
    if isinstance(manifest, StoredModel):
        contract = manifest.contract
        stages = tuple(record.stage for record in contract.stages)
        return ModelVersion(version, manifest.digest, name, stages, contract.identity.digest)
    return MemoryVersion(
        version, manifest.digest, name, manifest.created, manifest.train_events, str(manifest.split)
    )


def published_names(reference: str) -> dict[VersionRecord, tuple[str, ...]]:
    """Each published version of URL/NAME with its number, "latest" and tags, newest first."""
    registry = Storage(split_reference(reference)[0])
    pointer = records.read_pointer(registry)
    names = {records.LATEST: pointer.latest, **pointer.tags}
    return {
        record: (
            record.version,
            *(name for name, version in names.items() if version == record.version),
        )
        for record in records.list_records(registry)
    }
