"""Scores of items by a memory and by a teacher against slow computations."""

import numpy as np
import torch

from sidtool.recommendation.query import QuerySession
from sidtool.recommendation.search.score import score_sids
from sidtool.training.reinforcement.rewards.collaborative import memory_scores
from sidtool.training.reinforcement.rewards.teacher import teacher_scores
from tests.bundles import small_bundle
from tests.loaded import loaded_model
from tests.memory.cases import small_memory

torch.set_num_threads(1)
RNG = np.random.default_rng(0)


def test_a_memory_scores_items_relative_to_the_best_one() -> None:
    bundle = small_bundle()
    bundle.items.retired[[4, 9]] = True
    memory = small_memory(bundle)
    histories = [np.array([3, -1, 7]), np.array([], dtype=np.int64), np.array([12])]
    items = RNG.permuted(np.tile(np.arange(40), (3, 1)), axis=1)
    result = memory_scores(memory, bundle)(histories, None, items)
    similar = memory.neighbors.to_scipy().toarray()
    recency = memory.manifest.settings.recency
    for row, scores in enumerate((recency * similar[3] + similar[7], 0 * similar[0], similar[12])):
        scores[[4, 9]] = 0  # retired items are not recommended
        expected = scores[items[row]] / max(scores.max(), 1e-30)
        np.testing.assert_allclose(result[row], expected, rtol=1e-5)
    assert result[0].max() == result[2].max() == 1


def test_a_teacher_scores_items_relative_to_their_group() -> None:
    bundle = small_bundle()
    teacher = loaded_model(bundle)
    histories = [RNG.integers(0, 40, 1 + row % 5) for row in range(11)]
    items = RNG.permuted(np.tile(np.arange(40), (11, 1)), axis=1)[:, :5]
    items[2, 1] = -1
    result = teacher_scores(teacher)(histories, None, items)
    session = QuerySession.of(teacher)
    for row, history in enumerate(histories):
        group = items[row][items[row] >= 0]
        codes = bundle.items.codes[group]
        prompt = session.from_history(history)
        logs = score_sids(teacher.model, [prompt], codes, teacher.tokens)[0].astype(np.float64)
        expected = np.exp(logs) / np.exp(logs).sum()
        np.testing.assert_allclose(result[row][items[row] >= 0], expected, rtol=1e-4)
    assert result[2, 1] == 0
    np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-6)
