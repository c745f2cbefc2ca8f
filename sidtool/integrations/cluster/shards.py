"""A folder of Parquet files, at a path or URL, as shards of consecutive rows.

Shards depend on the files alone, never on the number of workers: what is made of a shard is the
same wherever and whenever it is made."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sidtool.base.errors import DataError, UsageError, without_credentials
from sidtool.base.extras import missing_package
from sidtool.data.tables import (
    FREE_ROWS,
    PARQUET,
    ROWS_PER_BYTE,
    library_errors,
    object_version,
    open_bounded,
    open_dataset,
    store_files,
)

ROWS = 4096
"""Rows of a shard, a multiple of the queries that a model is given together."""
PART_EVENTS = 1 << 19
"""Events of a part of the users: its memory stays the same for more events, up to those of
MAX_PARTS."""
MIN_PARTS = 8
"""Parts of few events: workers share them."""
MAX_PARTS = 1024
"""Parts of many events."""
TEXT_ROW = 32
"""Bytes of an event in a file whose rows are not counted."""


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one file."""

    url: str
    first: int
    stop: int


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a folder, which may be in several files."""

    first: int
    """The number of its first row in the folder"""
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return sum(piece.stop - piece.first for piece in self.pieces)

    @property
    def source(self) -> str:
        """Where its rows are from; errors count them from there."""
        url, first = self.pieces[0].url, self.pieces[0].first
        more = f" and {len(self.pieces) - 1} more" if len(self.pieces) > 1 else ""
        return f"{url}{f' from row {first + 1} on' if first else ''}{more}"

    def fetch(self, folder: Path) -> Path:
        """Write the rows into a Parquet file of their own in a local folder -> its path. A column
        that a file lacks is empty; texts and lists may be stored in several ways. Raises DataError
        for a file that cannot be read or has fewer rows than it had, and for columns of types that
        do not go together."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / f"rows-{self.first}.parquet"
        tables = [pa.Table.from_batches(_batches(piece)) for piece in self.pieces]
        are_equal = all(table.schema == tables[0].schema for table in tables)
        with library_errors(Path(self.source)):
            if not are_equal:
                tables = [table.cast(pa.schema(map(_plain, table.schema))) for table in tables]
            rows = pa.concat_tables(tables, promote_options="none" if are_equal else "default")
        pq.write_table(rows, path)
        return path


def _plain(field: Any) -> Any:
    """An Arrow field whose texts and lists are of the types that most writers use."""
    import pyarrow as pa

    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        kind = pa.string()
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = pa.list_(_plain(kind.value_field))
    return pa.field(field.name, kind)


@contextmanager
def errors_at(path: Path, source: str) -> Iterator[None]:
    """Errors about a file of copied rows name the source of the rows."""
    try:
        yield
    except (DataError, UsageError) as error:
        message = str(error).replace(str(path), source)
        raise type(error)(message, hint=error.shell_hint) from error


def open_store(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path there. Raises UsageError for an unknown
    protocol, MissingPackageError for one whose client is missing."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise missing_package(error) or UsageError(f"{url} cannot be opened: {error}") from error
    except ValueError as error:
        raise UsageError(f"{url} cannot be opened: {error}") from error


def list_shards(source: str, rows: int = ROWS) -> list[Shard]:
    """The shards of a Parquet file or of all Parquet files in a folder, by name.

    Raises DataError if there are none, or without rows; as `open_store`."""
    sizes = [(url, row_count(url)) for url in parquet_urls(source)]
    total = sum(size for _, size in sizes)
    if not total:
        raise DataError(f"{source} holds no rows")
    return [
        Shard(first, _pieces(sizes, first, min(first + rows, total)))
        for first in range(0, total, rows)
    ]


def parquet_urls(source: str) -> list[str]:
    """The URLs of the Parquet files, sorted. Raises DataError if there are none."""
    filesystem, root = open_store(source)
    filesystem.invalidate_cache()  # files may be replaced; what follows reads this list
    with library_errors(Path(source)):
        files = store_files(filesystem, root) if filesystem.exists(root) else {}
    names = [name for name in files if name.lower().endswith(PARQUET)]
    if not names:
        raise DataError(f"{source} is no Parquet file, and no folder of such files")
    return [_url(filesystem, name) for name in names]


def table_urls(source: str) -> list[str]:
    """The URLs of the files of a table: those of a pattern, of Parquet in a folder, or of the file
    itself. Raises DataError if there are none."""
    filesystem, root = open_store(source)
    filesystem.invalidate_cache()  # files may be replaced; what follows reads this list
    with library_errors(Path(source)):
        names = store_files(filesystem, root)
    if not names:
        raise DataError(f"{source} does not exist, or holds no Parquet files")
    return [_url(filesystem, name) for name in names]


def file_versions(urls: Sequence[str]) -> dict[str, str]:
    """The size of each file, and what else changes with its content and the store knows, by its
    URL. Raises DataError for one that is missing."""
    versions = {}
    for url in urls:
        filesystem, path = open_store(url)
        with library_errors(Path(url)):
            info = filesystem.info(path)
        versions[without_credentials(url)] = object_version(info)
    return versions


def _url(filesystem: Any, name: str) -> str:
    return name if is_local(filesystem) else str(filesystem.unstrip_protocol(name))


def row_count(url: str) -> int:
    """The rows of a file. Raises DataError if its footer claims more than it can hold."""
    import pyarrow.parquet as pq

    filesystem, path = open_store(url)
    with library_errors(Path(url)):
        size = int(filesystem.size(path))
        with filesystem.open(path) as stream:
            rows = int(pq.ParquetFile(stream).metadata.num_rows)
    if not 0 <= rows <= FREE_ROWS + ROWS_PER_BYTE * size:
        raise DataError(f"{url} claims {rows} rows in {size} bytes")
    return rows


def count_events(urls: Sequence[str]) -> int:
    """About how many rows tables have: those in Parquet are counted, others follow from bytes."""
    total = 0
    for url in urls:
        if url.lower().endswith(PARQUET):
            total += row_count(url)
            continue
        filesystem, path = open_store(url)
        with library_errors(Path(url)):
            total += int(filesystem.size(path) or 0) // TEXT_ROW
    return total


def part_count(events: int) -> int:
    """How many parts events have: the same for any number of workers, so that outputs are, too."""
    return min(max(MIN_PARTS, -(-events // PART_EVENTS)), MAX_PARTS)


def _pieces(sizes: Sequence[tuple[str, int]], first: int, stop: int) -> tuple[Piece, ...]:
    pieces = []
    start = 0
    for url, size in sizes:
        begin = max(first, start) - start
        end = min(stop, start + size) - start
        if begin < end:
            pieces.append(Piece(url, begin, end))
        start += size
    return tuple(pieces)


def _batches(piece: Piece) -> Iterator[Any]:
    """The rows of a piece; only the row groups that have some are read."""
    import pyarrow.parquet as pq

    with local_file(piece.url) as path, library_errors(Path(piece.url)):
        open_dataset(path)
        open_bounded(path, None)[0].close()  # both check the file
        stop = 0
        with pq.ParquetFile(path) as opened:
            for group in range(opened.num_row_groups):
                start = stop
                stop += opened.metadata.row_group(group).num_rows
                if start >= piece.stop or stop <= piece.first:
                    continue
                for batch in opened.iter_batches(ROWS, row_groups=[group]):
                    first = max(0, piece.first - start)
                    end = min(len(batch), piece.stop - start)
                    start += len(batch)
                    if first < end:
                        yield batch.slice(first, end - first)
        if stop < piece.stop:
            raise DataError(f"{piece.url} has {stop} rows, not {piece.stop}: it changed")


@contextmanager
def local_file(url: str) -> Iterator[Path]:
    """A file itself, or a copy of a remote one, which lasts as long as the block."""
    filesystem, path = open_store(url)
    if is_local(filesystem):
        yield Path(path)
        return
    with library_errors(Path(url)):
        folder = _copied(url, filesystem.ukey(path))
    yield Path(folder.name) / url.rpartition("/")[2]


@lru_cache(maxsize=2)
def _copied(url: str, version: str) -> "TemporaryDirectory[str]":
    """A copy of a file in a temporary folder: the shards of a file mostly follow each other.
    `version` changes with the file."""
    filesystem, path = open_store(url)
    folder = TemporaryDirectory(prefix="sidtool-")
    filesystem.get_file(path, f"{folder.name}/{url.rpartition('/')[2]}")
    return folder


def is_local(filesystem: Any) -> bool:
    """Whether paths of a file system are those of this machine."""
    return "file" in (filesystem.protocol, *filesystem.protocol)
