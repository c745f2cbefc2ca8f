"""An evaluation whose examples are ranked in shards is that of one process."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sidtool.data.split.split import Split
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.options import EvaluationOptions
from sidtool.integrations.ray.rankings import ClusterRanker
from sidtool.memory.build import build_memory
from sidtool.memory.index import WeightedMemory
from sidtool.recommendation.search.results import Normalize
from tests.evaluation.shop import shop, visits
from tests.integrations.ray.sources import LoadedSource
from tests.loaded import loaded_model
from tests.memory.rerankers import random_reranker


@pytest.mark.parametrize(("with_memory", "reranked"), [(False, False), (True, False), (True, True)])
def test_the_evaluation_is_the_same(
    monkeypatch: pytest.MonkeyPatch, with_memory: bool, reranked: bool
) -> None:
    monkeypatch.setattr("sidtool.recommendation.query.WINDOW", 4)
    monkeypatch.setattr("sidtool.evaluation.ranking.WINDOW", 4)
    loaded = loaded_model(shop(shared=False))
    events, examples = visits(users=11)
    if with_memory:
        memory = build_memory(Split("leave-one-out", tuple(events), (), ()), loaded.bundle)
        reranker = random_reranker(memory.manifest) if reranked else None
        loaded = replace(loaded, memory=WeightedMemory(memory, reranker=reranker))
    source: Any = LoadedSource(loaded)
    ranker = ClusterRanker(source, engine="local", examples=8)
    normalize: Normalize = "trie" if with_memory else "vocabulary"
    options = EvaluationOptions(ks=(5,), num_beams=10, exclude_seen=True, normalize=normalize)
    expected = evaluate_examples(loaded, examples, events, options)
    seen: list[tuple[int, int]] = []
    actual = evaluate_examples(
        loaded,
        examples,
        events,
        options,
        ranker=ranker,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert actual.to_json() == expected.to_json()
    mixture = actual.baselines.get("mixture")
    assert (mixture is not None and mixture != actual.metrics) == reranked
    n_passes = 2 if with_memory else 1  # a model with a memory is ranked alone, too
    assert seen[-1] == (11 * n_passes, 11 * n_passes)
    assert expected.values is not None
    assert actual.values is not None
    np.testing.assert_array_equal(actual.values.values, expected.values.values)
