"""The named objects of a stored bundle: bytes in a folder or in a stored zip, on a disk or at any
fsspec URL.

Knows names, bytes and ranges of bytes; knows nothing of arrays or manifests. A range costs what it
holds: of a zip, too, only its directory and the range are read."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sidtool.errors import DataError, IntegrityError, SidtoolError, UsageError

Range = tuple[str, int | None, int | None]
"""An object's name, and the first and stop of its bytes; None where it begins and ends."""

TOGETHER = 16
"""Whole objects that are read at once."""

_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""The extra of sidtool that brings a protocol's client; for others fsspec names the package."""


def is_zip(location: str) -> bool:
    """Whether a bundle's name says that it is a zip."""
    return location.endswith(".zip")


class Objects:
    """The objects at a path or URL. Raises DataError where it cannot be reached, UsageError without
    its client."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._filesystem, self._root = connect(location)

    def exists(self) -> bool:
        """Whether anything is at the location."""
        with self._telling():
            return bool(self._filesystem.exists(self._root))

    def names(self) -> list[str]:
        """Every object, sorted."""
        if is_zip(self.location):
            return sorted(self._directory)
        with self._telling():
            return sorted(
                path.removeprefix(self._root).lstrip("/")
                for path in self._filesystem.find(self._root)
            )

    def read(self, name: str) -> bytes | None:
        """One object, or None where there is none."""
        try:
            return self.read_ranges([(name, None, None)])[0]
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range, fetched together. Raises FileNotFoundError if an object is
        missing."""
        places = [self._place(*each) for each in ranges]
        empty = [
            start is not None and start == stop for _, start, stop in places
        ]  # what no store serves
        with self._telling():
            found = iter(
                self._fetch([place for place, skip in zip(places, empty, strict=True) if not skip])
            )
        return [b"" if skip else next(found) for skip in empty]

    def all(self) -> Iterator[tuple[str, bytes]]:
        """Every object with its bytes, sorted by name."""
        names = self.names()
        for at in range(0, len(names), TOGETHER):
            some = names[at : at + TOGETHER]
            yield from zip(
                some, self.read_ranges([(name, None, None) for name in some]), strict=True
            )

    @contextmanager
    def stream(self) -> Iterator[Any]:
        """The bytes of a zip from beginning to end, as a file that is open for reading."""
        with self._telling(), self._filesystem.open(self._root, "rb") as stream:
            yield stream

    def _fetch(self, places: Sequence[Range]) -> list[bytes]:
        paths, starts, stops = (
            (list(column) for column in zip(*places, strict=True)) if places else ([], [], [])
        )
        found = self._filesystem.cat_ranges(paths, starts, stops)
        for each in found:
            if isinstance(each, Exception):
                raise each
        return [bytes(each) for each in found]

    def _place(self, name: str, start: int | None, stop: int | None) -> Range:
        """Where a range of an object lies: path, first and stop byte."""
        if not is_zip(self.location):
            return f"{self._root}/{name}", start, stop
        if name not in self._directory:
            raise FileNotFoundError(name)
        first, end = self._directory[name]
        return self._root, first + (start or 0), end if stop is None else min(first + stop, end)

    @cached_property
    def _directory(self) -> dict[str, tuple[int, int]]:
        """Where each object of a zip begins and ends, from the zip's directory alone.

        That takes a zip as sidtool makes it: stored, without extra fields, one object right behind
        the other."""
        try:
            with self._filesystem.open(self._root, "rb", cache_type="none") as stream:
                archive = zipfile.ZipFile(stream)
                infos, end = archive.infolist(), archive.start_dir
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged record leads zipfile into errors of many kinds
            raise self._damaged(str(error)) from error
        starts = [info.header_offset + 30 + len(info.filename.encode()) for info in infos]
        heads = [*(info.header_offset for info in infos), end]
        stops = [start + info.file_size for start, info in zip(starts, infos, strict=True)]
        if heads[0] != 0 or stops != heads[1:] or any(info.compress_type for info in infos):
            raise self._damaged("its objects do not lie as in a zip that sidtool writes")
        return {
            info.filename: place
            for info, place in zip(infos, zip(starts, stops, strict=True), strict=True)
        }

    def _damaged(self, reason: str) -> IntegrityError:
        return IntegrityError(f"{self.location.rpartition('/')[2]} is damaged: {reason}")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (SidtoolError, FileNotFoundError, NotADirectoryError):
            raise
        except Exception as error:  # each store's client has exceptions of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{self.location} cannot be read: {reason}") from error


def connect(location: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path there; nothing is read or written yet.

    Raises UsageError if the URL is of no store that is known here.
    """
    import fsspec

    if "://" not in location:
        return fsspec.filesystem("file", auto_mkdir=True), Path(location).absolute().as_posix()
    options = (
        {"auto_mkdir": True}
        if location.startswith(("file://", "local://"))
        else {"use_listings_cache": False}
    )
    try:
        filesystem, root = fsspec.core.url_to_fs(location, **options)
    except (ImportError, ValueError) as error:
        protocol = location.partition("://")[0]
        extra = _EXTRAS.get(protocol)
        raise UsageError(
            f"{location} cannot be opened: {' '.join(str(error).split())}",
            hint=f"pip install 'sidtool[{extra}]'" if extra else None,
        ) from error
    return filesystem, root.rstrip("/")
