"""Counts and similarities of items by parts of the users and by blocks of the items.

A part counts the pairs of its users, and writes those of each block of items. A block adds up what
all parts have of it. Counts are integers, so the sums are those of all users at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split import Split
from sidtool.data.split.pairs import count_pairs, item_sequences, sum_pairs
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.rows import SparseRows, rows_in_files
from sidtool.memory.similarity import count_events, similar_block


@dataclass(frozen=True)
class ItemBlocks:
    """Items in blocks of consecutive ones, about equally many."""

    items: int
    blocks: int

    @property
    def bounds(self) -> NDArray[np.int64]:
        """(blocks + 1,): where each block starts"""
        return np.arange(self.blocks + 1) * self.items // self.blocks


def count_part(
    split: Split, ids: Sequence[str], distance: float, blocks: ItemBlocks, out: Path
) -> int:
    """Count the pairs of the training events of some users, and write those of each block, by
    earlier and by later item, and the events of each item -> the number of pairs.

    Raises RefusedError if a held-out event is among the training events."""
    import pyarrow as pa

    sequences = item_sequences(split, ids)
    later = count_pairs(sequences, len(ids), distance)
    events = count_events(sequences, len(ids))
    seen = np.flatnonzero(events)
    schema = pa.schema([("row", pa.uint32()), ("item", pa.uint32()), ("weight", pa.int64())])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as file:
        columns = (seen, np.zeros_like(seen), events[seen])
        file.write_batch(_batch(schema, *columns))
        for pairs in (later, later.T.tocsr()):
            pairs.sort_indices()
            for first, stop in zip(blocks.bounds[:-1], blocks.bounds[1:], strict=True):
                block = pairs[first:stop].tocoo()
                file.write_batch(_batch(schema, block.row, block.col, block.data))
    return int(later.nnz)


def _batch(schema: Any, *columns: NDArray[Any]) -> Any:
    import pyarrow as pa

    arrays = [
        pa.array(column, field.type, safe=False)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.record_batch(arrays, schema=schema)


def sum_events(parts: Sequence[Path], items: int) -> NDArray[np.int64]:
    """(items,): the events of each item, of all parts."""
    events = np.zeros(items, dtype=np.int64)
    for rows, _, counts in _batches(parts, 0):
        events[rows] += counts
    return events


def _batches(parts: Sequence[Path], number: int) -> Iterator[tuple[NDArray[Any], ...]]:
    import pyarrow as pa

    for path in parts:
        with pa.memory_map(str(path)) as stored:
            batch = pa.ipc.open_file(stored).get_batch(number)
            yield tuple(column.to_numpy() for column in batch.columns)


def block_rows(
    parts: Sequence[Path],
    blocks: ItemBlocks,
    number: int,
    events: NDArray[np.int64],
    settings: KnnSettings,
    content: Any = None,
) -> tuple[SparseRows, SparseRows]:
    """The counted pairs of a block of items with later ones, and the similar items of each: rows of
    what `CountedPairs` and `similar_items` have of all items. `content` has the block's rows of
    the symmetric similarity by content. Raises DataError for a pair that weighs too much."""
    later, earlier = (
        _block(parts, blocks, number, at) for at in (1 + number, 1 + blocks.blocks + number)
    )
    first, stop = blocks.bounds[number : number + 2].tolist()
    similar = similar_block(later, earlier, events[first:stop], events, settings, content)
    return SparseRows.of(later, np.int64), SparseRows.of(similar, np.float32)


def _block(parts: Sequence[Path], blocks: ItemBlocks, number: int, batch: int) -> Any:
    """(block, items) CSR: what all parts counted."""
    from scipy import sparse

    first, stop = blocks.bounds[number : number + 2].tolist()
    shape = (stop - first, blocks.items)
    counted = [
        sparse.csr_matrix((weights, (rows.astype(np.int64), items.astype(np.int64))), shape=shape)
        for rows, items, weights in _batches(parts, batch)
    ]
    return sum_pairs(counted, *shape)


@dataclass(frozen=True, eq=False)
class BlockFiles:
    """The rows of all blocks, in files that `write_block` wrote."""

    paths: Sequence[Path]

    def join(self, folder: Path) -> tuple[SparseRows, SparseRows]:
        """The counted pairs and the similar items of all items, mapped from files of a folder."""
        later = rows_in_files("later", self._rows("later"), np.int64, folder)
        return later, rows_in_files("neighbors", self._rows("neighbors"), np.float32, folder)

    def _rows(self, name: str) -> Iterator[SparseRows]:
        for path in self.paths:
            with np.load(path, allow_pickle=False) as stored:
                arrays = (stored[f"{name}_{part}"] for part in ("offset", "item", "weight"))
                yield SparseRows(*arrays)


def write_block(path: Path, later: SparseRows, neighbors: SparseRows) -> None:
    """Write the rows of a block."""
    with path.open("wb") as stream:
        np.savez(
            stream,
            later_offset=later.offsets,
            later_item=later.items,
            later_weight=later.weights,
            neighbors_offset=neighbors.offsets,
            neighbors_item=neighbors.items,
            neighbors_weight=neighbors.weights,
        )
