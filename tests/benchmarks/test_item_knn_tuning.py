from typing import Any

import numpy as np

from sidtool.data.split.values import Example, UserSequence
from sidtool.evaluation.baselines import UNTUNED, item_knn
from sidtool.evaluation.metrics import find_targets, metric_values
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.similarity import item_similarity


def test_tuning_selects_the_last_item_where_only_it_matters() -> None:
    """Items come in pairs that follow each other; everything earlier in a history is noise."""
    from item_knn_tuning import tune_item_knn
    from popular_catalog import Catalog

    rng = np.random.default_rng(0)
    ids = [f"i{number:02}" for number in range(40)]

    def walk() -> list[str]:
        pairs = rng.permutation(20)[:5]
        return [ids[2 * pair + step] for pair in pairs for step in (0, 1)]

    train = [UserSequence(f"u{user}", tuple(walk()), tuple(range(10))) for user in range(150)]
    catalog = Catalog.of(ids, train)
    walks = [walk() for _ in range(100)]
    valid = [Example(f"v{row}", tuple(items[:-1]), items[-1], 9) for row, items in enumerate(walks)]
    grid = {"recency": (1.0, 0.75, 0.3), "distance": (1.0, 0.5)}
    best = tune_item_knn(catalog, valid, exclude_seen=True, grid=grid)
    assert quality(catalog, valid, best) >= quality(catalog, valid, UNTUNED)
    flat = KnnSettings(distance=1.0, recency=1.0)
    assert quality(catalog, valid, best) > quality(catalog, valid, flat)


def quality(catalog: Any, valid: list[Example], settings: KnnSettings) -> float:
    similar = item_similarity(catalog.sequences, len(catalog), settings)
    histories = [catalog.index_of(example.history) for example in valid]
    ranked = item_knn(similar, histories, 10, settings=settings, exclude_seen=True)
    targets = catalog.targets([example.item for example in valid])
    return float(metric_values(find_targets(ranked, targets), (10,))[:, 1].mean())
