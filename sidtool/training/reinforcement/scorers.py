"""Scores of recommended items by a memory or by another model, for rewards."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.memory.distribution import MemoryIndex
from sidtool.memory.memory import Memory
from sidtool.model.load import LoadedModel
from sidtool.recommendation.query import Query, QuerySession
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.index_spaces import ItemRows
from sidtool.training.reinforcement.reward_sum import ItemScorer, Matrix

PROMPTS = 8
"""Prompts that a teacher scores together: each is scored on the items of all of them."""


def memory_scorer(memory: Memory, bundle: Bundle) -> ItemScorer:
    """Item-kNN scores of a memory: 1 for the best item for a history, 0 for items that are not
    among its `distribution.ITEMS` best.

    Raises CompatibilityError unless the bundle is the memory's or a later version of it."""
    index = MemoryIndex.of(memory, bundle)
    trie = bundle.trie()

    def score(histories: Sequence[NDArray[np.int64]], items: NDArray[np.int64]) -> Matrix:
        scores = np.zeros(items.shape)
        distributions = index.distributions(list(map(ItemRows, histories)), power=1.0)
        for row, distribution in enumerate(distributions):
            if len(distribution):
                logs = distribution.log_probs_at(trie.positions_of(ItemRows(items[row])))
                scores[row] = np.exp(logs - distribution.log_probs.max())
        return scores

    return score


def teacher_scorer(teacher: LoadedModel) -> ItemScorer:
    """Probabilities of a trained model, without its memory, relative to the sum over each group.
    The model reads histories by its own prompt.

    Raises DataError if the model was not trained to recommend from histories."""
    session = QuerySession.of(teacher)
    session.from_history(ItemRows(np.zeros(1, dtype=np.int64)))  # raises if it has no such prompt

    def score(histories: Sequence[NDArray[np.int64]], items: NDArray[np.int64]) -> Matrix:
        logs = np.full(items.shape, -np.inf)
        for start in range(0, len(items), PROMPTS):
            rows = slice(start, start + PROMPTS)
            candidates, column = np.unique(np.maximum(items[rows], 0), return_inverse=True)
            prompts = [session.from_history(ItemRows(history)) for history in histories[rows]]
            # (prompts, candidates)
            scores = session.score(teacher.model, list(map(Query, prompts)), ItemRows(candidates))
            columns = column.reshape(items[rows].shape)  # where each group's candidates are
            logs[rows] = np.take_along_axis(scores, columns, axis=1)
        logs[items < 0] = -np.inf
        return _softmax(logs)

    return score


def _softmax(logs: Matrix) -> Matrix:
    """Over each row; zeros for a row without a finite number."""
    largest = logs.max(axis=1, keepdims=True)
    weights = np.exp(logs - np.where(np.isfinite(largest), largest, 0.0))
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
