"""What a bundle and a memory have in common: a Zarr group that is opened, verified and saved. A
repository of the Hugging Face hub has its objects and a card, in itself or in one folder of it."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self, get_args

from numpy.typing import NDArray

from sidtool.base.artifact import describe
from sidtool.base.errors import IntegrityError, SidtoolError
from sidtool.base.hub import (
    DEFAULT_ACCESS,
    HubAccess,
    HubCommit,
    HubPush,
    Pushable,
    check_signed_copy,
    download,
    fetch_roots,
    folder_or_url,
    only_folder,
    upload,
)
from sidtool.base.markdown import with_dataset
from sidtool.base.output import new_dir
from sidtool.base.output_name import OutputKind, check_suffix
from sidtool.base.signatures import SIGNATURE
from sidtool.base.storage import Storage, is_zip
from sidtool.base.threads import thread_count
from sidtool.tokenizer.bundle.zarr_arrays import Expected, GroupManifest, StoredArrays
from sidtool.tokenizer.bundle.zarr_group import (
    ROOT,
    Kind,
    broken_objects,
    new_zip,
    read_root,
    write_group,
)


def download_group(
    name_or_path: str | Path, kind: Kind | None = None, access: HubAccess = DEFAULT_ACCESS
) -> Path:
    """The local folder of the one bundle or memory of a repository, ORG/NAME or a URL of the hub,
    or of a folder; any kind unless one is given. Nothing but its objects is downloaded. Raises
    DataError if there is none or the hub does not give it, IntegrityError if its root document is
    damaged, or not signed as it must be."""
    source = folder_or_url(name_or_path)
    copy, folders = fetch_roots(source, ROOT, access)
    kinds = [kind] if kind is not None else get_args(Kind)
    kind_by_folder = {
        folder: candidate
        for folder in folders
        for candidate in kinds
        if describe(copy / folder) == f"a {candidate}"
    }
    folder = only_folder(source, " or ".join(kinds), list(kind_by_folder))
    name = folder.rstrip("/") or f"{kind_by_folder[folder]}.zarr"
    check_signed_copy(
        source, access, copy, name, lambda: signed_objects(copy / folder, kind_by_folder[folder])
    )
    if not isinstance(source, Path):
        objects = read_root(Storage(copy / folder), kind_by_folder[folder])["objects"]
        # the commit, so that both downloads are of one version
        at_commit = replace(access, revision=copy.name)
        download(source.partition("@")[0], at_commit, allow=[folder + name for name in objects])
    return copy / folder


def signed_objects(folder: Path, kind: Kind) -> dict[str, str]:
    """The SHA-256 of every object of a bundle or memory, by its root document, and of that."""
    objects = read_root(Storage(folder), kind)["objects"]
    return {**objects, ROOT: hashlib.sha256((folder / ROOT).read_bytes()).hexdigest()}


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
        """What is wrong with a stored one: (object, reason). Raises as `open`, but for damage."""
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
            return upload(url, files, [folder.name, signature], push)
