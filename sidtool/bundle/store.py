"""How a bundle lies in Zarr v3: a folder, a stored zip, or a URL; the manifest is written last and is the commit mark.

Knows paths, objects and bytes; knows nothing of what the arrays mean. Integrity is checked here: every stored object
against its SHA-256, the root document against its own hash and its own spelling, a zip against the one zip that its
objects make. So one flipped byte anywhere is found.
"""

import hashlib
import json
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.manifest import Manifest, canonical
from sidtool.errors import DataError, IntegrityError
from sidtool.output import new_file, remove

ROOT = "zarr.json"
CHUNK_ROWS = 1 << 16
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class StoredArrays(Mapping[str, NDArray[Any]]):
    """The arrays of a stored group by path, each read when it is asked for."""

    def __init__(self, location: str) -> None:
        import zarr

        self._group = zarr.open_group(_zarr_store(location), mode="r", use_consolidated=False)

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return np.asarray(self._group[name][...])
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            raise IntegrityError(
                f"{name} cannot be read: {error}", hint="sidtool verify names what is broken"
            ) from error

    def __contains__(self, name: object) -> bool:
        return name in self._group

    def __iter__(self) -> Iterator[str]:
        import zarr

        return (name for name, member in self._group.members(max_depth=None) if isinstance(member, zarr.Array))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def is_zip(location: str) -> bool:
    """Whether a bundle's name says that it is a zip."""
    return location.endswith(".zip")


def read_manifest(location: str) -> Manifest:
    """The manifest of a stored bundle, checked against its own hash.

    Raises DataError if there is no bundle, IntegrityError if it is unfinished or damaged.
    """
    return parse_root(location, read_object(location, ROOT))


def parse_root(location: str, data: bytes | None) -> Manifest:
    """The manifest in a root document. Raises as `read_manifest` does."""
    return Manifest.from_json(_read_root(location, data))


def write_folder(folder: Path, arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> None:
    """Write arrays, then their digests and the manifest, into an empty folder."""
    import zarr

    store = zarr.storage.LocalStore(folder)
    for name, array in arrays.items():
        chunks = (min(max(len(array), 1), CHUNK_ROWS), *array.shape[1:])
        compresses = array.ndim == 1 and not name.startswith(
            "index/"
        )  # texts and offsets; codes, floats, hashes do not
        zarr.create_array(
            store,
            name=name,
            data=array,
            chunks=chunks,
            compressors="auto" if compresses else None,
            config={"write_empty_chunks": True},
        )
    objects = {name: _sha256(data) for name, data in _folder_objects(folder) if name != ROOT}
    value = manifest.to_json() | {"objects": objects}
    (folder / ROOT).write_bytes(_spell_root(value))


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
    """Pack a finished folder: stored, sorted, root last, times fixed, so that equal objects give equal bytes."""
    with target.open("wb") as stream:
        _pack(stream, sorted(_folder_objects(folder), key=lambda pair: (pair[0] == ROOT, pair[0])))


def broken_objects(location: str, manifest: Manifest) -> list[tuple[str, str]]:
    """Every stored object that is not what the manifest says: (object, what is wrong)."""
    stored = {name: _sha256(data) for name, data in stored_objects(location)}
    broken = [
        (name, "missing" if name not in stored else "its SHA-256 differs from the manifest's")
        for name, digest in sorted(manifest.objects.items())
        if stored.get(name) != digest
    ]
    broken += [(name, "not in the manifest") for name in sorted(stored.keys() - manifest.objects.keys() - {ROOT})]
    if not broken and is_zip(location) and not _is_canonical_zip(Path(location)):
        broken.append((Path(location).name, "the zip's own records differ from those that its objects make"))
    return broken


def _is_canonical_zip(path: Path) -> bool:
    with tempfile.TemporaryFile() as again, path.open("rb") as there:
        _pack(again, _zip_objects(path))
        again.seek(0)
        digests = [hashlib.file_digest(stream, "sha256").digest() for stream in (again, there)]
    return digests[0] == digests[1]


def _pack(stream: IO[bytes], objects: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in objects:
            archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), data)


def _spell_root(manifest: dict[str, Any]) -> bytes:
    attributes = {"sidtool": manifest, "sidtool_sha256": _sha256(canonical(manifest))}
    root = {"attributes": attributes, "node_type": "group", "zarr_format": 3}
    return json.dumps(root, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _read_root(location: str, data: bytes | None) -> dict[str, Any]:
    """The manifest in a root document. Its one spelling is checked, so that no byte of it is free to change."""
    if data is None and Path(location).exists():
        raise IntegrityError(f"{location} has no {ROOT}: an unfinished or damaged bundle")
    if data is None:
        raise DataError(
            f"no bundle at {location}", hint="a bundle is a .zarr folder or a .zarr.zip that build-codebook wrote"
        )
    try:
        attributes = json.loads(data)["attributes"]
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{location}: {ROOT} is damaged ({type(error).__name__})") from error
    if not isinstance(attributes, dict) or "sidtool" not in attributes:
        raise IntegrityError(f"{location} has no manifest: an unfinished bundle, or another Zarr group")
    manifest: dict[str, Any] = attributes["sidtool"]
    if data != _spell_root(manifest):
        raise IntegrityError(f"{location}: {ROOT} is damaged: the manifest is not what its own SHA-256 says")
    return manifest


def read_object(location: str, name: str) -> bytes | None:
    """The bytes of one stored object, or None."""
    if "://" in location:
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(location)
        return bytes(filesystem.cat_file(f"{root}/{name}")) if filesystem.exists(f"{root}/{name}") else None
    path = Path(location)
    if is_zip(location):
        return dict(_zip_objects(path, only=name)).get(name) if path.is_file() else None
    return (path / name).read_bytes() if (path / name).is_file() else None


def stored_objects(location: str) -> Iterator[tuple[str, bytes]]:
    """Every stored object of a bundle: its name and its bytes, the root document among them."""
    if "://" in location:
        import fsspec

        filesystem, root = fsspec.core.url_to_fs(location)
        names = filesystem.find(root)
        return ((name.removeprefix(root).lstrip("/"), bytes(filesystem.cat_file(name))) for name in names)
    return _zip_objects(Path(location)) if is_zip(location) else _folder_objects(Path(location))


def _folder_objects(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _zip_objects(path: Path, only: str | None = None) -> Iterator[tuple[str, bytes]]:
    name = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if only in (None, name):
                    yield name, archive.read(name)
    except Exception as error:  # a damaged record leads zipfile into errors of many kinds
        raise IntegrityError(f"{path.name}: {name} is damaged: {error}") from error


def _zarr_store(location: str) -> Any:
    import zarr

    if "://" in location:
        return zarr.storage.FsspecStore.from_url(location, read_only=True)
    if is_zip(location):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return zarr.storage.ZipStore(location, mode="r")
    return zarr.storage.LocalStore(location, read_only=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
