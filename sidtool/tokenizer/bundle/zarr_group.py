"""A bundle as a stored Zarr v3 group: arrays, and a root document with the manifest, written last.

The root document holds the SHA-256 of every other object and of the manifest itself, and has
exactly one spelling, so one flipped byte anywhere is detected. docs/format.md specifies the format.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from sidtool.base.artifact import MAX_ROOT_BYTES, describe
from sidtool.base.documents import canonical, parse_json
from sidtool.base.errors import DataError, IntegrityError
from sidtool.base.hub import hub_hint
from sidtool.base.output import new_file, remove
from sidtool.base.storage import Storage, is_zip, write_zip
from sidtool.base.threads import in_threads
from sidtool.tokenizer.bundle.zarr_arrays import GroupManifest, array_objects

ROOT = "zarr.json"
"""The root document. Its presence means that the bundle is complete."""

Kind = Literal["bundle", "memory"]
"""What a group is: its manifest has the key `kind` unless it is a bundle."""

_COMMANDS: Mapping[Kind, str] = {"bundle": "build-codebook", "memory": "build-memory"}


def read_root(storage: Storage, kind: Kind) -> Mapping[str, Any]:
    """The manifest of a stored group of some kind as JSON, checked against its own SHA-256. Raises
    DataError if there is none, or if the group is of another kind; IntegrityError if it is
    unfinished or damaged."""
    data = storage.read(ROOT, limit=MAX_ROOT_BYTES)
    if data is not None:
        return parse_root(storage.location, data, kind)
    hint = f"a {kind} is a .zarr folder or a .zarr.zip that {_COMMANDS[kind]} wrote"
    other = describe(storage.location)
    if other is not None:
        copy = Path(storage.location) / "sid.zarr"
        if kind == "bundle" and copy.is_dir():
            hint = f"the model's bundle is {copy}"
        raise DataError(f"{storage.location} is {other}, not a {kind}", hint=hint)
    if storage.exists():
        raise IntegrityError(
            f"{storage.location} has no {ROOT}: an unfinished or damaged {kind}", hint=hint
        )
    hint = hub_hint(storage.location) or hint
    raise DataError(f"no {kind} at {storage.location}", hint=hint)


def parse_root(location: str, data: bytes, kind: Kind) -> Mapping[str, Any]:
    """The manifest in a root document as JSON. Raises IntegrityError unless it is spelled as
    `spell_root` spells it and of a known kind, DataError if the group is of another kind."""
    try:
        if len(data) > MAX_ROOT_BYTES:
            raise ValueError(f"it has more than {MAX_ROOT_BYTES} bytes")
        attributes = parse_json(data)["attributes"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{location}: {ROOT} is damaged: {error}") from error
    if not isinstance(attributes, dict) or "sidtool" not in attributes:
        raise IntegrityError(
            f"{location} has no manifest: an unfinished {kind}, or another Zarr group"
        )
    manifest = attributes["sidtool"]
    text = data.decode()
    position = 0
    for piece in _pieces(manifest):  # spelling is slow: it ends at the first difference
        position = position + len(piece) if text.startswith(piece, position) else len(text) + 1
        if position > len(text):
            break
    if position != len(text):
        raise IntegrityError(
            f"{location}: {ROOT} is damaged: the manifest differs from its own SHA-256"
        )
    stored_kind = manifest.get("kind", "bundle") if isinstance(manifest, dict) else kind
    if stored_kind not in get_args(Kind):
        raise IntegrityError(f"{location}: {ROOT} has kind {str(stored_kind)[:40]!r}")
    if stored_kind != kind:
        raise DataError(f"{location} is a {stored_kind}, not a {kind}")
    return manifest


def spell_root(manifest: Mapping[str, Any]) -> bytes:
    """The bytes of the root document for a manifest as JSON."""
    return "".join(_pieces(manifest)).encode()


def _pieces(manifest: Any) -> Iterator[str]:
    attributes = {"sidtool": manifest, "sidtool_sha256": _sha256(canonical(manifest))}
    root = {"attributes": attributes, "node_type": "group", "zarr_format": 3}
    yield from json.JSONEncoder(
        indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False
    ).iterencode(root)
    yield "\n"


def write_group(
    folder: Path, arrays: Mapping[str, NDArray[Any]], manifest: GroupManifest, threads: int = 1
) -> None:
    """Write arrays, then the root document, into an empty folder."""

    def write(named: tuple[str, bytes]) -> tuple[str, str]:
        name, data = named
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name, _sha256(data)

    objects = dict(in_threads(write, array_objects(arrays), threads))
    (folder / ROOT).write_bytes(spell_root(manifest.to_json() | {"objects": objects}))


@contextmanager
def new_zip(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder to write a bundle into; it is packed into the zip `path` if the block succeeds."""
    with new_file(path, force=force) as partial:
        folder = partial.with_name(partial.name + ".d")
        remove(folder)
        folder.mkdir()
        try:
            yield folder
            with partial.open("wb") as stream:
                write_zip(stream, Storage(folder).read_all(), last=ROOT)
        finally:
            remove(folder)


def broken_objects(
    storage: Storage, manifest: GroupManifest, *, alone: bool = True
) -> list[tuple[str, str]]:
    """Every stored object that differs from the manifest: (name, what is wrong). Objects that the
    manifest does not name are not read, and unless it is `alone`, they are allowed."""
    names = set(storage.names()) - {ROOT}
    listed = names & manifest.objects.keys()
    if storage.local_path is not None and not is_zip(storage.location):
        # a link may lead nowhere
        listed = {name for name in listed if (storage.local_path / name).exists()}
    stored = {name: _sha256(data) for name, data in storage.read_all(list(listed))}
    broken = [
        (name, "missing" if name not in stored else "its SHA-256 differs from the manifest's")
        for name, digest in sorted(manifest.objects.items())
        if stored.get(name) != digest
    ]
    if alone:
        unknown = sorted(names - manifest.objects.keys())
        broken += [(name, "not in the manifest") for name in unknown]
    if not broken and is_zip(storage.location):
        with tempfile.TemporaryFile() as repacked, storage.open_file() as zipped:
            write_zip(repacked, storage.read_all(), last=ROOT)
            repacked.seek(0)
            expected = hashlib.file_digest(repacked, "sha256").digest()
            is_canonical = hashlib.file_digest(zipped, "sha256").digest() == expected
        if not is_canonical:
            name = storage.location.rpartition("/")[2]
            broken.append((name, "the zip's own records differ from those that its objects make"))
    return broken


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
