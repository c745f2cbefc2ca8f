"""The systems of an evaluation: the model, with a memory both of its parts alone, and baselines."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from sidtool.base.progress import Progress
from sidtool.data.split.split import Example, UserSequence
from sidtool.evaluation.baselines import Catalog, item_knn, popularity
from sidtool.evaluation.metrics import find_targets, metric_names, metric_values
from sidtool.evaluation.ranking import (
    COVERED,
    IndexedExamples,
    Ranker,
    Ranking,
    rank_examples,
    rank_memory,
)
from sidtool.evaluation.system_values import SystemValues
from sidtool.memory.sharded import Shards, sharded_rows
from sidtool.memory.similarity import KnnSettings, item_similarity
from sidtool.model.load import LoadedModel
from sidtool.recommendation.search.results import Normalize
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.index_spaces import PopularityRanks, SidPositions


def uses_memory(loaded: LoadedModel) -> bool:
    """Whether a model's recommendations are mixed with a memory."""
    return loaded.memory is not None and loaded.memory.is_used


def rank_model(
    loaded: LoadedModel,
    examples: IndexedExamples,
    *,
    k: int,
    num_beams: int,
    normalize: Normalize | None = None,
    progress: Progress | None = None,
    ranker: Ranker | None = None,
) -> Ranking:
    """What a model recommends, mixed with its memory if it has one; ranked by the `ranker` of the
    model, if there is one. Scores are normalized as the model was trained unless given."""
    ranker = ranker or partial(rank_examples, loaded)
    ranked = ranker(
        examples,
        k=k,
        num_beams=num_beams,
        is_mixed=uses_memory(loaded),
        normalize=normalize,
        progress=progress,
    )
    return Ranking.of(examples, ranked)


def rank_parts(
    loaded: LoadedModel,
    examples: IndexedExamples,
    *,
    k: int,
    num_beams: int,
    normalize: Normalize | None = None,
    progress: Progress | None = None,
    ranker: Ranker | None = None,
) -> dict[str, Ranking]:
    """What the model alone and the memory alone recommend; nothing without a memory."""
    if not uses_memory(loaded):
        return {}
    ranker = ranker or partial(rank_examples, loaded)
    sids = ranker(
        examples,
        k=k,
        num_beams=num_beams,
        is_mixed=False,
        normalize=normalize,
        progress=progress,
    )
    return {
        "model alone": Ranking.of(examples, sids),
        "memory alone": Ranking.of_items(examples, rank_memory(loaded, examples, k=k)),
    }


def baseline_values(
    examples: IndexedExamples,
    events: Sequence[UserSequence],
    ks: Sequence[int],
    knn: KnnSettings,
    *,
    k: int,
    shards: Shards | None = None,
) -> dict[str, SystemValues]:
    """Popularity and item-kNN, fitted on training events and applied to whole histories; k items
    are ranked. With `shards`, the similarities are computed within its budget, in files."""
    active_ids = _active_ids(examples.bundle)
    catalog = catalog_of(examples.bundle, events)
    ranked = rank_baselines(
        catalog,
        examples.examples,
        events,
        knn,
        k=k,
        exclude_seen=examples.exclude_seen,
        shards=shards,
    )
    targets = catalog.targets([example.item for example in examples.examples])
    position_of = {item: position for position, item in enumerate(active_ids)}
    # popularity rank -> position in SID order; the last entry is that of rank -1
    positions = np.array([*(position_of[item] for item in catalog.ids), -1], dtype=np.int64)
    return {
        system: SystemValues(
            metric_names(ks),
            metric_values(find_targets(items, targets), ks),
            SidPositions(positions[items[:, :COVERED]]),
        )
        for system, items in ranked.items()
    }


def catalog_of(bundle: Bundle, events: Sequence[UserSequence]) -> Catalog:
    """The active items of a bundle by popularity in training events."""
    return Catalog.of(_active_ids(bundle), (user.items for user in events))


def rank_baselines(
    catalog: Catalog,
    examples: Sequence[Example],
    events: Sequence[UserSequence],
    knn: KnnSettings,
    *,
    k: int,
    exclude_seen: bool,
    shards: Shards | None = None,
) -> dict[str, PopularityRanks]:
    """By baseline: (n, k) items by popularity rank, best first, for the whole histories of n
    examples; -1 where there are no more. `shards` as in `baseline_values`."""
    histories = [catalog.index_of(example.history) for example in examples]
    sequences = catalog.sequences(events)
    if shards is None:
        similarity = item_similarity(sequences, len(catalog), knn)
    else:
        _, similarity = sharded_rows(sequences, catalog.events, knn, shards, dtype=np.float64)
    return {
        "popularity": popularity(histories, len(catalog), k, exclude_seen=exclude_seen),
        "item-knn": item_knn(similarity, histories, k, settings=knn, exclude_seen=exclude_seen),
    }


def _active_ids(bundle: Bundle) -> list[str]:
    """The ids of the active items, in SID order."""
    ids = bundle.items.ids
    return [ids[index] for index in bundle.active.tolist()]
