"""Counts and similarities of items by parts of the users and by blocks of the items.

A part counts the pairs of its users, in the order of the items. A block adds up what all parts have
of its items. Counts are integers, so the sums are those of all users at once."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.ranges import ranges
from sidtool.data import Texts
from sidtool.data.split import Split
from sidtool.data.split.pairs import ItemSequences, count_pairs, item_sequences, sum_pairs
from sidtool.memory import KnnSettings, SparseRows, count_events, rows_in_files, similar_block

BLOCK_PAIRS = 1 << 21
"""Pairs of a block of items, in all parts and by both items: a worker takes about 60 bytes for
each."""
READ_PAIRS = 1 << 14
"""Pairs of a part that are read together: a block reads up to two times so many that it does not
need."""


def count_part(split: Split, ids: Texts, distance: float, out: Path) -> int:
    """Count the pairs of the training events of some users -> the number of pairs.

    The first batch of the file has each item with events, its number of pairs with others, and
    its events. The next ones have the pairs in the order of items: an item, a later one or, plus
    the number of all items, an earlier one, and the weight. Raises RefusedError if a held-out event
    is among the training events."""
    import pyarrow as pa
    from scipy import sparse

    sequences = item_sequences(split, ids)
    # numbers within the part: its memory does not grow with the other items
    seen, numbers = np.unique(sequences.items, return_inverse=True)
    sequences = ItemSequences(numbers.astype(np.int32), sequences.offsets)
    later = count_pairs(sequences, len(seen), distance)
    pairs = sparse.hstack([later, later.T.tocsr()], format="csr")
    others = np.concatenate([seen, seen + np.int64(len(ids))])
    n_pairs = np.diff(pairs.indptr)
    columns = {
        "item": np.repeat(seen, n_pairs).astype(np.uint32),
        "other": others[pairs.indices],
        "weight": pairs.data,
    }
    first_items = columns["item"][::READ_PAIRS].tobytes()
    table = pa.table(columns).replace_schema_metadata({"first_items": first_items})
    items = [seen.astype(np.uint32), n_pairs.astype(np.int64), count_events(sequences, len(seen))]
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(out), "wb") as sink,
        pa.ipc.new_file(sink, table.schema, options=options) as file,
    ):
        file.write_batch(pa.record_batch(items, schema=table.schema))
        file.write_table(table, max_chunksize=READ_PAIRS)
    return int(later.nnz)


def sum_items(parts: Sequence[Path], n_items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n_items,) each: the pairs that all parts have of each item, and its events."""
    import pyarrow as pa

    n_pairs, events = np.zeros((2, n_items), dtype=np.int64)
    for path in parts:
        with pa.memory_map(str(path)) as stored:
            items, part_pairs, part_events = pa.ipc.open_file(stored).get_batch(0).columns
            n_pairs[items.to_numpy()] += part_pairs.to_numpy()
            events[items.to_numpy()] += part_events.to_numpy()
    return n_pairs, events


def item_blocks(sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Blocks of consecutive items of these sizes (pairs): each has about BLOCK_PAIRS, or one item
    that has more. An item counts as one pair more, so that those without pairs fill blocks, too."""
    return list(ranges(sizes + 1, BLOCK_PAIRS))


def write_block(
    parts: Sequence[Path],
    block: tuple[int, int],
    events: NDArray[np.int64],
    settings: KnnSettings,
    content: Any,
    out: Path,
) -> int:
    """Write the counted pairs of a block of items with later ones, and the similar items of each:
    rows of what `CountedPairs` and `similar_items` have of all items -> the number of similar
    pairs. `content` has the block's rows of the symmetric similarity by content.

    Raises DataError for a pair that weighs too much."""
    first, stop = block
    n_items = len(events)
    of_parts = [_read_pairs(path, block, n_items) for path in parts]
    counted = sum_pairs(of_parts)
    del of_parts
    later, earlier = counted[:, :n_items], counted[:, n_items:]
    del counted
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


def _read_pairs(path: Path, block: tuple[int, int], n_items: int) -> Any:
    """(items of the block, 2 * n_items) CSR: the pairs that a part has of a block of items."""
    import pyarrow as pa
    from scipy import sparse

    first, stop = block
    with pa.memory_map(str(path)) as stored:
        file = pa.ipc.open_file(stored)
        first_items = np.frombuffer(file.schema.metadata[b"first_items"], dtype=np.uint32)
        # the batch before the first that begins within the block may end within it
        begin, end = np.searchsorted(first_items, block).tolist()
        batches = range(max(1, begin), 1 + end)
        table = pa.Table.from_batches(map(file.get_batch, batches), file.schema)
    items, others, weights = (column.to_numpy() for column in table.columns)
    inside = slice(*np.searchsorted(items, block))
    coordinates = (items[inside].astype(np.int64) - first, others[inside])
    return sparse.csr_matrix((weights[inside], coordinates), shape=(stop - first, 2 * n_items))


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
