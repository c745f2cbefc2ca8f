"""What a bundle and a memory have in common: a stored Zarr v3 group that is opened, verified and
saved. It has arrays, and a root document with the manifest, written last. A repository of the
Hugging Face hub has its objects and a card, in itself or in one folder of it.

The root document holds the SHA-256 of every other object and of the manifest itself, and has
exactly one spelling, so one flipped byte anywhere is detected. docs/format.md specifies the format.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, ClassVar, Literal, Self, get_args

from numpy.typing import NDArray

from sidtool.base import hub
from sidtool.base.artifact import MAX_ROOT_BYTES, describe
from sidtool.base.documents import canonical, parse_json
from sidtool.base.errors import DataError, IntegrityError, SidtoolError
from sidtool.base.hub import DEFAULT_ACCESS, HubAccess, HubCommit, HubPush, Pushable
from sidtool.base.markdown import with_dataset
from sidtool.base.output import new_dir, new_file, remove
from sidtool.base.output_name import OutputKind, check_suffix
from sidtool.base.signatures import SIGNATURE
from sidtool.base.storage import Storage, is_zip, write_zip
from sidtool.base.threads import in_threads, thread_count
from sidtool.tokenizer.bundle.zarr_arrays import (
    Expected,
    GroupManifest,
    StoredArrays,
    array_objects,
)

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
    path = storage.local_path or Path(storage.location)
    other = describe(path)
    if other is not None:
        if kind == "bundle" and (path / "sid.zarr").is_dir():
            hint = f"the model's bundle is {storage.location}/sid.zarr"
        raise DataError(f"{storage.location} is {other}, not a {kind}", hint=hint)
    if storage.exists():
        raise IntegrityError(
            f"{storage.location} has no {ROOT}: an unfinished or damaged {kind}", hint=hint
        )
    hint = hub.hub_hint(storage.location) or hint
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
    names = set(storage.names())
    listed = names & manifest.objects.keys()
    if ROOT not in names:  # a web server lists nothing
        listed = set(storage.infos(manifest.objects))
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
        unknown = sorted(names - manifest.objects.keys() - {ROOT})
        broken += [(name, "not in the manifest") for name in unknown]
    if not broken and is_zip(storage.location):
        with TemporaryFile() as repacked, storage.open_file() as zipped:
            write_zip(repacked, storage.read_all(), last=ROOT)
            repacked.seek(0)
            expected = hashlib.file_digest(repacked, "sha256").digest()
            is_canonical = hashlib.file_digest(zipped, "sha256").digest() == expected
        if not is_canonical:
            name = storage.location.rpartition("/")[2]
            broken.append((name, "the zip's own records differ from those that its objects make"))
    return broken


def download_group(
    name_or_path: str | Path, kind: Kind | None = None, access: HubAccess = DEFAULT_ACCESS
) -> Path:
    """The local folder of the one bundle or memory of a repository, ORG/NAME or a URL of the hub,
    or of a folder; any kind unless one is given. Nothing but its objects is downloaded. Raises
    DataError if there is none or the hub does not give it, IntegrityError if its root document is
    damaged, or not signed as it must be."""
    source = hub.folder_or_url(name_or_path)
    copy, folders = hub.fetch_roots(source, ROOT, access)
    kinds = [kind] if kind is not None else get_args(Kind)
    kind_by_folder = {
        folder: candidate
        for folder in folders
        for candidate in kinds
        if describe(copy / folder) == f"a {candidate}"
    }
    folder = hub.only_folder(source, " or ".join(kinds), list(kind_by_folder))
    name = folder.rstrip("/") or f"{kind_by_folder[folder]}.zarr"
    hub.check_signed_copy(
        source, access, copy, name, lambda: signed_objects(copy / folder, kind_by_folder[folder])
    )
    if not isinstance(source, Path):
        objects = read_root(Storage(copy / folder), kind_by_folder[folder])["objects"]
        # the commit, so that both downloads are of one version
        at_commit = replace(access, revision=copy.name)
        allow = [escape(folder + name) for name in objects]
        hub.download(source.partition("@")[0], at_commit, allow=allow)
    return copy / folder


def signed_objects(folder: Path, kind: Kind) -> dict[str, str]:
    """The SHA-256 of every object of a bundle or memory, by its root document, and of that."""
    objects = read_root(Storage(folder), kind)["objects"]
    return {**objects, ROOT: _sha256((folder / ROOT).read_bytes())}


class StoredGroup(Pushable):
    """A bundle or a memory. Arrays of a stored one are read when they are first used."""

    kind: ClassVar[Kind]
    output: ClassVar[OutputKind]

    def __init__(self, manifest: GroupManifest, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.manifest = manifest
        self.arrays = arrays

    @property
    def location(self) -> str | None:
        """Where it is stored; None if it was made in memory."""
        return getattr(self.arrays, "location", None)

    @staticmethod
    @abstractmethod
    def parse(value: Mapping[str, Any]) -> tuple[GroupManifest, Mapping[str, Expected]]:
        """The manifest in a JSON object, with type and shape of its arrays."""

    @abstractmethod
    def broken_values(self) -> list[tuple[str, str]]:
        """What is wrong with the values in intact objects: (object, reason)."""

    def arrays_to_store(self) -> Mapping[str, NDArray[Any]]:
        """Every array. Raises UsageError if the manifest breaks a rule of the format."""
        return self.arrays

    @abstractmethod
    def card(self, reference: str, license: str | None) -> str:
        """The card in Markdown under which it is published as `reference`, URL/NAME@VERSION or a
        repository of the hub."""

    @classmethod
    def open(cls, location: str | Path) -> Self:
        """Open a folder or a .zarr.zip, at a path or an fsspec URL. Only the manifest is read, and
        checked against its own SHA-256. Raises DataError if there is none or the URL cannot be
        reached, UsageError if a URL's client is not installed, IntegrityError if it is unfinished
        or damaged, CompatibilityError if its format is newer than this version reads."""
        storage = Storage(location)
        manifest, expected = cls.parse(read_root(storage, cls.kind))
        return cls(manifest, StoredArrays(storage, manifest, expected))

    @classmethod
    def open_verified(cls, location: str | Path, *, alone: bool = True) -> Self:
        """Open one with every object and value checked: what a command publishes is made of such
        ones. Unless it is `alone`, other files may be there. Raises IntegrityError if it is
        damaged, else as `open`."""
        opened = cls.open(location)
        for name, reason in opened._broken(location, alone=alone):
            raise IntegrityError(
                f"{location}: {name}: {reason}", hint="sidtool verify lists every broken object"
            )
        return opened

    @classmethod
    def broken(cls, location: str | Path) -> list[tuple[str, str]]:
        """Everything that is wrong with a stored one: (object, reason); empty if it is intact.

        Checks every object against its SHA-256, the manifest against its own, and `broken_values`.
        Raises as `open`, but for damage."""
        try:
            return cls.open(location)._broken(location, alone=True)
        except IntegrityError as error:
            return [(ROOT, str(error))]

    def _broken(self, location: str | Path, *, alone: bool) -> list[tuple[str, str]]:
        broken = broken_objects(Storage(location), self.manifest, alone=alone)
        if broken:
            return broken
        try:
            return self.broken_values()
        except SidtoolError as error:
            return [("values", str(error))]

    def save(
        self, location: str | Path, *, force: bool = False, threads: int | None = None
    ) -> None:
        """Write a folder, or a stored zip if the name ends in .zip; it appears whole or not at all.
        Threads (default: one per core) write and hash the objects.

        Raises UsageError if the output exists and `force` is not given, or if the manifest breaks a
        rule of the format."""
        path = Path(location)
        check_suffix(path, self.output)
        new_output = new_zip if is_zip(path.name) else new_dir
        with new_output(path, force=force) as folder:
            write_group(folder, self.arrays_to_store(), self.manifest, thread_count(threads))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        signed_by: str | Path | None = None,
    ) -> Self:
        """Open one of the Hugging Face hub, `ORG/NAME`, or a folder that is a copy of a repository.

        It is the repository itself or one folder of it, such as the bundle in that of a model. Only
        its own objects go to the hub's cache, as HF_HOME, HF_TOKEN and HF_HUB_OFFLINE say, and all
        of them are checked as by `sidtool verify`. `signed_by` is a file of public keys or
        certificates in PEM, or `keyless:IDENTITY@ISSUER`. Raises DataError if there is none or the
        hub does not give it, IntegrityError if it is damaged, or not signed so."""
        access = HubAccess(revision, token, cache_dir, local_files_only, signed_by)
        folder = download_group(name_or_path, cls.kind, access)
        # a repository may have a card, pictures and other files beside them
        return cls.open_verified(folder, alone=False)

    def upload_to(self, url: str, license: str | None, push: HubPush) -> HubCommit:
        """As `Pushable.push_to_hub`, to the URL of a repository."""
        with TemporaryDirectory() as work:
            folder = Path(work) / f"{self.kind}.zarr"
            self.save(folder)
            files: dict[str, Path | bytes] = {
                path.relative_to(work).as_posix(): path
                for path in folder.rglob("*")
                if path.is_file()
            }
            files["README.md"] = with_dataset(self.card(url, license), push.dataset).encode()
            signature = f"{folder.name}{SIGNATURE}"
            if push.signer is not None:
                digests = signed_objects(folder, self.kind)
                files[signature] = push.signer.sign(folder.name, digests)
            return hub.upload(url, files, [folder.name, signature], push)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
