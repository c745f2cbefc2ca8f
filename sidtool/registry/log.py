"""The versions of a bundle, with the names under which they are published."""

from dataclasses import dataclass

from sidtool.bundle.history import Version
from sidtool.registry.records import LATEST, list_records, read_pointer
from sidtool.registry.references import open_bundle, resolve, split_reference
from sidtool.storage.storage import Storage


@dataclass(frozen=True)
class LoggedVersion:
    """A version of a bundle's lineage, and the version, "latest" and tags that refer to it."""

    version: Version
    published: tuple[str, ...]


@dataclass(frozen=True)
class VersionLog:
    """The lineage of a bundle, newest first."""

    versions: tuple[LoggedVersion, ...]
    in_registry: bool
    """whether the bundle was opened by a reference to a registry"""
    other_versions: tuple[str, ...] = ()
    """published versions that are not in the lineage of this bundle"""


def log(reference: str) -> VersionLog:
    """The lineage of a bundle (a path, URL or reference); for URL/NAME also which versions are
    published, and under which names."""
    history = open_bundle(reference).manifest.history
    published = published_names(reference)
    # a later version may revert a change, so two versions may have the same digest
    keys = {(version.version, version.digest) for version in history}
    return VersionLog(
        versions=tuple(
            LoggedVersion(version, published.get((version.version, version.digest), ()))
            for version in reversed(history)
        ),
        in_registry=bool(published),
        other_versions=tuple(key[0] for key in published if key not in keys),
    )


def published_names(reference: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """(version, digest) -> its version, "latest" and tags, newest first; empty for a bundle's own
    path or URL."""
    if resolve(reference) == reference:
        return {}
    registry = Storage(split_reference(reference)[0])
    pointer = read_pointer(registry)
    names = {LATEST: pointer.latest, **pointer.tags}
    return {
        (record.version, record.digest): (
            record.version,
            *(name for name, version in names.items() if version == record.version),
        )
        for record in list_records(registry)
    }
