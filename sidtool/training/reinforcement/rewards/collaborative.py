"""The reward `collaborative`: the item-kNN score of a memory for the history."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split import check_split
from sidtool.memory import Memory, MemoryIndex
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows
from sidtool.training.reinforcement.rewards.reward import Matrix, RewardInput, RunFacts, Scores


def open_memory(path: str, facts: RunFacts) -> RewardInput:
    """Raises CompatibilityError if the memory is of another bundle, or may have learned from events
    that the examples' split holds out."""
    memory = Memory.open_verified(Path(path))
    memory.check_bundle(facts.bundle)
    made_from = (str(facts.examples), facts.lineage.split)
    check_split(f"memory {path}", memory.manifest.split, *made_from)
    return RewardInput(
        lambda device: memory_scores(memory, facts.bundle),
        lambda: memory.manifest.digest,
        f"memory {path}",
        split=memory.manifest.split,
    )


def memory_scores(memory: Memory, bundle: Bundle) -> Scores:
    """Item-kNN scores of a memory: 1 for the best item for a history, 0 for items that are not
    among its `distribution.ITEMS` best.

    Raises CompatibilityError unless the bundle is the memory's or a later version of it."""
    index = MemoryIndex.of(memory, bundle)
    trie = bundle.trie()

    def score(histories: Sequence[NDArray[np.int64]], _: Any, items: NDArray[np.int64]) -> Matrix:
        scores = np.zeros(items.shape)
        distributions = index.distributions(list(map(ItemRows, histories)), power=1.0)
        for row, distribution in enumerate(distributions):
            if len(distribution):
                logs = distribution.log_probs_at(trie.positions_of(ItemRows(items[row])))
                scores[row] = np.exp(logs - distribution.log_probs.max())
        return np.where(items >= 0, scores, 0.0)

    return score
