"""How a bundle lies in Zarr v3: a folder, a stored zip, or a URL; the manifest is written last and
is the commit mark.

Knows objects, the root document and digests; knows nothing of what the arrays mean. Integrity is
checked here: every stored object against its SHA-256, the root document against its own hash and
its own spelling, a zip against the one zip that its objects make. So one flipped byte anywhere is
found. docs/format.md is the format, in a page."""

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from sidtool.bundle.arrays import StoredArrays
from sidtool.bundle.manifest import FORMAT, Manifest, canonical
from sidtool.bundle.storage import Objects, is_zip
from sidtool.errors import DataError, IntegrityError
from sidtool.output import new_file, remove

ROOT = "zarr.json"
CHUNK_BYTES = 1 << 22
"""An array larger than this is cut into even chunks of at most so many bytes."""
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def open_stored(location: str) -> tuple[Manifest, StoredArrays]:
    """The manifest of a stored bundle, checked against its own hash, and the arrays, to be read
    when needed.

    Raises DataError if there is no bundle, IntegrityError if it is unfinished or damaged.
    """
    objects = Objects(location)
    manifest = _manifest_in(objects)
    return manifest, StoredArrays(objects, manifest)


def read_manifest(location: str) -> Manifest:
    """The manifest alone. Raises as `open_stored` does."""
    return _manifest_in(Objects(location))


def parse_root(location: str, data: bytes) -> Manifest:
    """The manifest in a root document. Its one spelling is checked, so that no byte of it is free
    to change."""
    try:
        attributes = json.loads(data)["attributes"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{location}: {ROOT} is damaged ({type(error).__name__})") from error
    if not isinstance(attributes, dict) or "sidtool" not in attributes:
        raise IntegrityError(
            f"{location} has no manifest: an unfinished bundle, or another Zarr group"
        )
    if data != _spell_root(attributes["sidtool"]):
        raise IntegrityError(
            f"{location}: {ROOT} is damaged: the manifest is not what its own SHA-256 says"
        )
    return Manifest.from_json(attributes["sidtool"])


def read_object(location: str, name: str) -> bytes | None:
    """The bytes of one stored object, or None."""
    return Objects(location).read(name)


def stored_objects(location: str) -> Iterator[tuple[str, bytes]]:
    """Every stored object of a bundle: its name and its bytes, the root document among them."""
    return Objects(location).all()


def write_folder(folder: Path, arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> None:
    """Write arrays, then their digests and the manifest, into an empty folder.

    Arrays are stored plainly, so that a row lies at a place that arithmetic tells: what is asked
    for can be read alone."""
    import zarr

    store = zarr.storage.LocalStore(folder)
    for name, array in arrays.items():
        chunks = max(1, -(-array.nbytes // CHUNK_BYTES))
        zarr.create_array(
            store,
            name=name,
            data=array,
            chunks=(max(1, -(-len(array) // chunks)), *array.shape[1:]),
            compressors=None,
            config={"write_empty_chunks": True},
        )
    commit(folder, manifest)


def commit(folder: Path, manifest: Manifest) -> None:
    """Write the root document of a folder whose arrays are there: from now on it is a bundle."""
    objects = {name: _sha256(data) for name, data in stored_objects(str(folder)) if name != ROOT}
    (folder / ROOT).write_bytes(
        _spell_root(manifest.to_json() | {"format": FORMAT, "objects": objects})
    )


@contextmanager
def packed(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder to write a bundle into; it becomes the zip `path` when the block ends well."""
    with new_file(path, force=force) as target:
        folder = target.with_name(target.name + ".d")
        remove(folder)
        folder.mkdir()
        try:
            yield folder
            write_zip(folder, target)
        finally:
            remove(folder)


def write_zip(folder: Path, target: Path) -> None:
    """Pack a finished folder: stored, sorted, root last, times fixed, so that equal objects give
    equal bytes."""
    with target.open("wb") as stream:
        _pack(stream, stored_objects(str(folder)))


def broken_objects(location: str, manifest: Manifest) -> list[tuple[str, str]]:
    """Every stored object that is not what the manifest says: (object, what is wrong)."""
    stored = {name: _sha256(data) for name, data in stored_objects(location)}
    broken = [
        (name, "missing" if name not in stored else "its SHA-256 differs from the manifest's")
        for name, digest in sorted(manifest.objects.items())
        if stored.get(name) != digest
    ]
    broken += [
        (name, "not in the manifest")
        for name in sorted(stored.keys() - manifest.objects.keys() - {ROOT})
    ]
    if not broken and is_zip(location) and not _is_canonical_zip(Objects(location)):
        name = location.rpartition("/")[2]
        broken.append((name, "the zip's own records differ from those that its objects make"))
    return broken


def _manifest_in(objects: Objects) -> Manifest:
    data = objects.read(ROOT)
    if data is not None:
        return parse_root(objects.location, data)
    if objects.exists():
        raise IntegrityError(f"{objects.location} has no {ROOT}: an unfinished or damaged bundle")
    raise DataError(
        f"no bundle at {objects.location}",
        hint="a bundle is a .zarr folder or a .zarr.zip that build-codebook wrote",
    )


def _is_canonical_zip(objects: Objects) -> bool:
    with tempfile.TemporaryFile() as again, objects.stream() as there:
        _pack(again, objects.all())
        again.seek(0)
        digests = [hashlib.file_digest(stream, "sha256").digest() for stream in (again, there)]
    return digests[0] == digests[1]


def _pack(stream: IO[bytes], objects: Iterable[tuple[str, bytes]]) -> None:
    """Write objects that come sorted by name; the root document goes last."""
    last = None
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in objects:
            if name == ROOT:
                last = data
            else:
                archive.writestr(_record(name), data)
        if last is not None:
            archive.writestr(_record(ROOT), last)


def _record(name: str) -> zipfile.ZipInfo:
    record = zipfile.ZipInfo(name, ZIP_TIME)
    record.create_system = 3  # the same bytes on every system
    return record


def _spell_root(manifest: Mapping[str, Any]) -> bytes:
    attributes = {"sidtool": manifest, "sidtool_sha256": _sha256(canonical(manifest))}
    root = {"attributes": attributes, "node_type": "group", "zarr_format": 3}
    return (
        json.dumps(root, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
        + b"\n"
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
