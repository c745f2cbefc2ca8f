"""Item-item similarity of training events, and the score of items for a history.

Item-kNN (B. Sarwar et al., WWW 2001) with recency weights as in session-based kNN. The baseline of
an evaluation and the memory of a model are both computed here."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.ranges import ranges
from sidtool.base.threads import in_threads
from sidtool.data.split import Ragged
from sidtool.data.split.pairs import BLOCK_PAIRS, count_blocks, pair_weights, sum_pairs
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.rows import (
    Shards,
    SparseRows,
    padded_rows,
    row_entries,
    rows_in_files,
    store_rows,
)

GROUP_ENTRY = 80
"""Bytes at the peak for each pair of a group of users, and for each pair of a block of items below.
benchmarks/memory_scale.py measures both."""
BLOCK_ENTRY = 160
BLOCK_ENTRIES = 1 << 19
"""Entries of a block of items, fewer within a budget: their arrays fit into a core's cache."""


@dataclass(frozen=True, eq=False)
class CountedPairs:
    """How often n items co-occur, by order, as int64 counts of `count_pairs`."""

    later: SparseRows
    """The row is the earlier item"""
    earlier: SparseRows
    """The transpose"""

    @classmethod
    def of(
        cls, later: SparseRows, shards: Shards | None = None, threads: int = 1
    ) -> "CountedPairs":
        """The counts and their transpose, which lies in files of the shards' folder if they are
        given."""
        from scipy import sparse

        def transposed(block: tuple[int, int]) -> Any:
            return later.block(*block).T.tocsr()  # (n, items of the block)

        limit = _group_pairs(len(later), shards, threads)
        blocks = in_threads(transposed, ranges(np.diff(later.offsets), limit), threads)
        join = partial(sparse.hstack, format="csr")
        return cls(later, _combined("earlier", blocks, join, shards, threads))

    @classmethod
    def count(
        cls,
        sequences: Sequence[NDArray[np.integer[Any]]],
        n_items: int,
        distance: float,
        shards: Shards | None = None,
        threads: int = 1,
    ) -> "CountedPairs":
        """The pairs of users' sequences; the same for any number of threads.

        With shards, more than fits into their budget lies in files: pairs are counted for a group
        of events at a time, and summed for a block of items at a time. Counts are integers, so the
        result is the same. Raises UsageError if the budget is too small for the items, DataError
        if the disk is full."""
        limit = _group_pairs(n_items, shards, threads)
        counts = count_blocks(sequences, n_items, distance, limit=limit, threads=threads)
        return cls.of(_combined("later", counts, sum_pairs, shards, threads), shards, threads)


def _group_pairs(n_items: int, shards: Shards | None, threads: int) -> int:
    """Pairs that are counted or transposed together: as many as fit into a budget, else several for
    each item, whose offsets every block has."""
    if shards is not None:
        return shards.entries(n_items, GROUP_ENTRY, threads)
    return max(BLOCK_PAIRS, 4 * n_items)


def _combined(
    name: str,
    matrices: Iterable[Any],
    combine: Callable[[Sequence[Any]], Any],
    shards: Shards | None,
    threads: int,
) -> SparseRows:
    """What a function makes of CSR matrices of counted pairs with equally many rows, for a block of
    rows at a time."""

    def stored(numbered: tuple[int, Any]) -> tuple[SparseRows, int]:
        number, matrix = numbered
        rows = SparseRows.of(matrix, np.int64)
        if shards is not None:
            rows = rows_in_files(f"{name}-{number}", [rows], np.int64, shards.folder)
        return rows, matrix.shape[1]

    parts, n_columns = zip(*in_threads(stored, enumerate(matrices), threads), strict=True)
    if len(parts) == 1:
        return parts[0]

    def combined(block: tuple[int, int]) -> SparseRows:
        blocks = [p.block(*block, n) for p, n in zip(parts, n_columns, strict=True)]
        return SparseRows.of(combine(blocks), np.int64)

    sizes = np.zeros(len(parts[0]), dtype=np.int64)
    for part in parts:
        sizes += np.diff(part.offsets)
    blocks = in_threads(combined, _blocks(sizes, shards, threads), threads)
    total = store_rows(name, blocks, sizes, np.int64, shards)
    if shards is not None:
        shards.remove(f"{name}-")
    return total


def item_similarity(
    sequences: Sequence[NDArray[np.integer[Any]]],
    items: int,
    settings: KnnSettings,
    shards: Shards | None = None,
    threads: int = 1,
) -> SparseRows:
    """(items, items) float64: similarity of each item, the row, to those that users' training
    sequences have with it, with an empty diagonal; `shards` and `threads` as in
    `CountedPairs.count`."""
    pairs = CountedPairs.count(sequences, items, settings.distance, shards, threads)
    events = count_events(sequences, items)
    return similar_items(pairs, events, settings, shards=shards, threads=threads, dtype=np.float64)


def count_events(sequences: Sequence[NDArray[np.integer[Any]]], items: int) -> NDArray[np.int64]:
    """(items,) int64: the number of events of each item."""
    return np.bincount(Ragged.of_lists(sequences).joined, minlength=items)


def similar_items(
    pairs: CountedPairs,
    events: NDArray[np.int64],
    settings: KnnSettings,
    content: Any = None,
    *,
    shards: Shards | None = None,
    threads: int = 1,
    dtype: Any = np.float32,
) -> SparseRows:
    """(n, n) similarity by counted pairs and the (n,) events of each item, computed for a block of
    items at a time.

    The similarity of item i to item j is the weight of j after i, plus `reverse` times that of j
    before i, over the shrinkage plus a power of the product of their numbers of events. `content`,
    an (n, n) CSR matrix above the diagonal, is added. With `shards` the result lies in files of
    their folder. Raises UsageError and DataError as `CountedPairs.count`."""
    sizes = np.diff(pairs.later.offsets) + np.diff(pairs.earlier.offsets)
    if content is not None:
        content = (content + content.T).tocsr()
        sizes += np.diff(content.indptr)

    def block_similarity(block: tuple[int, int]) -> SparseRows:
        first, stop = block
        similar = similar_block(
            pairs.later.block(first, stop),
            pairs.earlier.block(first, stop),
            events[first:stop],
            events,
            settings,
            None if content is None else content[first:stop],
        )
        return SparseRows.of(similar, dtype)

    blocks = in_threads(block_similarity, _blocks(sizes, shards, threads), threads)
    return store_rows("neighbors", blocks, sizes, dtype, shards)


def _blocks(
    sizes: NDArray[np.int64], shards: Shards | None, threads: int
) -> Iterable[tuple[int, int]]:
    """Consecutive rows with so many entries that go through a thread together."""
    limit = BLOCK_ENTRIES
    if shards is not None:
        limit = min(limit, shards.entries(len(sizes), BLOCK_ENTRY, threads))
    return ranges(sizes, limit)


def similar_block(
    later: Any,
    earlier: Any,
    row_events: NDArray[np.int64],
    events: NDArray[np.int64],
    settings: KnnSettings,
    content: Any = None,
) -> Any:
    """(m, n) CSR: `similar_items` of m of the n items, whose pairs with later and with earlier
    items are (m, n) CSR matrices of counts."""
    from scipy import sparse

    weights = pair_weights(later, earlier, settings.reverse)
    products = np.repeat(row_events, np.diff(weights.indptr))
    values = (products * events[weights.indices].astype(np.float64)) ** settings.normalization
    values += settings.shrinkage
    np.divide(weights.data, values, out=values)
    # similarities exist only where items co-occur: the matrix is as sparse as the counts
    shape = weights.shape
    similarity = sparse.csr_matrix((values, weights.indices, weights.indptr), shape=shape)
    if content is not None:
        similarity = (similarity + content).tocsr()
    if settings.neighbors is None:
        return similarity
    return _nearest(similarity, settings.neighbors)


def history_scores(
    similarity: SparseRows, histories: Sequence[NDArray[np.integer[Any]]], recency: float
) -> Any:
    """(n, items) CSR float64: the score of every item for n histories, the sum of its similarities
    to the items of the history, each weighted by its age. Only the rows of the histories' items are
    read."""
    from scipy import sparse

    ragged = Ragged.of_lists(histories)
    items, columns = np.unique(ragged.joined, return_inverse=True)
    rows = np.repeat(np.arange(len(ragged)), ragged.lengths)
    entries = (age_weights(ragged.lengths, recency), (rows, columns))
    # repeated items of a history add up
    weights = sparse.csr_matrix(entries, shape=(len(ragged), len(items)))
    return weights @ similarity.take(items)


def age_weights(lengths: Sequence[int] | NDArray[np.int64], recency: float) -> NDArray[np.float64]:
    """(events,) float64: the weight of each event of histories of these lengths, oldest first."""
    ends = np.repeat(np.cumsum(lengths, dtype=np.int64), lengths)
    ages = ends - np.arange(1, len(ends) + 1)  # the last item of a history has age 0
    return recency ** ages.astype(np.float64)


def largest(values: NDArray[np.float64], count: int) -> slice | NDArray[np.int64]:
    """The indexes of the `count` largest values, ascending; of equal ones the first."""
    if len(values) <= count:
        return slice(None)
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    indexes = np.flatnonzero(values >= threshold)
    if len(indexes) == count:
        return indexes
    ties = np.flatnonzero(values[indexes] == threshold)
    n_surplus = len(indexes) - count
    return np.delete(indexes, ties[len(ties) - n_surplus :])


def _nearest(similarity: Any, neighbors: int) -> Any:
    """The largest entries of each row; equal ones in the order of the items."""
    from scipy import sparse

    similarity.sort_indices()
    values = similarity.data
    offsets = similarity.indptr
    smallest = np.full(len(offsets) - 1, -np.inf)  # value that each row keeps
    long = np.flatnonzero(np.diff(offsets) > neighbors)
    for rows, block in padded_rows(values, offsets, long, -np.inf, neighbors):
        block.partition(block.shape[1] - neighbors, axis=1)
        smallest[rows] = block[:, -neighbors]
    near = np.flatnonzero(values >= np.repeat(smallest, np.diff(offsets)))
    near_offsets = np.searchsorted(near, offsets)
    # of the entries that equal the smallest value of a row, those at its end are too many
    surplus = np.diff(near_offsets) - neighbors
    full = np.flatnonzero(surplus > 0)
    full_rows, places = row_entries(near_offsets, full)  # as indexes into `full` and `near`
    is_tie = values[near[places]] == smallest[full][full_rows]
    ties, tie_rows = places[is_tie], full_rows[is_tie]
    # 1 for the last tie of its row, 2 for the one before it ...
    from_end = np.searchsorted(tie_rows, tie_rows, side="right") - np.arange(len(ties))
    near = np.delete(near, ties[from_end <= surplus[full][tie_rows]])
    nearest = (values[near], similarity.indices[near], np.searchsorted(near, offsets))
    return sparse.csr_matrix(nearest, shape=similarity.shape)


NEW_ITEM_GAIN = 0.5
"""How much larger similarity by content is for an item without events, as a share."""


def content_similarity(nearest: Any, weight: float, events: NDArray[np.int64]) -> Any:
    """(n, n) scipy CSR float64, above the diagonal: similarity by content of n items with so many
    training events, of which `nearest` has the powers of the cosines.

    It is larger where one of the two has few events: content is all that leads to an item without
    any."""
    from scipy import sparse

    fewer = np.minimum(np.repeat(events, np.diff(nearest.indptr)), events[nearest.indices])
    values = weight * nearest.data.astype(np.float64) * content_gain(fewer)
    return sparse.csr_matrix((values, nearest.indices, nearest.indptr), shape=nearest.shape)


def content_gain(fewer: NDArray[np.int64]) -> NDArray[np.float64]:
    """By which similarity by content is multiplied, for pairs of items of which the one with fewer
    training events has so many."""
    return np.asarray(1 + NEW_ITEM_GAIN / (1 + fewer))
