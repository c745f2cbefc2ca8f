"""The systems of an evaluation: the model, with a memory both of its parts alone, and baselines."""

from collections.abc import Sequence

import numpy as np

from sidtool.evaluation.baselines import Catalog, item_knn, popularity
from sidtool.evaluation.metrics import find_targets, metric_names, metric_values
from sidtool.evaluation.ranking import (
    COVERED,
    IndexedExamples,
    Ranking,
    rank_memory,
    rank_mixture,
    rank_sids,
)
from sidtool.evaluation.system_values import SystemValues
from sidtool.memory.sharded import Shards, sharded_rows
from sidtool.memory.similarity import KnnSettings, item_similarity
from sidtool.model.load import LoadedModel
from sidtool.recommendation.query import Progress
from sidtool.splits.split import UserSequence


def uses_memory(loaded: LoadedModel) -> bool:
    """Whether a model's recommendations are mixed with a memory."""
    return loaded.memory is not None and loaded.memory.is_used


def rank_model(
    loaded: LoadedModel,
    examples: IndexedExamples,
    *,
    k: int,
    num_beams: int,
    progress: Progress | None = None,
) -> Ranking:
    """What a model recommends, mixed with its memory if it has one."""
    if uses_memory(loaded):
        items = rank_mixture(loaded, examples, k=k, num_beams=num_beams, progress=progress)
        return Ranking.of_item_beams(examples, items)
    sids = rank_sids(loaded, examples, k=k, num_beams=num_beams, progress=progress)
    return Ranking.of_beams(examples, sids)


def rank_parts(
    loaded: LoadedModel,
    examples: IndexedExamples,
    *,
    k: int,
    num_beams: int,
    progress: Progress | None = None,
) -> dict[str, Ranking]:
    """What the model alone and the memory alone recommend; nothing without a memory."""
    if not uses_memory(loaded):
        return {}
    sids = rank_sids(loaded, examples, k=k, num_beams=num_beams, progress=progress)
    return {
        "model alone": Ranking.of_beams(examples, sids),
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
    ids = examples.bundle.items.ids
    active_ids = [ids[index] for index in examples.bundle.active.tolist()]
    catalog = Catalog.of(active_ids, (user.items for user in events))
    histories = [catalog.index_of(example.history) for example in examples.examples]
    targets = catalog.targets([example.item for example in examples.examples])
    sequences = catalog.sequences(events)
    if shards is None:
        similarity = item_similarity(sequences, len(catalog), knn)
    else:
        _, similarity = sharded_rows(sequences, catalog.events, knn, shards, dtype=np.float64)
    exclude_seen = examples.exclude_seen
    position_of = {item: position for position, item in enumerate(active_ids)}
    # popularity rank -> position in SID order; the last entry is that of rank -1
    positions = np.array([*(position_of[item] for item in catalog.ids), -1], dtype=np.int64)
    ranked = {
        "popularity": popularity(histories, len(catalog), k, exclude_seen=exclude_seen),
        "item-knn": item_knn(similarity, histories, k, settings=knn, exclude_seen=exclude_seen),
    }
    return {
        system: SystemValues(
            metric_names(ks),
            metric_values(find_targets(items, targets), ks),
            positions[items[:, :COVERED]],
        )
        for system, items in ranked.items()
    }
