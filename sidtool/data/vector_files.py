"""Vectors made by another program, in `.npy`, Parquet or Zarr."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from os import SEEK_CUR
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError, UsageError
from sidtool.base.locations import URL
from sidtool.data.coded import LOOKED_UP, Texts
from sidtool.data.columns import Header
from sidtool.data.tables.json_tables import is_id
from sidtool.data.tables.opening import (
    PARQUET,
    as_url,
    library_errors,
    open_file,
    parquet_files,
    read_errors,
    require_regular,
    table_files,
)
from sidtool.data.tables.parquet import open_bounded, open_dataset, parquet_column_names
from sidtool.data.tables.tables import read_columns
from sidtool.data.vectors import Opened, Stored, Vectors, VectorSource, require_matrix, rows_within
from sidtool.data.zarr_vectors import open_zarr

MAX_NPY_HEADER = 10_000
"""NumPy's limit, which it checks after it has read the header."""


def read_vectors(
    path: Any, ids: Sequence[str] | None = None, *, by_row: bool | None = None
) -> Vectors:
    """(n, dim) float32 vectors; arguments and errors as in `open_vectors`."""
    return open_vectors(path, ids, by_row=by_row).all()


def open_vectors(
    path: Any,
    ids: Sequence[str] | None = None,
    *,
    memory_limit: int | None = None,
    by_row: bool | None = None,
) -> VectorSource:
    """n vectors of a file, one for each of `ids` in their order; all rows if `ids` is None. What is
    no path is an array, as `VectorSource.of` takes it, whose row i is that of id i.

    `.npy`: a matrix; the ids of its rows are in `NAME.ids.txt` (one per line) or `NAME.ids.json` (a
    list) beside it. Parquet, a file or a folder of such, or copies of those at a URL: an id column
    and a column of lists. Zarr (folder or zip): a matrix, or a group of `vectors` and `ids`.
    Vectors of other items are skipped. With `by_row`, row i of a file without ids is that of id i;
    None: the caller has no option for this.

    `memory_limit` is a budget in bytes for the vectors that are in memory at once (None: no limit).
    It covers neither ids nor codes.

    Raises DataError if one of `ids` has no vector or an id of the file has two, and, on reading, if
    a vector is not finite; UsageError if the budget is too small."""
    if not isinstance(path, str | Path):
        array = VectorSource.of(path)
        if ids is not None and by_row is None:
            hint = "write it to NAME.npy, and the ids of its rows to NAME.ids.txt, one per line"
            raise UsageError("an array has no item ids", hint=hint)
        if ids is not None and len(array) != len(ids):
            raise DataError(f"{len(array)} vectors for {len(ids)} items")
        return array
    path = Path(path)
    stored, read_ids, chunk = _open_matrix(path)
    with library_errors(path, "vectors"):
        stored_ids = read_ids()
    limit = rows_within(stored, memory_limit)
    if ids is not None and stored_ids is None and not by_row:
        hint = "store a group of `vectors` and `ids`"
        if path.suffix.lower() == ".npy":
            hint = "write the ids of its rows to a file NAME.ids.txt beside it, one per line"
        if by_row is not None:
            hint += ", or --by-row if row i is that of item i of the catalog"
        raise DataError(f"{path} has no item ids", hint=hint)
    stored_rows = _stored_rows(path, stored, stored_ids, ids)
    stamp = json.dumps(
        [_versions(path), digest_strings(stored_ids or []), digest_strings(ids or [])]
    )
    return VectorSource(stored, limit, str(path), stored_rows, ids, chunk, stamp)


def _versions(path: Path) -> list[Any]:
    """What changes with a file, or with those of a folder."""
    if URL.match(str(path)):
        return [as_url(path), *table_files(path).versions]
    files = sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]
    stats = [(str(file.resolve()), file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _open_matrix(path: Path) -> Opened:
    """Open a file by its suffix, or the copies of files at a URL; errors as in `open_vectors`."""
    if URL.match(str(path)):
        copies = table_files(path)
        [first, *others] = copies.files
        if first.suffix.lower() not in PARQUET:
            raise DataError(f"{as_url(path)}: vectors at a URL must be Parquet")
        is_file = not others and first.name == path.name
        with copies.named_errors():
            stored, read_ids, chunk = _open_matrix(first if is_file else Path(copies.folder))
        return _Guarded(path, stored), copies.named_errors()(read_ids), chunk
    require_regular(path)
    name = path.name.lower()
    readers: dict[str, Callable[[Path], Opened]] = {
        ".npy": lambda path: (_Npy(path), partial(_ids_beside, path), 0),
        ".parquet": _open_parquet,
        ".pq": _open_parquet,
        ".zarr": open_zarr,
        ".zarr.zip": open_zarr,
    }
    opener = next((opener for suffix, opener in readers.items() if name.endswith(suffix)), None)
    if opener is None and parquet_files(path):
        opener = _open_parquet
    if opener is None:
        raise DataError(
            f"{path}: the name does not end in a known suffix",
            hint=f"known are {' '.join(readers)}",
        )
    with library_errors(path, "vectors"):
        stored, read_ids, chunk = opener(path)
        require_matrix(str(path), stored)
    return _Guarded(path, stored), read_ids, chunk


def _stored_rows(
    path: Path, stored: Stored, stored_ids: Sequence[str] | None, ids: Sequence[str] | None
) -> NDArray[np.int64] | None:
    """The stored row of each id; None if row i is that of id i for all."""
    import pyarrow.compute as pc

    if stored_ids is not None and len(stored_ids) != stored.shape[0]:
        raise DataError(f"{path} has {stored.shape[0]} vectors and {len(stored_ids)} ids")
    if ids is None:
        return None
    if stored_ids is None:
        if stored.shape[0] != len(ids):
            raise DataError(f"{path} has {stored.shape[0]} vectors for {len(ids)} items")
        return None
    stored_texts, texts = (
        names if isinstance(names, Texts) else Texts.packed(names) for names in (stored_ids, ids)
    )
    if not stored_texts.are_distinct:
        repeated = next(item for item, count in Counter(stored_texts).items() if count > 1)
        raise DataError(f"{path} has two vectors for item {repeated!r}")
    if stored_texts.arrow.equals(texts.arrow):
        return None
    stored_rows = np.full(len(ids), -1, dtype=np.int64)
    for start in range(0, len(stored_ids), LOOKED_UP):  # the table of a span takes memory
        span = stored_texts.arrow.slice(start, LOOKED_UP)
        places = pc.index_in(texts.arrow, value_set=span).cast("int64")
        stored_rows[np.asarray(places.is_valid())] = start + np.asarray(places.drop_null())
    missing = np.flatnonzero(stored_rows < 0)
    if len(missing):
        first = ids[int(missing[0])]
        raise DataError(
            f"{path} has no vector for {len(missing)} of {len(ids)} items, the first is {first!r}",
            hint="each item needs one, and for a memory also each retired item of the bundle",
        )
    return stored_rows


# The containers


class _Guarded:
    """A stored matrix whose damaged parts are reported when they are read. A copy for another
    process opens the file anew."""

    def __init__(self, path: Path, stored: Stored) -> None:
        self._path = path
        self._stored = stored
        self.shape = stored.shape
        self.dtype = stored.dtype

    def __getitem__(self, key: Any) -> Any:
        with library_errors(self._path, "vectors"):
            return self._stored[key]

    def __reduce__(self) -> tuple[Callable[[Path], Stored], tuple[Path]]:
        is_url = URL.match(str(self._path))
        return _stored_matrix, (self._path if is_url else self._path.absolute(),)


def _stored_matrix(path: Path) -> Stored:
    return _open_matrix(path)[0]


class _Npy:
    """A `.npy` file, mapped anew for each read: the pages of a permanent mapping would fill the
    memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            self.shape, self._order, self.dtype = npy_header(stream)
            self._offset = stream.tell()
        stored = path.stat().st_size - self._offset
        claimed = math.prod((self.dtype.itemsize, *self.shape))  # of Python: it does not overflow
        if self.dtype.hasobject or min(self.shape, default=1) < 0 or claimed != stored:
            raise ValueError(
                f"the header claims {claimed} bytes of shape {self.shape} and type {self.dtype}, "
                f"{stored} are stored"
            )

    def __getitem__(self, key: Any) -> NDArray[Any]:
        mapped: NDArray[Any] = np.memmap(
            self._path, self.dtype, "r", self._offset, self.shape, self._order
        )
        return np.array(mapped[key])


def npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Shape, order and type. Raises ValueError for a malformed header."""
    readers = {(1, 0): (2, read_array_header_1_0), (2, 0): (4, read_array_header_2_0)}
    version = read_magic(stream)
    if version not in readers:
        raise ValueError(f"its .npy version is {version}, not one of {list(readers)}")
    width, read_header = readers[version]
    length = int.from_bytes(stream.read(width), "little")
    if length > MAX_NPY_HEADER:
        raise ValueError(f"its header claims {length} bytes, more than {MAX_NPY_HEADER}")
    stream.seek(-width, SEEK_CUR)
    shape, is_fortran, dtype = read_header(stream)
    return tuple(map(int, shape)), "F" if is_fortran else "C", dtype


def _ids_beside(path: Path) -> list[str] | None:
    """The ids in the file beside a `.npy` file, None if there is none."""
    lines = path.with_suffix(".ids.txt")
    listed = path.with_suffix(".ids.json")
    if lines.exists():
        # a line ends at a line feed and nothing else
        with read_errors(lines), open_file(lines) as stream:
            text = stream.read().decode("utf-8")
        cells = text.removesuffix("\n").split("\n") if text else []
        ids = [cell.removesuffix("\r") for cell in cells]
        if "" in ids:
            raise DataError(f"{lines}, line {ids.index('') + 1}: the item id is empty")
        return ids
    if listed.exists():
        with read_errors(listed):
            members = parse_json(listed.read_bytes())
        if not isinstance(members, list) or not all(map(is_id, members)):
            raise DataError(f"{listed} is no list of ids")
        return [str(member) for member in members]
    return None


class _ParquetColumn:
    """A column of lists of one length, read forwards; a read further back starts again at the row
    group that it needs."""

    BATCH = 4096

    def __init__(self, path: Path, name: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        self._name = name
        self._dim = 0  # until a block is read
        self._group_sizes: dict[tuple[str, int], int] = {}  # (file, row group) -> rows
        for file in open_dataset(path).files:
            open_bounded(Path(file), [name])[0].close()  # checks its pages
            with pq.ParquetFile(file) as opened:
                kind = opened.schema_arrow.field(name).type
                footer = opened.metadata
            value = getattr(kind, "value_type", None)  # of a list
            if value is None or not (pa.types.is_floating(value) or pa.types.is_integer(value)):
                raise DataError(f"{path}: the column {name!r} is of type {kind}, not of vectors")
            for group in range(footer.num_row_groups):
                self._group_sizes[file, group] = footer.row_group(group).num_rows
        first_block = next(self._forward(0), np.zeros((0, 0), dtype=np.float32))
        self._dim = first_block.shape[1]
        self.shape = (sum(self._group_sizes.values()), self._dim)
        self.dtype = first_block.dtype
        self._next = 0  # the row that `_blocks` yields next
        self._blocks = self._forward(0)

    def __getitem__(self, key: slice) -> NDArray[Any]:
        if key.start != self._next:
            self._blocks = self._forward(key.start)
        missing = key.stop - key.start
        parts = []
        while missing and (part := next(self._blocks, None)) is not None:
            if len(part) > missing:
                self._blocks = chain([part[missing:]], self._blocks)
            parts.append(part[:missing])
            missing -= len(parts[-1])
        self._next = key.stop
        return np.concatenate(parts) if parts else np.zeros((0, self.shape[1]), dtype=np.float32)

    def _forward(self, first: int) -> Iterator[NDArray[Any]]:
        import pyarrow.parquet as pq

        for (file, group), size in self._group_sizes.items():
            if first >= size:
                first -= size
                continue
            # opened when it is read: a folder may have more files than a process may have open
            with pq.ParquetFile(file) as opened:
                batches = opened.iter_batches(self.BATCH, row_groups=[group], columns=[self._name])
                for batch in batches:
                    if first < len(batch):
                        yield self._rows(batch.column(0))[first:]
                    first = max(0, first - len(batch))

    def _rows(self, column: Any) -> NDArray[Any]:
        """A pyarrow array of n lists -> (n, dim)."""
        import pyarrow.compute as pc

        if column.null_count:
            raise DataError(f"{self._path}: the column {self._name!r} lacks vectors: drop the rows")
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        all_lengths = [self._dim, *lengths] if self._dim else lengths  # of earlier blocks, too
        if not lengths or not all(lengths) or len(set(all_lengths)) > 1:
            spelled = ", ".join(map(str, all_lengths[:5]))
            raise DataError(f"{self._path}: vectors have different lengths: {spelled}")
        flat: NDArray[Any] = pc.list_flatten(column).to_numpy(zero_copy_only=False)
        return flat.reshape(-1, lengths[0])  # (n * dim,) -> (n, dim)


def _open_parquet(path: Path) -> Opened:
    header = Header(path, parquet_column_names(path))
    id_name = header.need("item id", "name it item_id")
    name = header.choose("vector", "rename one of them")
    if name is None:
        raise DataError(
            f"{path} has no column of vectors: {', '.join(header.names)}",
            hint="name it 'vector' or 'embedding'",
        )
    return _ParquetColumn(path, name), partial(_parquet_ids, path, id_name), 1


def _parquet_ids(path: Path, name: str) -> Texts:
    column = read_columns(path, [name], ids=[name])[name]
    ids = Texts(column.cast("large_string").combine_chunks())
    if column.null_count or not all(ids):
        raise DataError(f"{path}: an item id is empty")
    return ids
