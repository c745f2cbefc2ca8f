"""References: how the versions of a bundle lie under URL/NAME, and which one NAME, NAME@VERSION or
NAME@TAG means.

    NAME/refs.json                              latest and tags: the pointer, the only object that
    is overwritten NAME/versions/1.0.json                      the record, put last and only where
    none is: the commit mark NAME/versions/1.0-<12 of root's SHA-256>/   the version: README.md and
    bundle.zarr/, named by its content

Knows names and the two small JSON documents; knows nothing of bundles' insides, nor how a version
gets there."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sidtool.bundle.bundle import Bundle
from sidtool.errors import CompatibilityError, DataError, IntegrityError, RefusedError, UsageError
from sidtool.registry.remote import Place, connect

FORMAT = 0
"""The newest registry layout that this version reads and the one that it writes."""

POINTER, VERSIONS, BUNDLE, CARD = "refs.json", "versions", "bundle.zarr", "README.md"
LATEST = "latest"
ATTEMPTS = 50
"""Lost races after which a pointer or a record is given up."""

_ROOT = "zarr.json"
_VERSION = re.compile(r"\d+\.\d+")
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Record:
    """One published version."""

    version: str
    digest: str
    """the bundle's identity"""
    root: str
    """SHA-256 of its zarr.json, which names the SHA-256 of every other object"""
    license: str = "unknown"
    format: int = FORMAT

    @property
    def folder(self) -> str:
        """Where it lies, from NAME: named by content, so that two versions never write the same
        object."""
        return f"{VERSIONS}/{self.version}-{self.root[:12]}"


@dataclass(frozen=True)
class Refs:
    """The pointer: the highest version, and versions by tag."""

    latest: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


def split(reference: str) -> tuple[str, str | None]:
    """The parts of a reference: "URL/NAME@WHICH" -> ("URL/NAME", "WHICH"), or None where no version
    or tag is named."""
    head, slash, last = reference.rstrip("/").rpartition("/")
    name, at, which = last.partition("@")
    if not name or (at and not which):
        raise UsageError(
            f"{reference!r} names no bundle",
            hint="a reference is URL/NAME, URL/NAME@VERSION or URL/NAME@TAG",
        )
    return head + slash + name, which or None


def open_bundle(reference: str | Path) -> Bundle:
    """Open a bundle at a path or URL, or a published URL/NAME[@VERSION|@TAG].

    Raises DataError if the registry has no such version or tag, and what `Bundle.open` raises.
    """
    return Bundle.open(resolve(str(reference)))


def resolve(location: str) -> str:
    """The immutable bundle that a location means: itself, if it is a path or URL of a bundle, or a
    published version.

    Raises DataError if the registry has no such version or tag.
    """
    if _is_bundle(location):
        return location
    place, record = find(location)
    return place.at(f"{record.folder}/{BUNDLE}").url


def find(reference: str) -> tuple[Place, Record]:
    """The registry and the record that URL/NAME, URL/NAME@VERSION or URL/NAME@TAG means.

    Raises DataError if there is none.
    """
    base, which = split(reference)
    place = connect(base)
    refs = read_refs(place)
    which = which or LATEST
    version = refs.latest if which == LATEST else refs.tags.get(which, which)
    record = read_record(place, version) if version else None
    if record is None:
        there = [each.version for each in records(place)] + list(refs.tags)
        if not there:
            raise DataError(
                f"no bundle was pushed to {place.url}", hint=f"sidtool push BUNDLE {place.url}"
            )
        raise DataError(f"{place.url} has no {which!r}: it has {', '.join(there)}")
    return place, record


def records(place: Place) -> list[Record]:
    """Every published version, newest first."""
    names = [
        name.removesuffix(".json") for name in place.at(VERSIONS).names() if name.endswith(".json")
    ]
    found = [record for name in names if (record := read_record(place, name))]
    return sorted(found, key=lambda record: order(record.version), reverse=True)


def read_record(place: Place, version: str) -> Record | None:
    """The record of a version, or None. Raises IntegrityError if it is damaged."""
    if not _VERSION.fullmatch(version):
        return None
    return _read(place, _record_name(version), Record)[0]


def claim(place: Place, record: Record) -> tuple[Record, bool]:
    """Publish a version, unless there is one of that number: the record that holds it now, and
    whether it is new.

    Raises RefusedError if another bundle holds it.
    """
    for attempt in range(ATTEMPTS):
        there = read_record(place, record.version)
        if there is not None:
            refuse_another(place, there, record)
            return there, False
        if place.swap(_record_name(record.version), None, _spell(record)):
            return record, True
        time.sleep(0.01 * attempt)
    raise DataError(
        f"{place.url}: version {record.version} could not be recorded", hint="push again"
    )


def refuse_another(place: Place, there: Record, record: Record) -> None:
    """Raise RefusedError if a version is held by another bundle."""
    if there.digest != record.digest:
        raise RefusedError(
            f"{place.url} has a version {record.version} already, with digest {there.digest[:12]}; "
            f"this bundle's is {record.digest[:12]}",
            hint="versions never change: give this bundle a higher one with add-items or align, "
            "or another NAME",
        )


def read_refs(place: Place) -> Refs:
    """The pointer; an empty one where nothing was published. Raises IntegrityError if it is
    damaged."""
    return _read(place, POINTER, Refs)[0] or Refs()


def point(place: Place, change: Callable[[Refs], Refs]) -> Refs:
    """Change the pointer; where another writer was quicker, again on what that one wrote."""
    for attempt in range(ATTEMPTS):
        refs, seen = _read(place, POINTER, Refs)
        changed = change(refs or Refs())
        if changed == refs or place.swap(POINTER, seen, _spell(changed)):
            return changed
        time.sleep(0.01 * attempt)
    raise DataError(
        f"{place.url}/{POINTER} changes faster than it can be written", hint="try again"
    )


def with_version(version: str, tag: str | None) -> Callable[[Refs], Refs]:
    """The change that publishing a version makes: the highest one is the latest, in whatever order
    they come."""

    def change(refs: Refs) -> Refs:
        latest = max(filter(None, (refs.latest, version)), key=order)
        return replace(refs, latest=latest, tags={**refs.tags, **({tag: version} if tag else {})})

    return change


def check_tag(tag: str) -> str:
    """The tag itself. Raises UsageError if it could be taken for a version, or has a meaning of its
    own."""
    if tag == LATEST or not _TAG.fullmatch(tag):
        raise UsageError(
            f"{tag!r} is no tag",
            hint="a letter, then letters, digits, '.', '_' or '-'; not 'latest'",
        )
    return tag


def order(version: str) -> tuple[int, int]:
    """ "1.10" -> (1, 10). Raises DataError if it is not two numbers."""
    if not _VERSION.fullmatch(version):
        raise DataError(f"{version!r} is not a version: two numbers with a dot between")
    major, _, minor = version.partition(".")
    return int(major), int(minor)


def _is_bundle(location: str) -> bool:
    """Whether a location names a bundle itself; a store is asked only where the spelling leaves it
    open."""
    if "://" not in location:
        path = Path(location)
        if path.exists():
            return (path / _ROOT).exists() or not (path / POINTER).exists()
        return "@" not in path.name
    name = location.rstrip("/").rpartition("/")[2]
    if "@" in name or name.endswith((".zarr", ".zip")):
        return "@" not in name
    place = connect(location)
    return place.has(_ROOT) or not place.has(POINTER)


def _record_name(version: str) -> str:
    return f"{VERSIONS}/{version}.json"


def _spell(value: Record | Refs) -> bytes:
    return json.dumps(asdict(value), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _read(place: Place, name: str, kind: type[Any]) -> tuple[Any, Any]:
    """A document and the object that it was read from, or twice None; keys that are not known are
    ignored."""
    seen = place.read(name)
    if seen is None:
        return None, None
    try:
        value = json.loads(seen.data)
        newer = value.get("format", 0) > FORMAT
        document = kind(**{f.name: value[f.name] for f in fields(kind) if f.name in value})
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{place.url}/{name} is damaged: {error}") from error
    if newer:
        raise CompatibilityError(
            f"{place.url} has registry layout {value['format']}, this sidtool reads up to {FORMAT}",
            hint="upgrade sidtool",
        )
    return document, seen
