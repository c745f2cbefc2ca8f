"""Which local files a table is in (a path, a pattern, a folder of Parquet files, or a URL), and how
files are opened: within limits, with errors that name the file, and decompressed if the name ends
in `.gz` (not Parquet, which compresses itself).

A file at a URL is copied once per process and version: readers check a file before they read it,
and need it whole for that."""

import gzip
import re
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from glob import has_magic
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

from sidtool.base.artifact import describe
from sidtool.base.errors import DataError, SidtoolError, UsageError, raised_as
from sidtool.base.locations import URL

PARQUET = (".parquet", ".pq")
_VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "blob_id"),
    *("mtime", "Last-Modified", "LastModified", "last_modified", "updated", "created"),
)
"""What the clients of stores call the version of an object, then the time of its last write."""
BLOCK_BYTES = 1 << 24
"""Bytes that pyarrow parses at once; longer rows are read by Python's parsers."""
FREE_BYTES = 1 << 22
"""Bytes that a file of any size may expand to in memory; JSON of numbers takes Python 80 times
as many."""
MAX_EXPANSION = 100
"""Bytes beyond FREE_BYTES that each byte of a compressed file may expand to."""


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


def library_errors(path: str | Path, content: str = "") -> AbstractContextManager[None]:
    """Turns what pyarrow, numpy, zarr, gzip, csv and clients of stores raise on a damaged file into
    a DataError of one line, which names the file. `content` says as what it was read."""
    purpose = f" as {content}" if content else ""
    return raised_as(DataError, f"{as_url(path)} cannot be read{purpose}")


def require_regular(path: Path) -> None:
    """Raise DataError unless a path is a regular file, or a folder with only such below it."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    for file in (path, *(path.rglob("*") if path.is_dir() else ())):
        if not (file.is_file() or file.is_dir()):
            raise DataError(f"{file} is neither a regular file nor a folder")


def refuse_repeated(path: Path, names: Sequence[str]) -> None:
    """Raise DataError if two columns have one name."""
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns named {repeated!r}")


@dataclass(frozen=True)
class TableFiles:
    """The local files of a table, in the order of their names."""

    files: tuple[Path, ...]
    url: str = ""
    """Folder that the files were copied from, if they were."""
    folder: str = ""
    """Local folder of the copies."""
    versions: tuple[str, ...] = ()
    """Of each copied file, what changes with it."""
    holder: Any = None
    """What keeps the copies: they are removed with it."""

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Name the URL in errors, not the copy."""
        try:
            yield
        except SidtoolError as error:
            if not self.url:
                raise
            message = str(error).replace(self.folder, self.url)
            raise type(error)(message, hint=error.shell_hint) from error


def table_files(path: Path) -> TableFiles:
    """The files that a path stands for. A path that exists, or that names nothing, is itself.

    Raises DataError for a pattern without a match, a folder that is no table, or a URL that cannot
    be read, UsageError for one whose client is missing."""
    if URL.match(str(path)):
        return _copied(as_url(path))
    if has_magic(str(path)) and not path.exists():
        pattern = path.relative_to(path.anchor).as_posix()
        files = Path(path.anchor).glob(pattern)
        matches = _outermost(file for file in files if not is_hidden(file.as_posix(), str(path)))
        if not matches:
            raise DataError(f"no file matches {path}")
        return TableFiles(matches)
    inside = parquet_files(path)
    what = describe(path) if path.is_dir() else None
    # Parquet files of others may stand beside a config.json
    if what == "a split" or (what and not inside):
        raise DataError(f"{path} is {what}, not a table")
    return TableFiles(inside or (path,))


def as_url(path: str | Path) -> str:
    """A path, or the URL that a Path was made of."""
    text = URL.sub(r"\1://", str(path), count=1)
    # a local file has no host, so its URL has a third slash
    return text.replace("file://", "file:///", 1) if text.startswith("file://") else text


def parquet_files(path: Path) -> tuple[Path, ...]:
    """The Parquet files in a folder whose name does not say that it has some; none for others."""
    if not path.is_dir() or path.name.lower().endswith(PARQUET):
        return ()
    files = (file for file in path.rglob("*") if file.name.lower().endswith(PARQUET))
    return _outermost(file for file in files if not is_hidden(file.relative_to(path).as_posix()))


def is_hidden(name: str, pattern: str = "") -> bool:
    """Whether more steps of a path begin with a dot, as those of unfinished outputs do, than of the
    pattern or folder that it was found by."""
    return f"/{name}".count("/.") > f"/{pattern}".count("/.")


def _outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Paths by name, as stores list them, without those in another one: a folder `x.parquet` is one
    table."""
    distinct = set(paths)
    outermost = (path for path in distinct if distinct.isdisjoint(path.parents))
    return tuple(sorted(outermost, key=Path.as_posix))


def store_files(filesystem: Any, root: str) -> dict[str, Mapping[str, Any]]:
    """The files of a table in a store: those that match a pattern, those of Parquet in a folder, or
    the file itself, by name, each with what its client says of it."""
    if has_magic(root) and not filesystem.exists(root):
        matches = filesystem.glob(root, detail=True)
    elif filesystem.isdir(root):
        matches = {root: {"type": "directory"}}
    else:
        matches = {root: filesystem.info(root)} if filesystem.exists(root) else {}
    files: dict[str, Mapping[str, Any]] = {}
    for match, info in matches.items():
        if info["type"] == "directory":
            inside = filesystem.find(match, detail=True)
            files |= {name: inside[name] for name in inside if name.lower().endswith(PARQUET)}
        else:
            files[match] = info
    return {name: files[name] for name in sorted(files) if not is_hidden(name, root)}


def _remote_files(url: str) -> tuple[Any, str, dict[str, str]]:
    """The store and the folder of the files at a URL, and what changes with each file. Raises
    DataError, UsageError if the client is missing."""
    import fsspec

    hint = "pip install 'sidtool[s3]' for s3://"
    with raised_as(UsageError, f"{url} cannot be opened", hint, errors=(ImportError, ValueError)):
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    with library_errors(url):
        versions = {
            name: object_version(info if info.get("size") is not None else filesystem.info(name))
            for name, info in store_files(filesystem, root).items()
        }  # a page of links, as of http://, has no sizes
    if not versions:
        raise DataError(f"{url} does not exist, or holds no Parquet files")
    is_folder = all(name.startswith(f"{root}/") for name in versions)
    folder = root if is_folder else re.split(r"[*?[]", root)[0].rpartition("/")[0]
    return filesystem, folder, versions


_COPIES: dict[str, tuple[dict[str, str], TableFiles]] = {}
"""URL -> what changes with each of its files, and their copies."""


def _copied(url: str) -> TableFiles:
    """Copies of the files at a URL, which take the place of those of an earlier version. Raises as
    `_remote_files`."""
    filesystem, common, versions = _remote_files(url)
    if url in _COPIES and _COPIES[url][0] == versions:
        return _COPIES[url][1]
    folder = tempfile.TemporaryDirectory(prefix="sidtool-")
    files = tuple(Path(folder.name) / _below(name, common) for name in versions)
    with library_errors(url):
        for name, target in zip(versions, files, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(name, str(target))
    source = filesystem.unstrip_protocol(common)
    copies = TableFiles(files, source, folder.name, tuple(versions.values()), folder)
    _COPIES[url] = versions, copies
    return copies


def object_version(info: Mapping[str, Any]) -> str:
    """What changes with an object of a store, by what its client says of it."""
    marks = [str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None]
    return " ".join([f"{info.get('size')} bytes", *marks[:1]])


def _below(name: str, folder: str) -> str:
    """The path of a remote file below a folder, or its name alone. No step of it leads upward."""
    relative = name.removeprefix(folder).lstrip("/")
    return relative if ".." not in relative.split("/") else name.rpartition("/")[2]
