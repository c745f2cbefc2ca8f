"""Sparse item-item matrices row by row, in memory or in files."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.base.output import folder_beside
from sidtool.base.ranges import ranges

ITEM = 64
"""Bytes at the peak for each item, whatever the number of pairs."""
PADDED_VALUES = 1 << 18
"""Values of rows that are padded together."""


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A sparse (n, n) matrix, row by row."""

    offsets: NDArray[np.int64]
    """(n + 1,): where each row starts in the two arrays below"""
    items: NDArray[np.uint32]
    """(m,): the column of each entry, ascending within a row"""
    weights: NDArray[Any]
    """(m,): float32 or float64 similarities, or int64 counts"""

    @classmethod
    def of(cls, matrix: Any, dtype: Any) -> "SparseRows":
        """The rows of a scipy CSR matrix."""
        matrix = matrix.astype(dtype, copy=False)
        matrix.sum_duplicates()  # this sorts the rows, too
        if not matrix.data.all():  # tiny values become 0
            matrix = matrix.copy()
            matrix.eliminate_zeros()
        offsets = matrix.indptr.astype(np.int64, copy=False)
        return cls(offsets, matrix.indices.astype(np.uint32), matrix.data)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(m,): the row of each entry"""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def take(self, rows: NDArray[np.int64]) -> Any:
        """(len(rows), n) scipy CSR matrix: some rows, copied."""
        from scipy import sparse

        numbers, places = row_entries(self.offsets, rows)
        offsets = np.searchsorted(numbers, np.arange(len(rows) + 1))
        entries = (self.weights[places], self.items[places].astype(np.int64), offsets)
        return sparse.csr_matrix(entries, shape=(len(rows), len(self)))

    def block(self, first: int, stop: int, n_columns: int | None = None) -> Any:
        """(stop - first, n) scipy CSR matrix: consecutive rows. A matrix that is not square has
        `n_columns`."""
        from scipy import sparse

        offsets = np.array(self.offsets[first : stop + 1])
        span = slice(offsets[0], offsets[-1])
        entries = (self.weights[span], self.items[span], offsets - offsets[0])
        return sparse.csr_matrix(entries, shape=(stop - first, n_columns or len(self)))

    def to_scipy(self) -> Any:
        """The scipy CSR matrix."""
        return self.block(0, len(self))

    def __len__(self) -> int:
        return len(self.offsets) - 1


def row_entries(
    offsets: NDArray[np.integer[Any]], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(e,) each: the entries of some rows of a sparse matrix, none of row -1: the index of each
    one's row among these, and its place among all entries."""
    starts = offsets[rows]
    sizes = np.where(rows < 0, 0, offsets[rows + 1] - starts)
    firsts = sizes.cumsum() - sizes  # of each row in the arrays that are returned
    indexes = np.arange(len(rows)).repeat(sizes)
    return indexes, np.arange(len(indexes)) + (starts - firsts)[indexes]


@dataclass(frozen=True)
class Shards:
    """How much memory a build may use for pairs, and where it puts what does not fit."""

    folder: Path
    """An empty folder; it gets about 40 bytes per pair of items that co-occur."""
    budget: int
    """Bytes. The training events and the ids of the items come on top."""

    @classmethod
    @contextmanager
    def beside(cls, out: Path, budget: int) -> Iterator[Self]:
        """In a folder beside an output, which is removed afterwards. Raises DataError if it cannot
        be made."""
        with folder_beside(out) as folder:
            yield cls(folder, budget)

    @classmethod
    @contextmanager
    def temporary(cls, budget: int | None) -> Iterator[Self | None]:
        """In a temporary folder; None without a budget."""
        if budget is None:
            yield None
            return
        with TemporaryDirectory(prefix="sidtool-") as name:
            yield cls(Path(name), budget)

    def entries(self, n_items: int, entry_bytes: int, threads: int = 1) -> int:
        """The pairs that fit into memory, for each thread. Raises UsageError if there are none."""
        entries = (self.budget - ITEM * n_items) // entry_bytes
        if entries < 1:
            raise UsageError(
                f"a memory of {n_items} items needs more than {self.budget} bytes",
                hint=f"at least {ITEM * n_items + entry_bytes} for the items alone",
            )
        return max(1, entries // threads)

    def remove(self, prefix: str) -> None:
        """Give back the disk space of the files whose names begin so."""
        for path in self.folder.glob(f"{prefix}*"):
            path.unlink()


def store_rows(
    name: str,
    parts: Iterable[SparseRows],
    sizes: NDArray[np.int64],
    dtype: Any,
    shards: Shards | None,
) -> SparseRows:
    """The rows of several parts, one part after the other: in memory, or with shards as three files
    of their folder that are mapped. The (n,) rows have at most these sizes. Raises DataError if
    they cannot be written."""
    if shards is not None:
        return rows_in_files(name, parts, dtype, shards.folder)
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    items = np.empty(sizes.sum(), dtype=np.uint32)  # pages that are not written take no memory
    weights = np.empty(len(items), dtype=dtype)
    row = end = 0
    for part in parts:
        start, end = end, end + len(part.items)
        items[start:end] = part.items
        weights[start:end] = part.weights
        offsets[row + 1 : row + 1 + len(part)] = part.offsets[1:] + start
        row += len(part)
    return SparseRows(offsets, items[:end], weights[:end])


def rows_in_files(name: str, parts: Iterable[SparseRows], dtype: Any, folder: Path) -> SparseRows:
    """The rows of several parts, one part after the other, as three files of a folder that are
    mapped. Raises DataError if they cannot be written."""
    names = [folder / f"{name}.{part}" for part in ("offset", "item", "weight")]
    end = 0
    try:
        with ExitStack() as stack:
            offsets, items, weights = (stack.enter_context(path.open("wb")) for path in names)
            _append(np.zeros(1, dtype=np.int64), offsets)
            for part in parts:
                _append(part.offsets[1:] + end, offsets)
                _append(part.items, items)
                _append(part.weights, weights)
                end += len(part.items)
    except OSError as error:
        path = folder / name
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    arrays = [
        # an empty file cannot be mapped
        np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.zeros(0, dtype=kind)
        for path, kind in zip(names, (np.int64, np.uint32, dtype), strict=True)
    ]
    return SparseRows(*arrays)


def _append(array: NDArray[Any], stream: BinaryIO) -> None:
    stream.write(np.ascontiguousarray(array).data)


def padded_rows(
    values: NDArray[Any],
    offsets: NDArray[np.integer[Any]],
    rows: NDArray[np.int64],
    fill: Any,
    min_width: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Some rows of a sparse matrix as rectangles: the numbers of (m,) rows of similar length and
    their (m, width) values, filled up to `min_width` or more."""
    lengths = np.diff(offsets)[rows]
    exponents = np.frexp(lengths)[1]
    exponents[lengths <= min_width] = 0
    for exponent in np.unique(exponents).tolist():
        similar = rows[exponents == exponent]
        width = max(min_width, int(lengths[exponents == exponent].max()))
        enough = values if len(values) >= width else np.resize(values, width)
        windows = sliding_window_view(enough, width)
        columns = np.arange(width)
        for first, stop in ranges(np.full(len(similar), width), PADDED_VALUES):
            block_rows = similar[first:stop]
            # the window of a row near the end begins before the row
            starts = np.minimum(offsets[block_rows], len(windows) - 1)
            block = windows[starts]
            before = columns < (offsets[block_rows] - starts)[:, None]
            block[before | (columns >= (offsets[block_rows + 1] - starts)[:, None])] = fill
            yield block_rows, block
