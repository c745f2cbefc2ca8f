"""Popularity and item-kNN: what any model must be measured against, on the same questions.

Knows training events and histories as numbers of a catalog; knows nothing of models or semantic
IDs. Both learn from training events only: a history may hold later ones, the counts never do. Equal
scores rank by popularity, then by id."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.cooccurrence import co_occurrence
from sidtool.data.splits import Example, UserSequence
from sidtool.errors import DataError
from sidtool.evaluate.metrics import find_targets, metric_values

Numbers = NDArray[np.int64]
"""(m,) item numbers of a catalog."""
CHUNK = 1024
"""Histories scored together."""


@dataclass(frozen=True)
class Catalog:
    """The items that may be recommended, numbered by popularity: number 0 has the most training
    events, ties by id."""

    ids: tuple[str, ...]
    events: NDArray[np.int64]
    """(items,): training events of each."""
    index: Mapping[str, int]

    @classmethod
    def of(cls, ids: Sequence[str], sequences: Sequence[Sequence[str]]) -> "Catalog":
        """The catalog of some ids, counted in the users' training sequences; other items in these
        do not count."""
        counts = dict.fromkeys(ids, 0)
        for items in sequences:
            for item in items:
                if item in counts:
                    counts[item] += 1
        ranked = sorted(counts, key=lambda item: (-counts[item], item))
        events = np.array([counts[item] for item in ranked], dtype=np.int64)
        return cls(tuple(ranked), events, {item: number for number, item in enumerate(ranked)})

    def __len__(self) -> int:
        return len(self.ids)

    def numbers(self, items: Sequence[str]) -> Numbers:
        """The numbers of those items that the catalog has, in the order given."""
        return np.array([self.index[item] for item in items if item in self.index], dtype=np.int64)

    def targets(self, items: Sequence[str]) -> Numbers:
        """The number of each item, -1 where the catalog lacks it."""
        return np.array([self.index.get(item, -1) for item in items], dtype=np.int64)


@dataclass(frozen=True)
class KnnSettings:
    """How item-kNN weighs events.

    Two events of a user that lie `gap` apart (1: next to each other) co-occur with weight `distance
    ** (gap - 1)`; a similarity is the co-occurrence of two items over the root of the product of
    their events, plus `shrinkage`, which distrusts rare items; with `distance` 1 and no shrinkage
    that is the cosine of the item columns. Each item keeps its `neighbors` most similar ones (all
    where None). An item of the history counts `recency ** age`, the last one's age being 0."""

    distance: float = 0.85
    shrinkage: float = 0.0
    neighbors: int | None = None
    recency: float = 0.75


UNTUNED = KnnSettings()

GRID: Mapping[str, Sequence[Any]] = {
    "recency": (1.0, 0.9, 0.75, 0.6, 0.45, 0.3),
    "shrinkage": (0.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
    "distance": (1.0, 0.95, 0.85, 0.7, 0.5),
    "neighbors": (None, 200, 100, 50),
}
"""What `tune_item_knn` tries."""


def popularity(
    histories: Sequence[Numbers], items: int, k: int, *, exclude_seen: bool
) -> NDArray[np.int64]:
    """(n, k) item numbers, the most popular first, for n histories; -1 where there are no more
    items."""
    ranked = np.full((len(histories), k), -1, dtype=np.int64)
    for row, history in enumerate(histories):
        filled = _fill(np.zeros(0, dtype=np.int64), _seen(history, exclude_seen), items, k)
        ranked[row, : len(filled)] = filled
    return ranked


def item_similarity(sequences: Sequence[Numbers], items: int, settings: KnnSettings) -> Any:
    """(items, items) scipy CSR float64: how similar the items are by the users' training sequences,
    diagonal empty."""
    from scipy import sparse

    together = co_occurrence(sequences, items, settings.distance).tocoo()
    events = np.bincount(np.concatenate([np.zeros(0, dtype=np.int64), *sequences]), minlength=items)
    lengths = np.sqrt(events[together.row] * events[together.col].astype(np.float64))
    values = together.data / (lengths + settings.shrinkage)
    similar = sparse.csr_matrix((values, (together.row, together.col)), shape=(items, items))
    return similar if settings.neighbors is None else _nearest(similar, settings.neighbors)


def item_knn(
    similar: Any,
    histories: Sequence[Numbers],
    k: int,
    *,
    settings: KnnSettings,
    exclude_seen: bool,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.int64]:
    """(n, k) item numbers, best first, for n histories; -1 where there are no more items.

    An item's score is the sum of its similarities to the items of the history. Items without any
    come last, by popularity. Scores are compared in float32, so that sums that differ by rounding
    alone tie. (B. Sarwar et al., WWW 2001; the recency weights as in session-based kNN.)"""
    ranked = np.full((len(histories), k), -1, dtype=np.int64)
    for start in range(0, len(histories), CHUNK):
        chunk = histories[start : start + CHUNK]
        scores = (_weights(chunk, similar.shape[0], settings.recency) @ similar).astype(np.float32)
        scores.eliminate_zeros()
        for row, history in enumerate(chunk):
            part = slice(scores.indptr[row], scores.indptr[row + 1])
            seen = _seen(history, exclude_seen)
            best = _best(scores.indices[part], scores.data[part], k + len(seen))
            filled = _fill(best, seen, similar.shape[0], k)
            ranked[start + row, : len(filled)] = filled
        if progress is not None:
            progress(start + len(chunk), len(histories))
    return ranked


def tune_item_knn(
    catalog: Catalog,
    train: Sequence[UserSequence],
    valid: Sequence[Example],
    *,
    exclude_seen: bool,
    grid: Mapping[str, Sequence[Any]] = GRID,
    progress: Callable[[int, int], None] | None = None,
) -> KnnSettings:
    """The settings with the best NDCG@10 on valid examples: one setting after the other from
    UNTUNED, in two rounds.

    Never give it test examples. Equal results keep the earlier setting. Raises DataError without
    examples."""
    if not valid:
        raise DataError("there are no valid examples to tune item-kNN on")
    sequences = [catalog.numbers(user.items) for user in train]
    histories = [catalog.numbers(example.history) for example in valid]
    targets = catalog.targets([example.item for example in valid])

    def quality(settings: KnnSettings) -> float:
        similar = item_similarity(sequences, len(catalog), settings)
        ranked = item_knn(similar, histories, 10, settings=settings, exclude_seen=exclude_seen)
        return float(metric_values(find_targets(ranked, targets), [10])[:, 1].mean())

    tried = {UNTUNED: quality(UNTUNED)}
    trials = [(name, value) for _ in range(2) for name, values in grid.items() for value in values]
    for done, (name, value) in enumerate(trials):
        candidate = replace(max(tried, key=tried.__getitem__), **{name: value})
        if candidate not in tried:
            tried[candidate] = quality(candidate)
        if progress is not None:
            progress(done + 1, len(trials))
    return max(tried, key=tried.__getitem__)


def _nearest(similar: Any, neighbors: int) -> Any:
    """The largest entries of each row, ties by item number."""
    from scipy import sparse

    rows = np.repeat(np.arange(similar.shape[0]), np.diff(similar.indptr))
    order = np.lexsort((similar.indices, -similar.data, rows))
    kept = order[np.arange(len(order)) - similar.indptr[rows] < neighbors]
    return sparse.csr_matrix(
        (similar.data[kept], (rows[kept], similar.indices[kept])), shape=similar.shape
    )


def _weights(histories: Sequence[Numbers], items: int, recency: float) -> Any:
    """(n, items) CSR: what each item of each history counts; a repeated one counts each time."""
    from scipy import sparse

    lengths = [len(history) for history in histories]
    ages = np.concatenate([np.zeros(0), *(np.arange(length)[::-1] for length in lengths)])
    rows = np.repeat(np.arange(len(histories)), lengths)
    columns = np.concatenate([np.zeros(0, dtype=np.int64), *histories])
    return sparse.csr_matrix((recency**ages, (rows, columns)), shape=(len(histories), items))


def _best(numbers: NDArray[np.int32], scores: NDArray[np.float32], k: int) -> Numbers:
    """The numbers of the k best of positive scores, best first, ties by number."""
    # positive floats sort as their bits do; below the bits, the complement of the number decides
    # ties
    keys = (scores.view(np.uint32).astype(np.uint64) << np.uint64(32)) | (
        ~numbers.astype(np.uint32)
    ).astype(np.uint64)
    if k < len(keys):
        keys = np.partition(keys, len(keys) - k)[len(keys) - k :]
    return (~np.sort(keys)[::-1].astype(np.uint32)).astype(np.int64)


def _seen(history: Numbers, exclude_seen: bool) -> Numbers:
    return history if exclude_seen else history[:0]


def _fill(best: Numbers, seen: Numbers, items: int, k: int) -> Numbers:
    """The first k of: the best, then all other items by popularity, without those seen."""
    best = best[~np.isin(best, seen)][:k]
    if len(best) == k:
        return best
    popular = np.arange(
        min(items, k + len(seen))
    )  # at most k - len(best) of them are needed, the rest may be taken
    return np.concatenate([best, popular[~np.isin(popular, np.concatenate([best, seen]))]])[:k]
