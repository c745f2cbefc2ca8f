"""Counts and similarities of items by parts of the users and by blocks of the items.

A part counts the pairs of its users, and writes those of each block of items. A block adds up what
all parts have of it. Counts are integers, so the sums are those of all users at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data import Texts
from sidtool.data.split import Split
from sidtool.data.split.pairs import ItemSequences, count_pairs, item_sequences, sum_pairs
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

    def count_part(self, split: Split, ids: Texts, distance: float, out: Path) -> int:
        """Count the pairs of the training events of some users, and write the events of each item
        and the pairs of each block, by earlier and by later item -> the number of pairs.

        Raises RefusedError if a held-out event is among the training events."""
        import pyarrow as pa

        sequences = item_sequences(split, ids)
        # numbers within the part: its memory does not grow with the other items
        seen, numbers = np.unique(sequences.items, return_inverse=True)
        sequences = ItemSequences(numbers, sequences.offsets)
        later = count_pairs(sequences, len(seen), distance)
        events = count_events(sequences, len(seen))
        rows_of_blocks = np.searchsorted(seen, self.bounds).tolist()

        def batches() -> Iterator[tuple[NDArray[Any], ...]]:
            yield seen, np.zeros_like(seen), events
            for pairs in (later, later.T.tocsr()):
                pairs.sort_indices()
                for start, (first, stop) in zip(
                    self.bounds, pairwise(rows_of_blocks), strict=False
                ):
                    block = pairs[first:stop].tocoo()
                    yield seen[first:stop][block.row] - start, seen[block.col], block.data

        schema = pa.schema([("row", pa.uint32()), ("item", pa.uint32()), ("weight", pa.int64())])
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as f:
            for batch in batches():
                columns = zip(batch, schema.types, strict=True)
                arrays = [pa.array(column, kind, safe=False) for column, kind in columns]
                f.write_batch(pa.record_batch(arrays, schema=schema))
        return int(later.nnz)

    def sum_events(self, parts: Sequence[Path]) -> NDArray[np.int64]:
        """(items,): the events of each item, of all parts."""
        events = np.zeros(self.items, dtype=np.int64)
        for rows, _, counts in _batches(parts, 0):
            events[rows] += counts
        return events

    def write_block(
        self,
        parts: Sequence[Path],
        number: int,
        events: NDArray[np.int64],
        settings: KnnSettings,
        content: Any,
        out: Path,
    ) -> int:
        """Write the counted pairs of a block of items with later ones, and the similar items of
        each: rows of what `CountedPairs` and `similar_items` have of all items -> the number of
        similar pairs. `content` has the block's rows of the symmetric similarity by content.

        Raises DataError for a pair that weighs too much."""
        from scipy import sparse

        first, stop = self.bounds[number : number + 2].tolist()
        shape = (stop - first, self.items)
        counted = []
        for batch in (1 + number, 1 + self.blocks + number):  # of later items, of earlier ones
            of_parts = [
                sparse.csr_matrix((weights, (rows.astype(np.int64), items.astype(np.int64))), shape)
                for rows, items, weights in _batches(parts, batch)
            ]
            counted.append(sum_pairs(of_parts, *shape))
        later, earlier = counted
        similar = similar_block(later, earlier, events[first:stop], events, settings, content)
        pairs, neighbors = SparseRows.of(later, np.int64), SparseRows.of(similar, np.float32)
        with out.open("wb") as stream:
            np.savez(
                stream,
                later_offset=pairs.offsets,
                later_item=pairs.items,
                later_weight=pairs.weights,
                neighbors_offset=neighbors.offsets,
                neighbors_item=neighbors.items,
                neighbors_weight=neighbors.weights,
            )
        return len(neighbors.items)


def join_blocks(paths: Sequence[Path], folder: Path) -> tuple[SparseRows, SparseRows]:
    """The counted pairs and the similar items of all items, of the files of all blocks, mapped from
    files of a folder."""

    def rows_of(name: str) -> Iterator[SparseRows]:
        for path in paths:
            with np.load(path, allow_pickle=False) as stored:
                parts = ("offset", "item", "weight")
                yield SparseRows(*(stored[f"{name}_{part}"] for part in parts))

    later = rows_in_files("later", rows_of("later"), np.int64, folder)
    return later, rows_in_files("neighbors", rows_of("neighbors"), np.float32, folder)


def _batches(parts: Sequence[Path], number: int) -> Iterator[tuple[NDArray[Any], ...]]:
    """The columns of one batch of each part's file: rows, items and weights."""
    import pyarrow as pa

    for path in parts:
        with pa.memory_map(str(path)) as stored:
            batch = pa.ipc.open_file(stored).get_batch(number)
            yield tuple(column.to_numpy() for column in batch.columns)
