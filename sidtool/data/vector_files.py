"""Vectors made by another program, in `.npy`, Parquet or Zarr."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from sidtool.data.digests import digest_strings
from sidtool.data.items import ID_COLUMNS
from sidtool.data.tables import choose_column, need_column
from sidtool.data.vectors import Stored, VectorSource, require_matrix, rows_within
from sidtool.errors import DataError
from sidtool.sid import Vectors

VECTOR_COLUMNS = ("vector", "embedding", "embeddings", "vectors", "emb")


def read_vectors(path: Path, ids: Sequence[str] | None = None) -> Vectors:
    """(n, dim) float32 vectors of a file; arguments and errors as in `open_vectors`."""
    return open_vectors(path, ids).all()


def open_vectors(
    path: Path, ids: Sequence[str] | None = None, *, memory: int | None = None
) -> VectorSource:
    """n vectors of a file, one for each of `ids` in their order; all rows if `ids` is None.

    `.npy`: a matrix; the ids of its rows are in `NAME.ids.txt` (one per line) or `NAME.ids.json` (a
    list) beside it; without these, rows and ids must agree in number and order. Parquet: an id
    column and a column of lists. Zarr (folder or zip): a matrix, or a group of `vectors` and `ids`.
    Vectors of other items are skipped.

    `memory` is a budget in bytes for the vectors that are in memory at once (None: no limit). It
    covers neither ids nor codes, which take some hundred bytes per item.

    Raises DataError if an item has no vector or an id has two, and, on reading, if a vector is not
    finite; UsageError if the budget is too small."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    name = path.name.lower()
    readers: dict[str, Callable[[Path], tuple[Stored, list[str] | None, int]]] = {
        ".npy": _open_npy,
        ".parquet": _open_parquet,
        ".pq": _open_parquet,
        ".zarr": _open_zarr,
        ".zarr.zip": _open_zarr,
    }
    opener = next((opener for suffix, opener in readers.items() if name.endswith(suffix)), None)
    if opener is None:
        raise DataError(
            f"{path}: the name does not end in a known suffix",
            hint=f"known are {' '.join(readers)}",
        )
    try:
        stored, stored_ids, chunk = opener(path)
    except (
        OSError,
        EOFError,
        BadZipFile,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{path} cannot be read as vectors: {reason}") from error
    require_matrix(str(path), stored)
    limit = rows_within(stored, memory)
    stored_rows = _stored_rows(path, stored, stored_ids, ids)
    stamp = json.dumps([_stamp(path), digest_strings(stored_ids or []), digest_strings(ids or [])])
    return VectorSource(stored, limit, str(path), stored_rows, ids, chunk, stamp)


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _stored_rows(
    path: Path, stored: Stored, stored_ids: list[str] | None, ids: Sequence[str] | None
) -> NDArray[np.int64] | None:
    """The stored row of each id; None if row i is that of id i for all."""
    if stored_ids is not None and len(stored_ids) != stored.shape[0]:
        raise DataError(f"{path} has {stored.shape[0]} vectors and {len(stored_ids)} ids")
    if ids is None:
        return None
    if stored_ids is None:
        if stored.shape[0] != len(ids):
            raise DataError(
                f"{path} has {stored.shape[0]} vectors for {len(ids)} items",
                hint="name its rows in a file NAME.ids.txt",
            )
        return None
    rows = {item: row for row, item in enumerate(stored_ids)}
    if len(rows) != len(stored_ids):
        repeated = next(item for row, item in enumerate(stored_ids) if rows[item] != row)
        raise DataError(f"{path} has two vectors for item {repeated!r}")
    stored_rows = np.fromiter((rows.get(item, -1) for item in ids), dtype=np.int64, count=len(ids))
    missing = np.flatnonzero(stored_rows < 0)
    if len(missing):
        first = ids[int(missing[0])]
        raise DataError(
            f"{path} has no vector for {len(missing)} of {len(ids)} items, the first is {first!r}"
        )
    all_rows = np.arange(stored.shape[0])
    return None if np.array_equal(stored_rows, all_rows) else stored_rows


# The containers


class _Npy:
    """A `.npy` file, mapped anew for each read: the pages of a permanent mapping would fill the
    memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        mapped = self._map()
        self.shape = mapped.shape
        self.dtype = mapped.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.array(self._map()[key])

    def _map(self) -> NDArray[Any]:
        mapped: NDArray[Any] = np.load(self._path, mmap_mode="r", allow_pickle=False)
        return mapped


def _open_npy(path: Path) -> tuple[Stored, list[str] | None, int]:
    stored = _Npy(path)
    lines = path.with_suffix(".ids.txt")
    listed = path.with_suffix(".ids.json")
    if lines.exists():
        return stored, lines.read_text(encoding="utf-8").splitlines(), 0
    if listed.exists():
        return stored, [str(item) for item in json.loads(listed.read_text(encoding="utf-8"))], 0
    return stored, None, 0


class _ParquetColumn:
    """A column of lists of one length, read forwards; a read further back starts again at the row
    group that it needs."""

    BATCH = 4096

    def __init__(self, path: Path, name: str) -> None:
        import pyarrow.parquet as pq

        self._path = path
        self._name = name
        self._dim = 0
        self._groups: list[tuple[Any, int, int]] = []  # file, group, rows
        for file in pq.ParquetDataset(path).files:
            opened = pq.ParquetFile(file)
            sizes = (
                opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)
            )
            self._groups += [(opened, group, size) for group, size in enumerate(sizes)]
        self._next = 0
        self._rest = self._forward(0)
        first = next(self._rest, np.zeros((0, 0), dtype=np.float32))
        self.shape = (sum(size for *_, size in self._groups), first.shape[1])
        self.dtype = first.dtype
        self._rest = self._forward(0)
        self._dim = first.shape[1]

    def __getitem__(self, key: slice) -> NDArray[Any]:
        if key.start != self._next:
            self._rest = self._forward(key.start)
        missing = key.stop - key.start
        parts = []
        while missing and (part := next(self._rest, None)) is not None:
            if len(part) > missing:
                self._rest = _before(part[missing:], self._rest)
            parts.append(part[:missing])
            missing -= len(parts[-1])
        self._next = key.stop
        return np.concatenate(parts) if parts else np.zeros((0, self.shape[1]), dtype=np.float32)

    def _forward(self, first: int) -> Iterator[NDArray[Any]]:
        for file, group, size in self._groups:
            if first >= size:
                first -= size
                continue
            for batch in file.iter_batches(self.BATCH, row_groups=[group], columns=[self._name]):
                if first < len(batch):
                    yield self._rows(batch.column(0))[first:]
                first = max(0, first - len(batch))

    def _rows(self, column: Any) -> NDArray[Any]:
        """A pyarrow array of n lists -> (n, dim)."""
        import pyarrow.compute as pc

        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) != 1 or not lengths[0] or lengths[0] != (self._dim or lengths[0]):
            several = [*([self._dim] if self._dim else []), *lengths][:5]
            spelled = ", ".join(map(str, several))
            raise DataError(f"{self._path}: vectors have different lengths: {spelled}")
        flat: NDArray[Any] = pc.list_flatten(column).to_numpy(zero_copy_only=False)
        return flat.reshape(-1, lengths[0])  # (n * dim,) -> (n, dim)


def _before(part: NDArray[Any], rest: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    yield part
    yield from rest


def _open_parquet(path: Path) -> tuple[Stored, list[str] | None, int]:
    import pyarrow.parquet as pq

    names = pq.ParquetDataset(path).schema.names
    id_name = need_column(path, names, None, ID_COLUMNS, "item id", "the name item_id")
    name = choose_column(path, names, None, VECTOR_COLUMNS, "vector")
    if name is None:
        raise DataError(
            f"{path} has no column of vectors: {', '.join(names)}",
            hint="name it 'vector' or 'embedding'",
        )
    ids = [str(item) for item in pq.read_table(path, columns=[id_name])[id_name].to_pylist()]
    return _ParquetColumn(path, name), ids, 1


def _open_zarr(path: Path) -> tuple[Stored, list[str] | None, int]:
    import zarr
    from zarr.storage import ZipStore

    stored = zarr.open(ZipStore(path, mode="r") if path.suffix == ".zip" else path, mode="r")
    if isinstance(stored, zarr.Array):
        return stored, None, max(stored.chunks[0], 1) if stored.ndim else 1
    vectors = stored["vectors"]
    return vectors, [str(item) for item in stored["ids"][:].tolist()], max(vectors.chunks[0], 1)
