"""Popularity and item-kNN: the baselines that every model is compared with, on the same examples.

Both are fitted on training events only: a history may contain later events, the counts never do.
Equal scores rank by popularity, then by id."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.ranges import ranges
from sidtool.base.threads import in_threads
from sidtool.data.split import Example, Ragged, UserSequence
from sidtool.data.split.pairs import numbered_sequences
from sidtool.evaluation.ranking import ITEM_KNN, POPULARITY, IndexedExamples, SystemValues
from sidtool.memory import (
    KnnSettings,
    Shards,
    SparseRows,
    count_events,
    history_scores,
    item_similarity,
    padded_rows,
)
from sidtool.tokenizer.sid import ItemRows, PopularityRanks

CHUNK = 1024
"""Histories that are ranked together."""
FILLED = 1 << 22
"""Popular items that are looked through together."""


UNTUNED = KnnSettings()


def baseline_values(
    examples: IndexedExamples,
    events: Sequence[UserSequence],
    ks: Sequence[int],
    *,
    k: int,
    shards: Shards | None = None,
    threads: int = 1,
) -> dict[str, SystemValues]:
    """Popularity and item-kNN, fitted on training events and applied to whole histories; k items
    are ranked. With `shards`, the similarities are computed within its budget, in files. The
    ranking is the same for any number of threads."""
    ranked = rank_baselines(examples, events, k=k, shards=shards, threads=threads)
    positions_of = examples.bundle.trie().positions_of
    return {
        system: SystemValues.of_items(examples, positions_of(rows), ks)
        for system, rows in ranked.items()
    }


def rank_baselines(
    examples: IndexedExamples,
    events: Sequence[UserSequence],
    *,
    k: int,
    shards: Shards | None = None,
    threads: int = 1,
) -> dict[str, ItemRows]:
    """By baseline: (n, k) active items by their rows in the bundle, best first, for the whole
    histories of n examples; -1 where there are no more. Other arguments as in `baseline_values`."""
    items, active = examples.bundle.items, examples.bundle.active
    order, sequences = by_popularity([items.ids[row] for row in active.tolist()], events)
    rows = np.append(active[order], -1)  # of each rank; the last one is that of rank -1
    ranks = np.full(len(items), -1, dtype=np.int64)  # of each row
    ranks[rows[:-1]] = np.arange(len(order))
    in_ranks = (ranks[history] for history in examples.histories)
    histories = [PopularityRanks(history[history >= 0]) for history in in_ranks]
    similarity = item_similarity(sequences, len(order), UNTUNED, shards, threads)
    exclude_seen = examples.exclude_seen
    ranked = {
        POPULARITY: popularity(histories, len(order), k, exclude_seen=exclude_seen),
        ITEM_KNN: item_knn(
            similarity, histories, k, settings=UNTUNED, exclude_seen=exclude_seen, threads=threads
        ),
    }
    return {system: ItemRows(rows[system_ranks]) for system, system_ranks in ranked.items()}


def by_popularity(
    ids: Sequence[str], users: Sequence[UserSequence]
) -> tuple[NDArray[np.int64], Ragged]:
    """Items from the most popular one on, by training events, ties by id, as (items,) indexes into
    `ids`; and the training events of each user by popularity rank, without other items."""
    sequences = numbered_sequences(users, ids)
    counts = count_events(sequences, len(ids)).tolist()
    places = sorted(range(len(ids)), key=lambda place: (-counts[place], ids[place]))
    order = np.array(places, dtype=np.int64)
    ranks = np.empty(len(ids), dtype=np.int32)
    ranks[order] = np.arange(len(ids))
    return order, replace(sequences, values=ranks[sequences.values])


def popularity(
    histories: Sequence[PopularityRanks], items: int, k: int, *, exclude_seen: bool
) -> PopularityRanks:
    """(n, k) items, the most popular first, for n histories; -1 where there are no more items."""
    nothing = np.full((len(histories), 0), -1, dtype=np.int64)
    return _filled(nothing, _seen(histories, exclude_seen), items, k)


def item_knn(
    similarity: SparseRows,
    histories: Sequence[PopularityRanks],
    k: int,
    *,
    settings: KnnSettings,
    exclude_seen: bool,
    threads: int = 1,
) -> PopularityRanks:
    """(n, k) items, best first, for n histories; -1 where there are no more items.

    An item's score is the sum of its similarities to the items of the history. Items without any
    come last, by popularity. Scores are compared in float32, so that sums which differ by rounding
    alone tie."""

    def ranked(start: int) -> NDArray[np.int64]:
        chunk = histories[start : start + CHUNK]
        seen = _seen(chunk, exclude_seen)
        # (chunk, items), sparse
        scores = history_scores(similarity, chunk, settings.recency)
        best = _best(scores, k + int(seen.lengths.max()))
        return _filled(best, seen, len(similarity), k)

    nobody = np.zeros((0, k), dtype=np.int64)
    parts = in_threads(ranked, range(0, len(histories), CHUNK), threads)
    return PopularityRanks(np.concatenate([nobody, *parts]))


def _seen(histories: Sequence[PopularityRanks], exclude_seen: bool) -> Ragged:
    """The items that are not recommended for each history."""
    seen = Ragged.of_lists(histories)
    return seen if exclude_seen else Ragged.of_lengths(seen.values[:0], 0 * seen.lengths)


def _best(scores: Any, count: int) -> NDArray[np.int64]:
    """(n, count or fewer): the items of the highest positive scores of (n, items) CSR, compared in
    float32, best first, ties by popularity; -1 where there are no more. Items are columns of
    `scores`, which are popularity ranks."""
    values = scores.data.astype(np.float32)
    # one number per score sorts by score, then by popularity: its high half are the bits of the
    # score, which sort as positive floats do, its low half is the complement of the rank
    score_bits = values.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys = score_bits | (~scores.indices.astype(np.uint32)).astype(np.uint64)
    keys[values == 0] = 0
    n = scores.shape[0]
    width = min(count, int(np.diff(scores.indptr).max(initial=0)))
    best = np.full((n, width), -1, dtype=np.int64)
    if not width:
        return best
    for rows, block in padded_rows(keys, scores.indptr, np.arange(n), 0, width):
        block.partition(block.shape[1] - width, axis=1)
        best_keys = np.sort(block[:, -width:], axis=1)[:, ::-1]
        ranks = (~best_keys.astype(np.uint32)).astype(np.int64)  # of the low half
        best[rows] = np.where(best_keys > 0, ranks, -1)
    return best


def _filled(best: NDArray[np.int64], seen: Ragged, items: int, k: int) -> PopularityRanks:
    """(n, k), the first k of: the (n, m) best items, then all others by popularity, without those
    seen; -1 where there are no more items. Items are popularity ranks, 0 the most popular."""
    ranked = np.full((len(best), k), -1, dtype=np.int64)
    # among the `width` most popular, k are left even without the k best and all that are seen
    width = min(items, 2 * k + int(seen.lengths.max(initial=0)))
    for start, stop in ranges(np.full(len(best), width + best.shape[1]), FILLED):
        block = ranked[start:stop]
        best_block = best[start:stop]
        seen_block = seen[start:stop]
        seen_items = seen_block.joined
        rows = np.arange(len(block))
        seen_rows = np.repeat(rows, seen_block.lengths)
        # a row and an item as one number, to look for the pair among those seen
        best_pairs = rows[:, None] * items + best_block
        seen_pairs = seen_rows * items + seen_items
        is_unseen = (best_block >= 0) & ~np.isin(best_pairs, seen_pairs)
        unseen_first = np.argsort(~is_unseen, axis=1, kind="stable")[:, :k]
        first = np.take_along_axis(np.where(is_unseen, best_block, -1), unseen_first, axis=1)
        block[:, : first.shape[1]] = first
        # (block, width): the popular items that are neither seen nor among the first
        is_free = np.ones((len(block), width), dtype=np.bool_)
        is_popular = seen_items < width
        is_free[seen_rows[is_popular], seen_items[is_popular]] = False
        first_rows, columns = np.nonzero((first >= 0) & (first < width))
        is_free[first_rows, first[first_rows, columns]] = False
        # where each free item would stand: behind the first, in the order of popularity
        n_first = (first >= 0).sum(axis=1, keepdims=True)
        places = n_first + is_free.cumsum(axis=1) - 1
        free_rows, free_items = np.nonzero(is_free & (places < k))
        block[free_rows, places[free_rows, free_items]] = free_items
    return PopularityRanks(ranked)


MOST_EVENTS = 2_000_000
"""Of more events, item-kNN would take minutes."""


def item_knn_metrics(
    examples: Sequence[Example], sample: IndexedExamples, k: int
) -> dict[str, float]:
    """HR@K and NDCG@K of item-kNN on a sample of validation examples, from the histories of all
    users before their first validation event; nothing for more than MOST_EVENTS.

    These are the training events of a split that holds out the last events of each user."""
    histories = {example.user: example.history for example in reversed(examples)}
    if sum(map(len, histories.values())) > MOST_EVENTS:
        return {}
    events = [
        UserSequence(user, items, tuple(range(len(items)))) for user, items in histories.items()
    ]
    values = baseline_values(sample, events, [k], k=k)[ITEM_KNN]
    return {
        name: float(mean)
        for name, mean in zip(values.names, values.values.mean(axis=0), strict=True)
        if not name.startswith("mrr")
    }
