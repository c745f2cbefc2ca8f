"""The settings of a memory that are chosen on validation users."""

from dataclasses import replace

import numpy as np
import pytest

from sidtool.base.errors import DataError, RefusedError, UsageError
from sidtool.data.split.split import Example, Split
from sidtool.evaluation.baselines import Catalog, item_knn
from sidtool.evaluation.metrics import find_targets, metric_values
from sidtool.evaluation.similarity_tuning import (
    GRID,
    TuneSimilarityOptions,
    _trials,
    tune_similarity,
)
from sidtool.memory.build import DEFAULT, build_memory
from sidtool.memory.content import ItemContent
from tests.bundles import small_bundle
from tests.memory.cases import random_histories, split_of

BUNDLE = small_bundle()
CONTENT = ItemContent.of(BUNDLE)
ITEMS = len(BUNDLE.items)


def ordered_split(users: int = 60) -> Split:
    """Users walk along a circle of items, all in the same direction."""
    rng = np.random.default_rng(0)

    def walk(length: int) -> list[str]:
        start = int(rng.integers(ITEMS))
        return [f"i{(start + step) % ITEMS}" for step in range(length)]

    split = split_of([walk(5) for _ in range(users)])
    walks = [walk(2) for _ in range(users)]
    valid = (Example(f"v{user}", (one,), other, 1) for user, (one, other) in enumerate(walks))
    return replace(split, valid=tuple(valid))


SPLIT = ordered_split()


def ndcg(split: Split, **settings: float) -> float:
    """NDCG@10 of the memory that `build_memory` makes with these settings."""
    values = dict(settings)
    weight = values.pop("content_weight", 0.0)
    how = replace(DEFAULT, **values)
    content = CONTENT.weighted(weight) if weight else None
    memory = build_memory(split, BUNDLE, how, content=content)
    catalog = Catalog.of(list(BUNDLE.items.ids), [user.items for user in split.train])
    rows = BUNDLE.items.rows(catalog.ids)
    similarity = memory.neighbors.to_scipy()[rows][:, rows]
    histories = [catalog.index_of(example.history) for example in split.valid]
    ranked = item_knn(similarity, histories, 10, settings=how, exclude_seen=False)
    targets = catalog.targets([example.item for example in split.valid])
    return float(metric_values(find_targets(ranked, targets), [10])[:, 1].mean())


def test_the_direction_is_used_where_it_matters() -> None:
    tuned = tune_similarity(SPLIT, BUNDLE)
    assert tuned.settings.reverse < 1
    assert tuned.ndcg > ndcg(SPLIT, reverse=1.0) + 0.05
    assert tuned.start_ndcg == pytest.approx(ndcg(SPLIT), abs=1e-9)
    assert (tuned.users, tuned.content) == (60, None)
    again = tune_similarity(SPLIT, BUNDLE)
    assert (again.settings, again.ndcg) == (tuned.settings, tuned.ndcg)


@pytest.mark.parametrize("weight", [0.0, 0.8])
def test_the_metric_is_that_of_the_built_memory(weight: float) -> None:
    trial = _trials(SPLIT, BUNDLE, CONTENT, TuneSimilarityOptions())
    settings = {"reverse": 0.3, "normalization": 0.2, "recency": 0.6, "content_weight": weight}
    values = {**DEFAULT.to_json(), **settings}
    assert trial(values) == pytest.approx(ndcg(SPLIT, **settings), abs=1e-9)


def test_fixed_settings_are_not_tuned() -> None:
    fixed = {"reverse": 0.9, "content_weight": 0.3}
    options = TuneSimilarityOptions(users=20, fixed=fixed)
    tuned = tune_similarity(SPLIT, BUNDLE, CONTENT, options)
    assert tuned.settings.reverse == 0.9
    assert tuned.content is not None
    assert tuned.content.settings == replace(CONTENT.settings, weight=0.3)
    assert tuned.users == 20


def test_test_examples_are_not_read() -> None:
    other = replace(SPLIT, test=tuple(reversed(SPLIT.valid)))
    assert tune_similarity(other, BUNDLE).settings == tune_similarity(SPLIT, BUNDLE).settings


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="no validation examples"):
        tune_similarity(split_of(random_histories(0, 9, ITEMS)), BUNDLE)
    with pytest.raises(UsageError, match="users must be at least 1"):
        TuneSimilarityOptions(users=0)
    leaking = split_of([["i1", "i2", "i3"]], [Example("u0", ("i1", "i2"), "i3", 2)])
    with pytest.raises(RefusedError, match="1 held-out event"):
        tune_similarity(leaking, BUNDLE)


def test_the_grid_contains_the_defaults() -> None:
    for name, value in DEFAULT.to_json().items():
        if name != "neighbors":
            assert value in GRID[name]
