"""Publishing versions of a bundle at any fsspec URL: push, pull, tag, versions.

Knows the order in which a version appears: objects, card, zarr.json, record, pointer. So a push
that was killed leaves nothing that a reference finds, and the same push again sends only what is
missing. Knows nothing of how a reference is read (refs.py), nor of what each store promises
(remote.py)."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TypeVar

from sidtool.bundle import store
from sidtool.bundle.bundle import verify
from sidtool.bundle.manifest import Manifest
from sidtool.bundle.storage import is_zip
from sidtool.errors import IntegrityError, UsageError
from sidtool.output import new_dir
from sidtool.registry import references as refs
from sidtool.registry.card import write_card
from sidtool.registry.references import Record
from sidtool.registry.remote import Place, Print, connect

BATCH = 16
"""Objects that are sent or fetched at once: the client's concurrency, and a bound on memory."""

Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    url: str
    """of the immutable bundle"""
    version: str
    digest: str
    new: bool
    """False where the same bundle held the version already"""
    sent: int
    """objects of the bundle; those that an earlier push left are not sent again"""
    latest: str | None
    """version that URL/NAME means now"""


def check_push(
    source: str, target: str, *, license: str = "unknown"
) -> tuple[Place, Record, Manifest]:
    """Where a push would go, and the record that it would leave. Every byte of the source is
    verified.

    Raises UsageError if the target cannot be a registry, IntegrityError if the source is damaged,
    RefusedError if another bundle holds the version."""
    base, which = refs.split(target)
    if which:
        raise UsageError(
            f"the version comes from the bundle: {target!r} must not name one",
            hint=f"push to {base}",
        )
    if base.endswith((".zarr", ".zip")):
        raise UsageError(
            f"{base!r} reads like a bundle, not like a folder of versions",
            hint="leave the ending out",
        )
    place = connect(base)
    if place.has(store.ROOT):
        raise UsageError(
            f"{base} is a Zarr group, not a folder of versions", hint="push to another name"
        )
    source = refs.resolve(source)
    manifest, data = store.read_manifest(source), store.read_object(source, store.ROOT)
    for name, reason in verify(source):
        raise IntegrityError(
            f"{source}: {name}: {reason}", hint="sidtool verify names all that is broken"
        )
    refs.order(manifest.version)
    root = hashlib.sha256(data or b"").hexdigest()
    record = Record(manifest.version, manifest.identity.digest, root, license)
    if there := refs.read_record(place, record.version):
        refs.refuse_another(place, there, record)
    return place, record, manifest


def push(
    source: str,
    target: str,
    *,
    tag: str | None = None,
    license: str = "unknown",
    progress: Progress | None = None,
) -> Pushed:
    """Publish a bundle (a path, a URL or a reference) as a version of URL/NAME.

    The bundle that holds the version already is left as it is; the pointer and the tag are set in
    any case. Raises as `check_push` does, IntegrityError if an object did not arrive as it was
    sent, DataError if the store fails."""
    if tag is not None:
        refs.check_tag(tag)
    place, record, manifest = check_push(source, target, license=license)
    held, new, sent = refs.read_record(place, record.version), False, 0
    if held is None:
        sent = _send_version(refs.resolve(source), place, record, manifest, progress)
        held, new = refs.claim(place, record)
    pointer = refs.point(place, refs.with_version(record.version, tag))
    url = place.at(f"{held.folder}/{refs.BUNDLE}").url
    return Pushed(url, record.version, record.digest, new, sent, pointer.latest)


def pull(
    reference: str, out: Path, *, force: bool = False, progress: Progress | None = None
) -> Record:
    """Copy a published version to a folder, or to a .zip, byte for byte; it is verified before it
    is moved into place.

    A pull into a folder that was killed goes on where it was. Raises DataError if there is no such
    version, IntegrityError if what arrived is not what was published, UsageError if `out` exists
    and `force` is not given."""
    place, record = refs.find(reference)
    source = place.at(f"{record.folder}/{refs.BUNDLE}")
    opened = (
        store.packed(out, force=force)
        if is_zip(out.name)
        else new_dir(out, force=force, resume=True)
    )
    with opened as folder:
        _fetch(source, record, folder, progress)
        for name, reason in verify(folder):
            raise IntegrityError(f"{source.url}: {name}: {reason}")
    return record


def tag(reference: str, name: str) -> Record:
    """Let a tag mean a published version, whatever it meant before.

    Raises UsageError if the reference names no version or the tag is none, DataError if there is no
    such version."""
    refs.check_tag(name)
    if refs.split(reference)[1] is None:
        raise UsageError(f"{reference} names no version", hint="sidtool tag URL/NAME@VERSION TAG")
    place, record = refs.find(reference)
    refs.point(place, lambda there: replace(there, tags={**there.tags, name: record.version}))
    return record


def published(reference: str) -> dict[tuple[str, str], list[str]]:
    """What means each version, newest first: (number, digest) -> its number, then "latest" and
    tags, as they apply.

    Two versions may have one digest, where a later one takes a change back. Empty where a reference
    is a path or URL of a bundle itself."""
    if refs.resolve(reference) == reference:
        return {}
    place = connect(refs.split(reference)[0])
    pointer = refs.read_refs(place)
    named = {refs.LATEST: pointer.latest, **pointer.tags}
    found: dict[tuple[str, str], list[str]] = {}
    for record in refs.records(place):
        names = [name for name, version in named.items() if version == record.version]
        found[record.version, record.digest] = [record.version, *names]
    return found


def _send_version(
    source: str, place: Place, record: Record, manifest: Manifest, progress: Progress | None
) -> int:
    """Everything of a version but its record: the objects, the card, and the root document last."""
    target = place.at(f"{record.folder}/{refs.BUNDLE}")
    sent = _send(source, target, manifest, progress)
    card = write_card(manifest, f"{place.full_url}@{record.version}", record.license)
    place.at(record.folder).put({refs.CARD: card.encode()})
    root = store.read_object(source, store.ROOT) or b""
    if hashlib.sha256(root).hexdigest() != record.root:
        raise IntegrityError(f"{source} was changed while it was pushed")
    target.put({store.ROOT: root})
    _check_arrived(target, {store.ROOT: Print.of(root)})
    return sent + 1


def _send(source: str, target: Place, manifest: Manifest, progress: Progress | None) -> int:
    """Send the objects that are not there yet, then see that all are; how many were sent."""
    there, prints, sent = target.listing(), dict[str, Print](), 0
    for batch in _batches(store.stored_objects(source)):
        missing = {}
        for name, data in batch:
            if name == store.ROOT:
                continue
            prints[name] = Print.of(data)
            if prints[name].sha256 != manifest.objects.get(name):
                raise IntegrityError(f"{source}: {name} was changed while it was pushed")
            if not target.holds(name, there.get(name), prints[name]):
                missing[name] = data
        target.put(missing)
        sent += len(missing)
        if progress is not None:
            progress(len(prints), len(manifest.objects))
    if prints.keys() != manifest.objects.keys():
        raise IntegrityError(f"{source} was changed while it was pushed")
    _check_arrived(target, prints)
    return sent


def _check_arrived(target: Place, prints: dict[str, Print]) -> None:
    there = target.listing()
    for name, expected in prints.items():
        if not target.holds(name, there.get(name), expected):
            raise IntegrityError(
                f"{target.url}: {name} did not arrive as it was sent", hint="push again"
            )


def _fetch(source: Place, record: Record, folder: Path, progress: Progress | None) -> None:
    root = source.read(store.ROOT)
    if root is None or hashlib.sha256(root.data).hexdigest() != record.root:
        raise IntegrityError(f"{source.url}: {store.ROOT} is not the one that was published")
    wanted = store.parse_root(source.url, root.data).objects
    for name in wanted:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise IntegrityError(
                f"{source.url}: the manifest names {name!r}, which would lie outside of the bundle"
            )
    there = _keep_whole(folder, wanted)
    for batch in _batches(name for name in wanted if name not in there):
        for name, data in source.read_many(batch).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            there.add(name)
        if progress is not None:
            progress(len(there), len(wanted))
    (folder / store.ROOT).write_bytes(root.data)


def _keep_whole(folder: Path, wanted: Mapping[str, str]) -> set[str]:
    """The objects that a killed pull left whole; what else lies there is removed."""
    kept = set()
    for name, data in store.stored_objects(str(folder)):
        if hashlib.sha256(data).hexdigest() == wanted.get(name):
            kept.add(name)
        else:
            (folder / name).unlink()
    return kept


def _batches(values: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(values)
    while batch := list(islice(iterator, BATCH)):
        yield batch
