"""Scores of items by a memory against a slow computation."""

import numpy as np

from sidtool.training.reinforcement.rewards.kinds import memory_scores
from tests.bundles import small_bundle
from tests.memory.cases import small_memory

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
