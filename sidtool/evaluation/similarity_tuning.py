"""Chooses the settings of a memory, or of item-kNN, on validation users, by NDCG@10 of it alone.

The counts of pairs, by direction, and the nearest items by content are computed once; each trial
weighs them anew, and ranks as the memory that is built does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from sidtool.base.errors import DataError
from sidtool.base.options import check_options, option, options_from
from sidtool.data.split import Split, evenly_spaced
from sidtool.data.split.pairs import item_sequences
from sidtool.evaluation.metrics import find_targets, metric_values
from sidtool.evaluation.ranking import IndexedExamples, rank_index
from sidtool.memory import (
    DEFAULT,
    CountedPairs,
    ItemContent,
    KnnSettings,
    MemoryIndex,
    content_similarity,
    count_events,
    similar_items,
)
from sidtool.model.contract import check_bundle_split
from sidtool.recommendation.search import SeenOptions
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows

Grid = Mapping[str, Sequence[Any]]
"""The values to try of each setting."""
Settings = dict[str, Any]

ROUNDS = 2
"""The second round sees the other settings' choices of the first."""
K = 10
"""Cut-off of the metric."""
CONTENT = "content_weight"
GRID: Grid = {
    "normalization": (0.5, 0.4, 0.3, 0.2, 0.1),
    CONTENT: (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
    "recency": (1.0, 0.9, 0.75, 0.6, 0.45, 0.3),
    "reverse": (1.0, 0.7, 0.5, 0.3, 0.1, 0.0),
    "distance": (1.0, 0.95, 0.85, 0.7, 0.5),
    "shrinkage": (0.0, 1.0, 2.0, 5.0, 10.0, 20.0),
}
"""The values that are tried, those that matter most first."""


@dataclass(frozen=True, kw_only=True)
class TuneSimilarityOptions(SeenOptions):
    """How settings are chosen. Raises UsageError for fewer than one user."""

    users: int | None = option(5000, minimum=1)
    """Validation examples for --tune, evenly spread."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that are not tuned, by name: fields of KnnSettings, and `content_weight`."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, eq=False)
class TunedSimilarity:
    """What was chosen for a memory."""

    settings: KnnSettings
    content: ItemContent | None
    """None if items are not similar by content"""
    users: int
    """validation examples that it was chosen on"""
    ndcg: float
    """NDCG@10 of the memory alone on them"""
    start_ndcg: float
    """the same with the settings that the search started from"""


def tune_similarity(
    split: Split,
    bundle: Bundle,
    content: ItemContent | None = None,
    options: TuneSimilarityOptions | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    **given: Any,
) -> TunedSimilarity:
    """The settings of a memory with the best NDCG@10 on validation examples of a split. The options
    may also be given as keywords.

    Test examples are not read. Raises DataError without validation examples, CompatibilityError if
    the bundle's codebook may have learned from held-out events, RefusedError if a held-out event is
    among the training events."""
    options = options_from(TuneSimilarityOptions, options, given)
    options = options.with_seen(split.reference.targets_repeat)
    check_bundle_split(bundle, "the split of the memory", split.reference)
    if not split.valid:
        raise DataError("the split has no validation examples to tune the memory on")
    trials = _trials(split, bundle, content, options)
    start = asdict(DEFAULT) | {CONTENT: 0.0 if content is None else content.settings.weight}
    start |= options.fixed
    names = GRID.keys() - options.fixed.keys() - ({CONTENT} if content is None else set())
    grid = {name: values for name, values in GRID.items() if name in names}
    best, ndcg = coordinate_search(start, grid, trials, progress)
    weight = best.pop(CONTENT)
    chosen = content.weighted(weight) if content is not None and weight else None
    users = len(evenly_spaced(split.valid, options.users))
    return TunedSimilarity(KnnSettings(**best), chosen, users, ndcg, trials(start))


def _trials(
    split: Split, bundle: Bundle, content: ItemContent | None, options: TuneSimilarityOptions
) -> Callable[[Settings], float]:
    """The NDCG@10 of settings, as a function of them."""
    ids = list(bundle.items.ids)
    n = len(ids)
    sequences = item_sequences(split, ids)
    events = count_events(sequences, n)
    chosen = evenly_spaced(split.valid, options.users)
    examples = IndexedExamples.of(bundle, chosen, exclude_seen=bool(options.exclude_seen))
    targets = examples.target_positions

    @cache
    def pairs(distance: float) -> CountedPairs:
        return CountedPairs.count(sequences, n, distance)

    @lru_cache(maxsize=1)  # trials of recency have the same similarities
    def index_of(weight: float, settings: KnnSettings) -> MemoryIndex:
        weighted = None
        if content is not None and weight:
            weighted = content_similarity(content.nearest, weight, events)
        neighbors = similar_items(pairs(settings.distance), events, settings, weighted)
        return MemoryIndex.of_neighbors(neighbors, events, 1.0, bundle, ItemRows(np.arange(n)))

    def ndcg(values: Settings) -> float:
        weight = values[CONTENT]
        settings = KnnSettings(**{name: values[name] for name in values if name != CONTENT})
        index = index_of(weight, replace(settings, recency=1.0))
        index = replace(index, recency=settings.recency)
        ranked = rank_index(index, examples, power=1.0, k=K)
        return float(metric_values(find_targets(ranked, targets), [K])[:, 1].mean())

    return ndcg


def coordinate_search(
    start: Mapping[str, Any],
    grid: Grid,
    quality: Callable[[Settings], float],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Settings, float]:
    """The settings with the best quality, and that quality: from `start`, every value of one
    setting after the other, in ROUNDS. Equal results keep the earlier setting."""
    best = dict(start)
    qualities = {tuple(best.values()): quality(best)}
    trials = [(name, value) for name, values in grid.items() for value in values] * ROUNDS
    for done, (name, value) in enumerate(trials, start=1):
        candidate = best | {name: value}
        key = tuple(candidate.values())
        if key not in qualities:
            qualities[key] = quality(candidate)
        if qualities[key] > qualities[tuple(best.values())]:
            best = candidate
        if progress is not None:
            progress(done, len(trials))
    return best, qualities[tuple(best.values())]
