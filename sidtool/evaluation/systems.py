"""The systems beside a model in an evaluation: popularity and item-kNN."""

from collections.abc import Sequence

import numpy as np

from sidtool.data.split import Example, UserSequence
from sidtool.evaluation.baselines import Catalog, item_knn, popularity
from sidtool.evaluation.metrics import find_targets, metric_names, metric_values
from sidtool.evaluation.ranking import (
    COVERED,
    IndexedExamples,
)
from sidtool.evaluation.system_values import SystemValues
from sidtool.memory import KnnSettings, Shards, item_similarity, sharded_rows
from sidtool.model import LoadedModel
from sidtool.tokenizer import PopularityRanks, SidPositions
from sidtool.tokenizer.bundle import Bundle


def uses_memory(loaded: LoadedModel) -> bool:
    """Whether a model's recommendations are mixed with a memory."""
    return loaded.memory is not None and loaded.memory.is_used


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
    rows = examples.bundle.items.rows(catalog.ids)
    # popularity rank -> position in SID order; the last entry is that of rank -1
    positions = np.append(examples.bundle.trie().positions_of(rows), -1)
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
    ids = bundle.items.ids
    return Catalog.of([ids[row] for row in bundle.active.tolist()], (user.items for user in events))


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
