"""References to published bundles: URL/NAME (the latest version), URL/NAME@VERSION,
URL/NAME@TAG."""

from pathlib import Path

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.storage import Storage
from sidtool.bundle.zarr_group import ROOT
from sidtool.errors import DataError, UsageError
from sidtool.registry.records import (
    LATEST,
    POINTER,
    VersionRecord,
    list_records,
    read_pointer,
    read_record,
)


def open_bundle(reference: str | Path) -> Bundle:
    """Open a bundle at a path or URL, or a published URL/NAME[@VERSION|@TAG].

    Raises DataError if the registry has no such version or tag, and what `Bundle.open` raises.
    """
    return Bundle.open(resolve(str(reference)))


def resolve(reference: str) -> str:
    """The path or URL of the bundle that a reference names; a bundle's own path or URL is returned
    unchanged.

    Raises DataError if the registry has no such version or tag.
    """
    if is_bundle(reference):
        return reference
    registry, record = find_version(reference)
    return registry.folder(record.bundle).location


def find_version(reference: str) -> tuple[Storage, VersionRecord]:
    """The registry folder and the record of URL/NAME[@VERSION|@TAG]. Raises DataError if there is
    none."""
    base, name = split_reference(reference)
    registry = Storage(base)
    pointer = read_pointer(registry)
    name = name or LATEST
    version = pointer.latest if name == LATEST else pointer.tags.get(name, name)
    record = read_record(registry, version) if version else None
    if record is not None:
        return registry, record
    available = [each.version for each in list_records(registry)] + list(pointer.tags)
    if not available:
        raise DataError(
            f"no bundle was pushed to {base}", hint=f"sidtool push BUNDLE {registry.location}"
        )
    raise DataError(f"{base} has no {name!r}: it has {', '.join(available)}")


def split_reference(reference: str) -> tuple[str, str | None]:
    """The two parts of a reference: "URL/NAME@TAG" -> ("URL/NAME", "TAG"); None if it has no
    "@"."""
    folder, slash, last = reference.rstrip("/").rpartition("/")
    name, at, version = last.partition("@")
    if not name or (at and not version):
        raise UsageError(
            f"{reference!r} does not name a bundle",
            hint="a reference is URL/NAME, URL/NAME@VERSION or URL/NAME@TAG",
        )
    return folder + slash + name, version or None


def is_bundle(location: str) -> bool:
    """Whether a location is a bundle itself, and not a reference. A remote store is read only if
    the spelling is ambiguous."""
    if "://" not in location:
        path = Path(location)
        if path.exists():
            return (path / ROOT).exists() or not (path / POINTER).exists()
        return "@" not in path.name
    name = location.rstrip("/").rpartition("/")[2]
    if "@" in name or name.endswith((".zarr", ".zip")):
        return "@" not in name
    storage = Storage(location)
    return storage.has(ROOT) or not storage.has(POINTER)
