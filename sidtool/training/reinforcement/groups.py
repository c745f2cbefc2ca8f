"""The groups of items that a policy is trained on: G distinct items of the catalog for each prompt,
by beam search, and whether their rewards say anything."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.recommendation import QuerySession
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import ItemRows, Leaves, SidPositions
from sidtool.training.reinforcement.examples import RlExamples
from sidtool.training.reinforcement.policy import Policy


@dataclass(frozen=True, eq=False)
class Rollouts:
    """n groups of G leaves of the trie, in each the one that the policy prefers first."""

    prompts: list[list[int]]
    """n prompts as token ids"""
    leaves: Leaves
    """(n, G): an arbitrary leaf where not `valid`"""
    valid: NDArray[np.bool_]
    """(n, G): False behind the last item of a group, where fewer than G could be recommended"""


@dataclass(frozen=True, eq=False)
class GroupMaker:
    """Makes groups for examples by their number."""

    session: QuerySession
    policy: Policy
    examples: RlExamples
    size: int
    """G, the items of a group"""

    def target_leaves(self, numbers: NDArray[np.int64]) -> Leaves:
        """(n,): the leaf of each example's target."""
        trie = self.session.trie
        return trie.leaves(trie.positions_of(ItemRows(self.examples.targets[numbers])))

    def make(self, model: Any, numbers: NDArray[np.int64]) -> Rollouts:
        """The groups of examples, under a model that holds no gradient meanwhile."""
        queries = [self.examples.query(self.session, number) for number in numbers.tolist()]
        leaves = np.full((len(queries), self.size), -1, dtype=np.int64)
        results = self.session.search(model, queries, k=self.size, num_beams=self.size)
        for row, result in zip(leaves, results, strict=True):
            row[: len(result.leaves)] = result.leaves
        prompts = [list(query.prompt) for query in queries]
        return Rollouts(prompts, Leaves(np.maximum(leaves, 0)), leaves >= 0)


def first_items(trie: Trie, leaves: Leaves) -> ItemRows:
    """(...) leaves -> the bundle's row of the first item of each."""
    positions = leaves if trie.leaf_start is None else trie.leaf_start[leaves].astype(np.int64)
    return trie.item_rows(SidPositions(positions))


NO_SPREAD = 1e-8
"""Rewards of a group that differ by less give no signal."""


def lacks_signal(rewards: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,): whether all valid items of a group have the same of (n, G) rewards, so that none is
    better."""
    highest = np.where(valid, rewards, -np.inf).max(axis=1)
    lowest = np.where(valid, rewards, np.inf).min(axis=1)
    flat: NDArray[np.bool_] = ~(highest - lowest > NO_SPREAD)
    return flat
