"""Named byte objects in a folder or in a stored zip, on disk or at any fsspec URL.

Objects are read whole or by byte range; of a zip, only its directory and the ranges are fetched.
docs/registry.md lists what each kind of store guarantees for conditional writes."""

import hashlib
import os
import stat
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from sidtool.base.errors import DataError, IntegrityError, SidtoolError, UsageError, raised_as
from sidtool.base.extras import require
from sidtool.base.storage.conditional import Snapshot, protocols, take_snapshot, write_if_unchanged
from sidtool.base.storage.zips import Span, UnreadableError, is_zip, zip_directory

Range = tuple[str, int | None, int | None]
"""An object's name and its first and last byte (exclusive); None is its start or its end."""

BATCH = 16
"""Whole objects that are read at once: bounds memory."""
PIECE_BYTES = 64 << 20
"""Bytes of a large object that are read at once."""

_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("http", "https"), "http"),
    "hf": "hub",
}
"""The extra of sidtool that installs a protocol's client; for others fsspec names the package."""

_MEMORY_LOCK = threading.RLock()
"""memory:// lives in one process. fsspec does not list it while another thread writes."""
_MISSING = (FileNotFoundError, NotADirectoryError)


class Storage:
    """The objects at a path or URL. Nothing is read or written before a method is called.

    Methods raise DataError if the store fails. The constructor raises UsageError if the location
    is empty or the URL's protocol unknown, MissingPackageError if an extra of sidtool has its
    client and is not installed."""

    def __init__(self, location: str | Path) -> None:
        if not str(location):
            raise UsageError("the location of an artifact is empty")
        self.location = str(location).rstrip("/") or str(location)
        self._filesystem, self._root = _connect(self.location)

    @property
    def _is_local(self) -> bool:
        return "file" in protocols(self._filesystem)

    @property
    def local_path(self) -> Path | None:
        """The path on this machine, None in a remote store."""
        return Path(self._root) if self._is_local else None

    def folder(self, name: str) -> "Storage":
        """The folder `name` inside this one."""
        return Storage(f"{self.location}/{name}")

    @property
    def full_url(self) -> str:
        """The URL without credentials; for a plain path, the absolute path."""
        if "://" not in self.location:
            return self._root
        return str(self._filesystem.unstrip_protocol(self._root))

    def exists(self) -> bool:
        """Whether anything is at the location."""
        with self._store_errors("read"):
            return bool(self._filesystem.exists(self._root))

    def has(self, name: str) -> bool:
        """Whether the folder has this object."""
        with self._store_errors("read"):
            return bool(self._filesystem.isfile(self._path(name)))

    def names(self) -> list[str]:
        """The names of all objects that are listed, sorted."""
        return sorted(self._zip_spans if is_zip(self.location) else self.listing())

    def child_names(self, *, files: bool = True) -> list[str]:
        """The names directly in the folder, without `files` those of folders; empty if the folder
        does not exist."""
        with self._store_errors("read"):
            try:
                entries = self._filesystem.ls(self._root, detail=True)
            except FileNotFoundError:
                return []
        listed = [entry["name"] for entry in entries if files or entry["type"] != "file"]
        return [path.rstrip("/").rpartition("/")[2] for path in listed]

    def listing(self) -> dict[str, Mapping[str, Any]]:
        """Every object of a folder by name, with the store's record of it (size, checksum ...);
        none of a web server, which has pages of links, if it has any."""
        if "http" in protocols(self._filesystem):
            return {}
        with self._store_errors("read"):
            records = self._filesystem.find(self._root, detail=True)
        return {path.removeprefix(self._root).lstrip("/"): info for path, info in records.items()}

    def infos(self, names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """The store's record of each of these objects of a folder that exists."""
        listed = self.listing()
        records = {name: listed.get(name) or self.info(name) for name in names}
        return {name: record for name, record in records.items() if record is not None}

    def info(self, name: str) -> Mapping[str, Any] | None:
        """The store's record of an object (size, checksum ...), or None if it does not exist."""
        with self._store_errors("read"):
            try:
                return dict(self._filesystem.info(self._path(name)))
            except _MISSING:
                return None

    def read(self, name: str, *, limit: int | None = None) -> bytes | None:
        """One object, or None if it does not exist; of one that is larger than `limit`, one byte
        more than the limit."""
        try:
            stop = None if limit is None else limit + 1
            return self.read_ranges([(name, None, stop)])[0]
        except _MISSING:
            return None

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Whole objects by name. Raises FileNotFoundError if one does not exist."""
        data = self.read_ranges([(name, None, None) for name in names])
        return dict(zip(names, data, strict=True))

    def read_all(self, names: Sequence[str] | None = None) -> Iterator[tuple[str, bytes]]:
        """The name and bytes of each object, of all unless names are given, sorted by name."""
        names = self.names() if names is None else sorted(names)
        for start in range(0, len(names), BATCH):
            yield from self.read_many(names[start : start + BATCH]).items()

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range, fetched concurrently. Raises FileNotFoundError if an object does
        not exist."""
        located = [self._locate(*byte_range) for byte_range in ranges]
        # stores refuse empty ranges
        requests = [
            request for request in located if request[1] is None or request[1] != request[2]
        ]
        responses: list[Any]
        with self._store_errors("read", passed=(SidtoolError, *_MISSING)):
            if self._is_local or not requests:
                responses = [read_range(*request) for request in requests]
            else:
                paths, starts, stops = (list(column) for column in zip(*requests, strict=True))
                # cat_ranges, because `cat` reads a path as a pattern
                responses = self._filesystem.cat_ranges(paths, starts, stops)
            for response in responses:
                if isinstance(response, Exception):
                    raise response
        parts = map(bytes, responses)
        return [
            b"" if start is not None and start == stop else _in_range(next(parts), start, stop)
            for _, start, stop in located
        ]

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """An object of `size` bytes, piece by piece. Raises FileNotFoundError if it does not
        exist."""
        for start in range(0, max(1, size), PIECE_BYTES):
            yield self.read_ranges([(name, start, min(start + PIECE_BYTES, size))])[0]

    def digest(self, name: str, size: int) -> str:
        """SHA-256 (hex) of an object of `size` bytes. Raises as `pieces`."""
        state = hashlib.sha256()
        for piece in self.pieces(name, size):
            state.update(piece)
        return state.hexdigest()

    def snapshot(self, name: str, limit: int | None = None) -> Snapshot | None:
        """An object as it is now, for a later `put_if_unchanged`; None if it does not exist. Raises
        IntegrityError if it has more than `limit` bytes."""
        with self._store_errors("read"):
            return take_snapshot(self._filesystem, self._path(name), limit)

    @contextmanager
    def open_file(self) -> Iterator[Any]:
        """The bytes of a zip from start to end, as a file open for reading."""
        with self._store_errors("read"):
            if self._is_local:
                check_file(self._root)
            with self._filesystem.open(self._root, "rb") as stream:
                yield stream

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Write objects to a folder and replace existing ones. Each one appears whole or not at
        all."""
        with self._store_errors("written"):
            if self._is_local:
                for name, data in objects.items():
                    self._replace(name, [data])
            elif objects:
                self._filesystem.pipe({self._path(name): data for name, data in objects.items()})

    def put_pieces(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write an object of a folder piece by piece. It appears whole or not at all where the
        store's client sends a file so."""
        with self._store_errors("written"):
            if self._is_local:
                self._replace(name, pieces)
                return
            with self._filesystem.open(self._path(name), "wb") as stream:
                for piece in pieces:
                    stream.write(piece)

    def put_if_unchanged(self, name: str, before: Snapshot | None, data: bytes) -> bool:
        """Write an object only if it is still as in `before` (None: it does not exist yet). Returns
        whether it was written."""
        with self._store_errors("written"):
            return write_if_unchanged(self._filesystem, self._path(name), before, data)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _replace(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write an object of a local folder."""
        path, folder = Path(self._path(name)), Path(self._root)
        path.parent.mkdir(parents=True, exist_ok=True)
        # a killed process may leave this file, so it is beside the folder and not in it, but for a
        # registry that is a disk, or is in a folder of somebody else; its name is unique because
        # another push may write the same object
        can_move = os.access(folder.parent, os.W_OK) and not folder.is_mount()
        beside = folder.parent if can_move else folder
        partial = beside / f"{folder.name}.{uuid.uuid4().hex}.partial"
        try:
            with partial.open("wb") as stream:
                for piece in pieces:
                    stream.write(piece)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _locate(self, name: str, start: int | None, stop: int | None) -> Range:
        """The file that holds a range of an object, and the range within that file."""
        if not is_zip(self.location):
            return self._path(name), start, stop
        if name not in self._zip_spans:
            raise FileNotFoundError(name)
        first, end = self._zip_spans[name]
        return self._root, first + (start or 0), end if stop is None else min(first + stop, end)

    @cached_property
    def _zip_spans(self) -> dict[str, Span]:
        with self._store_errors("read", passed=(SidtoolError, *_MISSING)):
            if self._is_local:
                check_file(self._root)
            with self._filesystem.open(self._root, "rb", cache_type="none") as stream:
                try:
                    return zip_directory(stream)
                except UnreadableError as error:
                    text = f"{self.full_url} cannot be read in parts: {error}"
                    raise DataError(text, hint="download it and use the copy") from error
                except Exception as error:  # damage makes zipfile raise errors of many kinds
                    name = self.location.rpartition("/")[2]
                    raise IntegrityError(f"{name} is damaged: {error}") from error

    @contextmanager
    def _store_errors(
        self, action: str, passed: tuple[type[Exception], ...] = (SidtoolError,)
    ) -> Iterator[None]:
        in_memory = "memory" in protocols(self._filesystem)
        try:
            with _MEMORY_LOCK if in_memory else nullcontext():
                yield
        except passed:
            raise
        except Exception as error:  # each store's client has its own exceptions
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{self.full_url} cannot be {action}: {reason}") from error


def package(location: str) -> str:
    """What pip installs to read a location, as a word of a shell."""
    protocol, is_url, _ = location.partition("://")
    extra = _EXTRAS.get(protocol) if is_url else None
    return f"'sidtool[{extra}]'" if extra else "sidtool"


def _connect(location: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path on it."""
    import fsspec

    if "://" not in location:
        return fsspec.filesystem("file", auto_mkdir=True), Path(location).absolute().as_posix()
    protocol = location.partition("://")[0]
    if protocol in _EXTRAS:
        require(_EXTRAS[protocol])
    local = protocol in ("file", "local")
    options = {"auto_mkdir": True} if local else {"use_listings_cache": False}
    with raised_as(UsageError, f"{location} cannot be opened", errors=(ImportError, ValueError)):
        filesystem, root = fsspec.core.url_to_fs(location, **options)
    return filesystem, root.rstrip("/")


def _in_range(data: bytes, start: int | None, stop: int | None) -> bytes:
    """The range of the bytes with which a store answers: a web server that knows no ranges sends
    the whole object."""
    first = start or 0
    return data[first:stop] if stop is not None and len(data) > stop - first else data


SPARSE_BYTES = 64 << 20
"""Bytes that a file may claim beyond ..."""
SPARSE_RATIO = 20
"""... this many times the bytes that it takes on the disk."""


def check_file(path: str) -> int:
    """The size of a regular file, or of one that a link leads to. Raises IntegrityError for
    anything else, which could have no end (a device) or make the reader wait (a FIFO), and for a
    sparse file, which takes more memory than it takes on the disk."""
    info = Path(path).stat()
    if not stat.S_ISREG(info.st_mode):
        raise IntegrityError(f"{path} is not a regular file")
    stored = getattr(info, "st_blocks", info.st_size) * 512
    if info.st_size > SPARSE_BYTES + SPARSE_RATIO * stored:
        raise IntegrityError(f"{path} has {info.st_size} bytes, but only {stored} are stored")
    return info.st_size


def read_range(path: str, start: int | None, stop: int | None) -> bytes:
    """The bytes of a range of a file, fewer where it ends earlier. Raises as `check_file`."""
    size = check_file(path)
    first = start or 0
    end = size if stop is None else min(stop, size)
    with Path(path).open("rb") as stream:
        stream.seek(first)
        return stream.read(max(end - first, 0))
