"""A folder at any fsspec URL: listed, read and written, and one object written only if it is still
as it was seen.

Knows stores; knows nothing of bundles. What each store promises stands in docs/registry.md: a local
folder and memory:// lock, S3 has conditional puts (If-None-Match, If-Match), the others only refuse
what is already there."""

import base64
import contextlib
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.bundle.storage import connect as connected
from sidtool.errors import DataError, SidtoolError

LOCK = ".lock"
"""Beside what is written under a condition in a local folder."""

_IN_PROCESS = threading.Lock()
"""What memory:// has in place of a conditional put: it lives in one process."""

_LOST = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
"""S3's codes for a condition that does not hold, or not any longer."""


@dataclass(frozen=True)
class Seen:
    """An object as it was read, with what a later conditional put compares."""

    data: bytes
    etag: str | None = None


@dataclass(frozen=True)
class Print:
    """What tells one object from another: size, and the digests that stores and manifests give."""

    size: int
    md5: str
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Print":
        """The print of some bytes."""
        return cls(
            len(data),
            hashlib.md5(data, usedforsecurity=False).hexdigest(),
            hashlib.sha256(data).hexdigest(),
        )


@dataclass(frozen=True)
class Place:
    """A folder on a store; `url` is how the user spelled it. Raises DataError where the store
    fails."""

    filesystem: Any
    root: str
    url: str

    def at(self, name: str) -> "Place":
        """A folder inside."""
        return Place(self.filesystem, self._path(name), f"{self.url}/{name}")

    @property
    def full_url(self) -> str:
        """The URL without any secret that it was spelled with; a plain path is an absolute one."""
        return str(self.filesystem.unstrip_protocol(self.root) if "://" in self.url else self.root)

    def has(self, name: str) -> bool:
        """Whether an object is there."""
        with self._telling():
            return bool(self.filesystem.isfile(self._path(name)))

    def read(self, name: str) -> Seen | None:
        """An object as it is now, or None."""
        path = self._path(name)
        with self._telling():
            try:  # the tag first: should the object change in between, a put under this tag fails
                etag = self.filesystem.info(path).get("ETag")
                return Seen(bytes(self.filesystem.cat_file(path)), etag)
            except FileNotFoundError:
                return None

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Objects by name."""
        with self._telling():
            all_of_it = [None] * len(names)
            found = self.filesystem.cat_ranges(  # `cat` takes a path for a pattern
                [self._path(name) for name in names], all_of_it, all_of_it, on_error="raise"
            )
            return {name: bytes(data) for name, data in zip(names, found, strict=True)}

    def listing(self) -> dict[str, Mapping[str, Any]]:
        """Every object under the folder: what the store tells of it, by its name from here."""
        with self._telling():
            found = self.filesystem.find(self.root, detail=True)
        return {path.removeprefix(self.root).lstrip("/"): told for path, told in found.items()}

    def names(self) -> list[str]:
        """What lies directly in the folder, by name; nothing where there is no folder."""
        with self._telling():
            try:
                found = self.filesystem.ls(self.root, detail=False)
            except FileNotFoundError:
                return []
        return [path.rstrip("/").rpartition("/")[2] for path in found]

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Write objects, whatever is there; in a local folder each is seen whole or not at all, as
        stores have it."""
        with self._telling():
            if "file" in _protocols(self.filesystem):
                for name, data in objects.items():
                    _put_file(Path(self._path(name)), data, beside=Path(self.root))
            elif objects:
                self.filesystem.pipe({self._path(name): data for name, data in objects.items()})

    def holds(self, name: str, told: Mapping[str, Any] | None, expected: Print) -> bool:
        """Whether an object is this one: by the checksum that the store told, and read back where
        it tells none."""
        if told is None or told.get("size") != expected.size:
            return False
        etag, md5 = str(told.get("ETag", "")).strip('"'), str(told.get("md5Hash", ""))
        if etag == expected.md5 or md5 == base64.b64encode(bytes.fromhex(expected.md5)).decode():
            return True
        seen = self.read(name)
        return seen is not None and hashlib.sha256(seen.data).hexdigest() == expected.sha256

    def swap(self, name: str, old: Seen | None, data: bytes) -> bool:
        """Write an object if it is still as it was seen, or still not there; whether it was
        written."""
        path = self._path(name)
        with self._telling():
            protocols = _protocols(self.filesystem)
            if "file" in protocols:
                return _swap_file(Path(path), old, data)
            if "memory" in protocols:
                with _IN_PROCESS:
                    return self._swap_unguarded(name, old, data)
            if "s3" in protocols:
                return _swap_s3(self.filesystem, path, old, data)
            return self._swap_unguarded(name, old, data)

    def _swap_unguarded(self, name: str, old: Seen | None, data: bytes) -> bool:
        now, path = self.read(name), self._path(name)
        if (now and now.data) != (old and old.data):
            return False
        try:  # "create" is a real condition on some of these stores, GCS among them
            self.filesystem.pipe_file(path, data, mode="create" if old is None else "overwrite")
        except FileExistsError:
            return False
        after = self.read(name)
        return after is not None and after.data == data

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except SidtoolError:
            raise
        except Exception as error:  # each store's client has exceptions of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{self.full_url}: {reason}") from error


def connect(url: str) -> Place:
    """The folder at a URL or a plain path; nothing is read or written yet.

    Raises UsageError if the URL is of no store that is known here.
    """
    url = url.rstrip("/")
    return Place(*connected(url), url)


def _protocols(filesystem: Any) -> tuple[str, ...]:
    return (
        (filesystem.protocol,)
        if isinstance(filesystem.protocol, str)
        else tuple(filesystem.protocol)
    )


def _put_file(path: Path, data: bytes, *, beside: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside the folder, not in it: a kill may leave it. Another push may be writing the same object
    partial = beside.with_name(f"{beside.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _swap_file(path: Path, old: Seen | None, data: bytes) -> bool:
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the file is closed, also by a kill
        if (path.read_bytes() if path.exists() else None) != (old and old.data):
            return False
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    return True


def _swap_s3(filesystem: Any, path: str, old: Seen | None, data: bytes) -> bool:
    condition = {"IfNoneMatch": "*"} if old is None else {"IfMatch": old.etag}
    try:
        filesystem.pipe_file(path, data, **condition)
    except FileExistsError:
        return False
    except OSError as error:
        response = getattr(error.__cause__, "response", None) or {}
        if response.get("Error", {}).get("Code") in _LOST:
            return False
        raise
    return True
