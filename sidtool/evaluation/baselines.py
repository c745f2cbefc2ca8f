"""Popularity and item-kNN: the baselines that every model is compared with, on the same examples.

Both are fitted on training events only: a history may contain later events, the counts never do.
Equal scores rank by popularity, then by id."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data.split import Example, ItemSequences, UserSequence
from sidtool.evaluation.coordinate_search import Grid, Settings, coordinate_search
from sidtool.evaluation.metrics import find_targets, metric_values
from sidtool.memory import KnnSettings, SparseRows, history_scores, item_similarity
from sidtool.tokenizer import PopularityRanks

NO_RANKS = PopularityRanks(np.zeros(0, dtype=np.int64))
CHUNK = 1024
"""Histories scored together."""


@dataclass(frozen=True)
class Catalog:
    """The items that may be recommended, most popular first: by training events, ties by id."""

    ids: tuple[str, ...]
    events: NDArray[np.int64]
    """(items,): training events of each."""
    index: Mapping[str, int]

    @classmethod
    def of(cls, ids: Sequence[str], sequences: Iterable[Sequence[str]]) -> "Catalog":
        """The catalog of some ids, counted in the users' training sequences; other items in these
        are ignored."""
        counts = dict.fromkeys(ids, 0)
        for items in sequences:
            for item in items:
                if item in counts:
                    counts[item] += 1
        ranked = sorted(counts, key=lambda item: (-counts[item], item))
        events = np.array([counts[item] for item in ranked], dtype=np.int64)
        return cls(tuple(ranked), events, {item: rank for rank, item in enumerate(ranked)})

    def __len__(self) -> int:
        return len(self.ids)

    def index_of(self, items: Sequence[str]) -> PopularityRanks:
        """The items that the catalog has, in the order given."""
        ranks = [self.index[item] for item in items if item in self.index]
        return PopularityRanks(np.array(ranks, dtype=np.int64))

    def sequences(self, users: Iterable[UserSequence]) -> ItemSequences:
        """The items of each user that the catalog has."""
        index = self.index
        return ItemSequences.of(
            [index[item] for item in user.items if item in index] for user in users
        )

    def targets(self, items: Sequence[str]) -> PopularityRanks:
        """Every item, -1 where the catalog lacks it."""
        ranks = [self.index.get(item, -1) for item in items]
        return PopularityRanks(np.array(ranks, dtype=np.int64))


UNTUNED = KnnSettings()

GRID: Grid = {
    "recency": (1.0, 0.9, 0.75, 0.6, 0.45, 0.3),
    "shrinkage": (0.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
    "distance": (1.0, 0.95, 0.85, 0.7, 0.5),
    "neighbors": (None, 200, 100, 50),
}
"""The values that `tune_item_knn` tries: of the classical settings alone, so that the baseline can
be compared with published ones. `tune_similarity` tries all."""


def popularity(
    histories: Sequence[PopularityRanks], items: int, k: int, *, exclude_seen: bool
) -> PopularityRanks:
    """(n, k) items, the most popular first, for n histories; -1 where there are no more items."""
    ranked = np.full((len(histories), k), -1, dtype=np.int64)
    for row, history in zip(ranked, histories, strict=True):
        popular = _fill(NO_RANKS, _seen(history, exclude_seen), items, k)
        row[: len(popular)] = popular
    return PopularityRanks(ranked)


def item_knn(
    similarity: Any | SparseRows,
    histories: Sequence[PopularityRanks],
    k: int,
    *,
    settings: KnnSettings,
    exclude_seen: bool,
) -> PopularityRanks:
    """(n, k) items, best first, for n histories; -1 where there are no more items.

    An item's score is the sum of its similarities to the items of the history. Items without any
    come last, by popularity. `similarity` is a scipy matrix, or rows that may lie in files. Scores
    are compared in float32, so that sums which differ by rounding alone tie."""
    items: int = (
        len(similarity.offsets) - 1 if isinstance(similarity, SparseRows) else similarity.shape[0]
    )
    ranked = np.full((len(histories), k), -1, dtype=np.int64)
    for start in range(0, len(histories), CHUNK):
        chunk = histories[start : start + CHUNK]
        # (chunk, items), sparse
        scores = _scores(similarity, chunk, settings.recency).astype(np.float32)
        scores.eliminate_zeros()
        for row, history in enumerate(chunk):
            entries = slice(scores.indptr[row], scores.indptr[row + 1])
            seen = _seen(history, exclude_seen)
            best = _best(scores.indices[entries], scores.data[entries], k + len(seen))
            filled = _fill(best, seen, items, k)
            ranked[start + row, : len(filled)] = filled
    return PopularityRanks(ranked)


def tune_item_knn(
    catalog: Catalog,
    train: Sequence[UserSequence],
    valid: Sequence[Example],
    *,
    exclude_seen: bool,
    grid: Grid = GRID,
    progress: Callable[[int, int], None] | None = None,
) -> KnnSettings:
    """The settings with the best NDCG@10 on validation examples: one setting after the other from
    UNTUNED, in two rounds.

    Never pass test examples. Equal results keep the earlier setting. Raises DataError without
    examples."""
    if not valid:
        raise DataError("there are no validation examples to tune item-kNN on")
    sequences = catalog.sequences(train)
    histories = [catalog.index_of(example.history) for example in valid]
    targets = catalog.targets([example.item for example in valid])

    def ndcg(values: Settings) -> float:
        settings = KnnSettings(**values)
        similarity = item_similarity(sequences, len(catalog), settings)
        ranked = item_knn(similarity, histories, 10, settings=settings, exclude_seen=exclude_seen)
        return float(metric_values(find_targets(ranked, targets), [10])[:, 1].mean())

    best, _ = coordinate_search(asdict(UNTUNED), grid, ndcg, progress)
    return KnnSettings(**best)


def _scores(
    similarity: Any | SparseRows, histories: Sequence[PopularityRanks], recency: float
) -> Any:
    """As `history_scores`; of stored rows only those of the histories' items are read."""
    if not isinstance(similarity, SparseRows):
        return history_scores(similarity, histories, recency)
    used = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *histories]))
    local = [np.searchsorted(used, history) for history in histories]
    return history_scores(similarity.take(used), local, recency)


def _best(items: NDArray[np.int32], scores: NDArray[np.float32], k: int) -> PopularityRanks:
    """The k items of the highest positive scores, best first, ties by popularity."""
    # positive floats sort as their bits do: these are the high half of a key whose low half is the
    # complement of the popularity rank
    high = scores.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys = high | (~items.astype(np.uint32)).astype(np.uint64)
    if k < len(keys):
        keys = np.partition(keys, len(keys) - k)[len(keys) - k :]
    descending = np.sort(keys)[::-1]
    return PopularityRanks((~descending.astype(np.uint32)).astype(np.int64))


def _seen(history: PopularityRanks, exclude_seen: bool) -> PopularityRanks:
    return history if exclude_seen else NO_RANKS


def _fill(best: PopularityRanks, seen: PopularityRanks, items: int, k: int) -> PopularityRanks:
    """The first k of: the best items, then all others by popularity, without those seen."""
    unseen = best[~np.isin(best, seen)][:k]
    if len(unseen) == k:
        return PopularityRanks(unseen)
    # at most k + len(seen) of the most popular can be needed
    popular = np.arange(min(items, k + len(seen)))
    others = popular[~np.isin(popular, np.concatenate([unseen, seen]))]
    return PopularityRanks(np.concatenate([unseen, others])[:k])
