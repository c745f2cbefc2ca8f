"""How the files of tables are opened: within limits, with errors that name the file, and
decompressed if the name ends in `.gz` (not Parquet, which compresses itself)."""

import gzip
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from sidtool.base.errors import DataError, SidtoolError

PARQUET = (".parquet", ".pq")
BLOCK_BYTES = 1 << 24
"""Bytes that pyarrow parses at once; longer rows are read by Python's parsers."""
FREE_BYTES = 1 << 22
"""Bytes that a file of any size may expand to in memory; JSON of numbers takes Python 80 times
as many."""
MAX_EXPANSION = 100
"""Bytes beyond FREE_BYTES that each byte of a compressed file may expand to."""
MAX_MESSAGE = 200
"""Characters of another library's message: some quote the data."""


@contextmanager
def open_file(path: Path, *, skip_mark: bool = True) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if it is a `.gz`, without its byte order mark."""
    with path.open("rb") as raw:
        stream = cast(BinaryIO, raw)
        if path.name.lower().endswith(".gz"):
            limit = FREE_BYTES + MAX_EXPANSION * path.stat().st_size
            stream = cast(BinaryIO, BufferedReader(_Inflated(stream, limit)))
        head = cast(BufferedReader, stream).peek(len(BOM_UTF8))
        if skip_mark and head.startswith(BOM_UTF8):
            stream.read(len(BOM_UTF8))
        yield stream


class _Inflated(RawIOBase):
    """The bytes of a gzip stream, of which no more than `limit` are read."""

    def __init__(self, compressed: BinaryIO, limit: int) -> None:
        self._stream = gzip.GzipFile(fileobj=compressed)
        self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._stream.readinto(buffer)
        self._left -= size
        if self._left < 0:
            raise OSError(f"it expands to more than {MAX_EXPANSION} times its size")
        return size


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raise DataError for any error of a reader, and before anything is read for what is neither a
    regular file nor a folder of such: reading a pipe or a device may never end."""
    require_regular(path)
    with library_errors(path):
        yield


@contextmanager
def library_errors(path: Path, content: str = "") -> Iterator[None]:
    """The one place that turns what libraries raise on a damaged file into a DataError of one line,
    which names the file. `content` says as what it was read."""
    try:
        yield
    except SidtoolError:
        raise
    except Exception as error:  # pyarrow, numpy, zarr, gzip and csv have no common class
        purpose = f" as {content}" if content else ""
        raise DataError(f"{path} cannot be read{purpose}: {one_line(error)}") from error


def require_regular(path: Path) -> None:
    """Raise DataError unless a path is a regular file, or a folder with only such below it."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    for each in (path, *(path.rglob("*") if path.is_dir() else ())):
        if not (each.is_file() or each.is_dir()):
            raise DataError(f"{each} is neither a regular file nor a folder")


def refuse_repeated(path: Path, names: Sequence[str]) -> None:
    """Raise DataError if two columns have one name."""
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns named {repeated!r}")


def one_line(error: Exception) -> str:
    """The message of another library's error: its first line, without control characters."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "the nesting is too deep"
    text = next(iter(str(error).splitlines()), "")[:MAX_MESSAGE] or type(error).__name__
    return text if text.isprintable() else ascii(text)[1:-1]
