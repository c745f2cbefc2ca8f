"""Chooses the settings of the baseline item-kNN on validation examples."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from popular_catalog import Catalog

from sidtool.data.split.values import Example
from sidtool.evaluation.baselines import UNTUNED, item_knn
from sidtool.evaluation.metrics import find_targets, metric_values
from sidtool.evaluation.tuning.memory_tuning import Grid, coordinate_search
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.similarity import item_similarity

GRID: Grid = {
    "recency": (1.0, 0.9, 0.75, 0.6, 0.45, 0.3),
    "shrinkage": (0.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
    "distance": (1.0, 0.95, 0.85, 0.7, 0.5),
    "neighbors": (None, 200, 100, 50),
}
"""The values that are tried: of the classical settings alone, so that the baseline can be compared
with published ones."""


def tune_item_knn(
    catalog: Catalog, valid: Sequence[Example], *, exclude_seen: bool, grid: Grid = GRID
) -> KnnSettings:
    """The settings with the best NDCG@10 on validation examples, never test examples: one setting
    after the other from UNTUNED, in two rounds. Equal results keep the earlier setting."""
    histories = [catalog.index_of(example.history) for example in valid]
    targets = catalog.targets([example.item for example in valid])

    def ndcg(values: dict[str, Any]) -> float:
        settings = KnnSettings(**values)
        similarity = item_similarity(catalog.sequences, len(catalog), settings)
        ranked = item_knn(similarity, histories, 10, settings=settings, exclude_seen=exclude_seen)
        return float(metric_values(find_targets(ranked, targets), [10])[:, 1].mean())

    best, _ = coordinate_search(asdict(UNTUNED), grid, ndcg)
    return KnnSettings(**best)
