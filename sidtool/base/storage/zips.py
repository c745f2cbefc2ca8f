"""Zip files of bundles: stored entries in a fixed order, so that equal objects give equal bytes and
every object is one byte range."""

import zipfile
from collections.abc import Iterable
from typing import IO

Span = tuple[int, int]
"""First and last byte (exclusive)."""

MAX_BYTES = 1 << 23
"""A zip whose directory is not smaller is refused."""

_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_LOCAL_HEADER_BYTES = 30
"""Length of a zip entry's header before its name."""


class UnreadableError(Exception):
    """A store does not send a part of a zip. zipfile would take an OSError for damage."""


def is_zip(location: str) -> bool:
    """Whether a location's name is that of a zip."""
    return location.endswith(".zip")


def zip_directory(stream: IO[bytes]) -> dict[str, Span]:
    """The byte range of each object in a zip that `write_zip` wrote, from its directory alone.
    Raises ValueError if the zip has another layout, what zipfile raises if it is damaged, and
    UnreadableError."""
    archive = zipfile.ZipFile(BoundedReader(stream))
    entries = archive.infolist()
    starts = [
        entry.header_offset + _LOCAL_HEADER_BYTES + len(entry.filename.encode())
        for entry in entries
    ]
    stops = [start + entry.file_size for start, entry in zip(starts, entries, strict=True)]
    # without extra fields, an entry's bytes end where the next header starts
    headers = [*(entry.header_offset for entry in entries), archive.start_dir]
    compressed = any(entry.compress_type for entry in entries)
    names = {entry.filename for entry in entries}
    if len(names) != len(entries):
        raise ValueError("it has two objects of one name")
    if headers[0] != 0 or stops != headers[1:] or compressed:
        raise ValueError("its layout is not that of a zip that sidtool writes")
    spans = zip(starts, stops, strict=True)
    return {entry.filename: span for entry, span in zip(entries, spans, strict=True)}


class BoundedReader:
    """A file of which no part of MAX_BYTES is read: zipfile reads the directory in one part."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell
        self.seekable = stream.seekable

    def read(self, n_bytes: int = -1) -> bytes:
        """The next bytes, by default those to the end. Raises ValueError if they are too many, and
        UnreadableError."""
        try:
            data = self._stream.read(min(n_bytes, MAX_BYTES) if n_bytes >= 0 else MAX_BYTES)
        except Exception as error:  # each store's client has its own exceptions
            raise UnreadableError(error) from error
        if len(data) == MAX_BYTES:
            raise ValueError(f"its directory has {MAX_BYTES} bytes or more")
        return data


def write_zip(stream: IO[bytes], objects: Iterable[tuple[str, bytes]], *, last: str) -> None:
    """Pack objects, sorted by name, without compression; the object `last` goes to the end."""
    last_data = None
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in objects:
            if name == last:
                last_data = data
            else:
                archive.writestr(_entry(name), data)
        if last_data is not None:
            archive.writestr(_entry(last), last_data)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system = _UNIX  # the same bytes on every system
    return entry
