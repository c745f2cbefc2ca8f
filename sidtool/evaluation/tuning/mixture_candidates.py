"""The items that a model and a memory would recommend to validation users, kept as arrays so that
every weight ranks them again without the model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from sidtool.evaluation.groups import SLICES
from sidtool.evaluation.ranking import IndexedExamples
from sidtool.memory.mixture import LOG_ZERO, ItemDistribution, MemoryIndex
from sidtool.recommendation.search import RankedItems, padded_lists

K = 10
"""Cut-off of the metrics."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """The c best items of an even mixture for each of n users."""

    positions: NDArray[np.int64]
    """(n, c) positions in SID order; -1 where there are fewer items"""
    model_scores: NDArray[np.float64]
    """(n, c) logs of the model's probabilities"""
    memory_scores: NDArray[np.float64]
    """(n, c) logs of the memory's, with power 1; minus infinity for items that it lacks"""
    distributions: tuple[ItemDistribution, ...]
    """(n,) the memory's, with power 1"""
    targets: NDArray[np.int64]
    """(n,) the target's column, -1 if it is not among the items"""
    target_events: NDArray[np.int64]
    """(n,) training events of the target"""
    features: NDArray[np.float64]
    """(n, GATE_FEATURES) what a gate reads"""
    in_first_half: NDArray[np.bool_]
    """(n,) one of two halves of the users, by a hash of their ids"""
    is_new: NDArray[np.bool_]
    """(items,) by position, whether an item has no training events"""
    new_item_factor: float = 1.0
    """Multiplies the memory's raised scores of new items."""

    @classmethod
    def of(
        cls,
        examples: IndexedExamples,
        index: MemoryIndex,
        ranked: Sequence[RankedItems],
        distributions: Sequence[ItemDistribution],
    ) -> "Candidates":
        """Lay out the items of each example, and their probabilities."""
        width = max(1, *(len(items.positions) for items in ranked))
        positions = padded_lists([items.positions for items in ranked], width)
        model_scores = [items.model_scores for items in ranked]
        pairs = zip(ranked, distributions, strict=True)
        memory_scores = [
            distribution.log_probs_at(items.positions) for items, distribution in pairs
        ]
        is_target = positions == examples.target_positions[:, None]
        is_target &= positions >= 0
        hashes = [sha256(example.user.encode()).digest()[0] for example in examples.examples]
        return cls(
            positions,
            padded_lists(model_scores, width, -np.inf, np.float64),
            padded_lists(memory_scores, width, -np.inf, np.float64),
            tuple(distributions),
            np.where(is_target.any(axis=1), is_target.argmax(axis=1), -1),
            index.item_events(examples.targets),
            index.features(examples.histories, distributions),
            np.array(hashes) % 2 == 0,
            index.is_new,
        )

    def select(self, users: NDArray[np.bool_]) -> "Candidates":
        """Those of the users with a flag."""
        rows = np.flatnonzero(users)
        names = ("positions", "model_scores", "memory_scores", "targets", "features")
        more = ("target_events", "in_first_half")
        arrays = {name: getattr(self, name)[rows] for name in (*names, *more)}
        distributions = tuple(self.distributions[row] for row in rows.tolist())
        return replace(self, distributions=distributions, **arrays)

    @property
    def is_rare(self) -> NDArray[np.bool_]:
        """(n,) whether the target has few training events."""
        first, last = SLICES["rare"]
        return (self.target_events >= first) & (self.target_events <= (last or 0))

    @property
    def is_warm(self) -> NDArray[np.bool_]:
        """(n,) whether the target has training events."""
        return self.target_events > 0

    def with_factor(self, new_item_factor: float) -> "Candidates":
        """The same items with another factor of new items."""
        return replace(self, new_item_factor=new_item_factor)

    @property
    def lists_new_items(self) -> bool:
        """Whether a new item is among any user's."""
        return bool(self._is_new.any())

    def without_new_items(self) -> "Candidates":
        """The same items, of which the new ones have probability 0."""
        model_scores = np.where(self._is_new, -np.inf, self.model_scores)
        return replace(self, model_scores=model_scores, new_item_factor=0.0)

    @property
    def _is_new(self) -> NDArray[np.bool_]:
        """(n, c) whether each item is new."""
        return (self.positions >= 0) & self.is_new[self.positions]

    @cached_property
    def has_memory(self) -> NDArray[np.bool_]:
        """(n,) whether the memory has any item for the user that the factor leaves."""
        is_left = ~self.is_new | (self.new_item_factor > 0)
        return np.array(
            [is_left[distribution.positions].any() for distribution in self.distributions]
        )

    @property
    def users(self) -> int:
        """Their number n."""
        return len(self.targets)

    def raised(self, power: float) -> NDArray[np.float64]:
        """(n, c) logs of the memory's probabilities, raised to a power, those of new items times
        the factor; over all items that the memory has for a user they sum to 1."""
        log_sums = np.zeros(self.users)
        for row, distribution in enumerate(self.distributions):
            scaled = self._scaled(distribution.positions, power * distribution.log_probs)
            log_sums[row] = np.logaddexp.reduce(scaled)
        log_sums[np.isneginf(log_sums)] = 0.0  # the memory has no item, or the factor leaves none
        return self._scaled(self.positions, power * self.memory_scores) - log_sums[:, None]

    def _scaled(
        self, positions: NDArray[np.int64], logs: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Logs of the memory's scores, those of new items times the factor."""
        if self.new_item_factor == 1:
            return logs
        with np.errstate(divide="ignore"):
            return logs + np.where(self.is_new[positions], np.log(self.new_item_factor), 0.0)

    def ranks(
        self, raised: NDArray[np.float64], weights: NDArray[np.float64] | float
    ) -> NDArray[np.int64]:
        """(n,) ranks of the targets from 0, K for those that are not among the first K, if the
        memory has these weights."""
        # equal items are in SID order
        return target_ranks(self.mixed(raised, weights), self.targets, self.positions)

    def mixed(
        self, raised: NDArray[np.float64], weights: NDArray[np.float64] | float
    ) -> NDArray[np.float64]:
        """(n, c) logs of the mixed probabilities, if the memory has these weights."""
        weights = np.where(self.has_memory, weights, 0.0)
        with np.errstate(divide="ignore"):
            log_model = np.where(weights < 1, np.log1p(-np.minimum(weights, 1)), LOG_ZERO)
            log_memory = np.log(weights)
        return np.logaddexp(log_model[:, None] + self.model_scores, log_memory[:, None] + raised)


def target_ranks(
    scores: NDArray[np.float64], targets: NDArray[np.int64], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(n,) ranks from 0, at most K, of targets by their column in (n, c) scores, -1 for none; equal
    scores have the order of (n, c) numbers."""
    rows = np.arange(len(scores))
    target_scores = scores[rows, targets][:, None]
    is_before = (scores == target_scores) & (order < order[rows, targets][:, None])
    ranks = ((scores > target_scores) | is_before).sum(axis=1)
    return np.where(targets < 0, K, np.minimum(ranks, K))


def gains(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) NDCG@10 of targets by their ranks."""
    return np.where(ranks < K, 1 / np.log2(ranks + 2.0), 0.0)
