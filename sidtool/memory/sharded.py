"""A memory that does not fit into memory: pairs are counted for a group of users at a time, and
summed and normalized for a block of items at a time. The arrays lie in files.

The result is that of `similarity_of`, byte for byte: counts are integers, and every similarity is
computed from the same two of them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.base.output import folder_beside
from sidtool.data.split import WINDOW, ItemSequences, add_pairs, count_pairs, pair_weights
from sidtool.memory.memory import SparseRows
from sidtool.memory.similarity import KnnSettings, similarity_rows

GROUP_ENTRY = 80
"""Bytes at the peak for each pair of a group of users, and for each pair of a block of items below.
benchmarks/memory_scale.py measures both."""
BLOCK_ENTRY = 160
ITEM = 64
"""Bytes at the peak for each item, whatever the number of pairs."""


@dataclass(frozen=True)
class Shards:
    """How much memory a build may use for pairs, and where it puts what does not fit."""

    folder: Path
    """An empty folder; it gets about 50 bytes per pair of items that co-occur."""
    budget: int
    """Bytes. The training events and the ids of the items come on top."""

    def entries(self, n_items: int, entry_bytes: int) -> int:
        """The pairs that fit into memory. Raises UsageError if there are none."""
        entries = (self.budget - ITEM * n_items) // entry_bytes
        if entries < 1:
            raise UsageError(
                f"a memory of {n_items} items needs more than {self.budget} bytes",
                hint=f"at least {ITEM * n_items + entry_bytes} for the items alone",
            )
        return entries


@contextmanager
def shards_beside(out: Path, budget: int) -> Iterator[Shards]:
    """A folder beside an output, which is removed afterwards. Raises DataError if it cannot be
    made."""
    with folder_beside(out) as folder:
        yield Shards(folder, budget)


def sharded_rows(
    sequences: Sequence[NDArray[np.int64]],
    events: NDArray[np.int64],
    settings: KnnSettings,
    shards: Shards,
    content: Any = None,
    dtype: Any = np.float32,
) -> tuple[SparseRows, SparseRows]:
    """The pairs and the neighbors of (n,) items with their numbers of events, in files of the
    shards' folder; `content` as in `similarity_of`, which is in memory. `dtype` is that of the
    neighbors' similarities.

    Raises UsageError if the budget is too small for the items, DataError if the disk is full."""
    n = len(events)
    if content is not None:
        content = (content + content.T).tocsr()
    parts, transposed = _count_parts(sequences, n, settings.distance, shards)
    blocks = list(_item_blocks([*parts, *transposed], shards.entries(n, BLOCK_ENTRY)))

    def summed() -> Iterator[SparseRows]:
        for first, stop in blocks:
            yield SparseRows.of(_sum_of(parts, first, stop), np.int64)

    pairs = _write_rows(shards.folder / "pairs", summed(), np.int64)

    def similar() -> Iterator[SparseRows]:
        for first, stop in blocks:
            later = _sum_of([pairs], first, stop)
            before = _sum_of(transposed, first, stop)
            counts = pair_weights(later, settings.reverse, before)
            rows = similarity_rows(
                counts,
                events[first:stop],
                events[counts.indices],
                settings,
                None if content is None else content[first:stop],
            )
            yield SparseRows.of(rows, dtype)

    return pairs, _write_rows(shards.folder / "neighbors", similar(), dtype)


def _count_parts(
    sequences: Sequence[NDArray[np.int64]], n: int, distance: float, shards: Shards
) -> tuple[list[SparseRows], list[SparseRows]]:
    """The pairs of each group of users, and the same with rows and columns exchanged."""
    parts = []
    transposed = []
    for start, stop in _user_groups(sequences, shards.entries(n, GROUP_ENTRY)):
        counts = count_pairs(sequences[start:stop], n, distance)
        path = shards.folder / f"users-{start}"
        parts.append(_write_rows(path, [SparseRows.of(counts, np.int64)], np.int64))
        counts = counts.T.tocsr()
        path = shards.folder / f"users-{start}-transposed"
        transposed.append(_write_rows(path, [SparseRows.of(counts, np.int64)], np.int64))
    return parts, transposed


def _user_groups(sequences: Sequence[NDArray[np.int64]], entries: int) -> Iterator[tuple[int, int]]:
    """Ranges of users with about `entries` pairs each; a user is never divided."""
    lengths = ItemSequences.of(sequences).lengths
    gaps = np.clip(lengths - 1, 0, WINDOW)
    pairs = gaps * lengths - gaps * (gaps + 1) // 2  # the sum of length - gap over all gaps
    return _ranges(pairs, entries)


def _item_blocks(parts: Sequence[SparseRows], entries: int) -> Iterator[tuple[int, int]]:
    """Ranges of items with about `entries` entries of all parts each."""
    sizes = np.zeros(len(parts[0].offsets) - 1, dtype=np.int64)
    for part in parts:
        sizes += np.diff(part.offsets)
    return _ranges(sizes, entries)


def _ranges(sizes: NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges whose sizes add up to at most the limit, or to that plus one size."""
    numbers = np.cumsum(sizes) // limit
    starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
    return zip(starts, [*starts[1:], len(sizes)], strict=True)


def _sum_of(parts: Sequence[SparseRows], first: int, stop: int) -> Any:
    """(stop - first, n) scipy CSR int64: some rows of a sum of matrices."""
    from scipy import sparse

    n = len(parts[0].offsets) - 1
    total = sparse.csr_matrix((stop - first, n), dtype=np.int64)
    for part in parts:
        offsets = np.array(part.offsets[first : stop + 1])
        span = slice(offsets[0], offsets[-1])
        entries = (part.weights[span], part.items[span], offsets - offsets[0])
        total = add_pairs(total, sparse.csr_matrix(entries, shape=total.shape))
    return total


def _write_rows(path: Path, blocks: Iterable[SparseRows], dtype: Any) -> SparseRows:
    """Consecutive rows of one matrix as three files, mapped into memory. Raises DataError if they
    cannot be written."""
    names = [path.with_name(f"{path.name}.{part}") for part in ("offset", "item", "weight")]
    end = 0
    try:
        with ExitStack() as stack:
            offsets, items, weights = (stack.enter_context(name.open("wb")) for name in names)
            _append(np.zeros(1, dtype=np.int64), offsets)
            for block in blocks:
                _append(block.offsets[1:] + end, offsets)
                _append(block.items, items)
                _append(block.weights, weights)
                end += len(block.items)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    arrays = map(_mapped, names, (np.int64, np.uint32, dtype))
    return SparseRows(*arrays)


def _append(array: NDArray[Any], stream: BinaryIO) -> None:
    stream.write(np.ascontiguousarray(array).data)


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    if not path.stat().st_size:
        return np.zeros(0, dtype=dtype)  # an empty file cannot be mapped
    return np.memmap(path, dtype=dtype, mode="r")
