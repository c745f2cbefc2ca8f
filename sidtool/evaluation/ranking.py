"""Ranked SIDs or items for evaluation examples, and the ranks of the correct items in them.

The items of a SID are all active items that share it, less those that may not be recommended. Only
`rank_sids` and `rank_mixture` need the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sidtool.base.progress import Progress
from sidtool.data.fields.fields import NO_FIELDS, Fields
from sidtool.data.split.split import Example
from sidtool.evaluation.metrics import TargetRanks, find_targets
from sidtool.memory.distribution import MemoryIndex
from sidtool.model.load import LoadedModel
from sidtool.recommendation.query import WINDOW, Query, QuerySession, RankedQueries
from sidtool.recommendation.search.normalize import Normalize
from sidtool.tokenizer.bundle.bundle import Bundle

COVERED = 10
"""First recommendations of an example that coverage counts."""


@dataclass(frozen=True, eq=False)
class IndexedExamples:
    """n examples, with items as their index in a bundle."""

    bundle: Bundle
    examples: tuple[Example, ...]
    histories: tuple[NDArray[np.int64], ...]
    """Items that the bundle lacks are left out."""
    fields: tuple[Fields, ...]
    """The fields of each example, without those of items that the bundle lacks."""
    targets: NDArray[np.int64]
    """(n,) int64: -1 where the item is not active: absent, retired, or without tokens."""
    exclude_seen: bool

    @classmethod
    def of(
        cls, bundle: Bundle, examples: Sequence[Example], *, exclude_seen: bool
    ) -> "IndexedExamples":
        """Look every item up, each one once."""
        all_ids = (item for example in examples for item in (*example.history, example.item))
        ids = list(dict.fromkeys(all_ids))
        index_of = dict(zip(ids, bundle.items.rows(ids).tolist(), strict=True))
        histories = []
        fields = []
        for example in examples:
            history = np.array([index_of[item] for item in example.history], dtype=np.int64)
            in_bundle = history >= 0
            histories.append(history[in_bundle])
            is_whole = example.fields is NO_FIELDS or in_bundle.all()
            places = np.flatnonzero(in_bundle).tolist()
            of_items = example.fields if is_whole else example.fields.take(places)
            # a model that is told the feedback of the next item is told that of the target
            feedback = example.feedback
            fields.append(replace(of_items, feedback=feedback) if feedback else of_items)
        targets = np.array([index_of[example.item] for example in examples], dtype=np.int64)
        # items that are not active have a SID, so they stay in a history
        targets[(targets >= 0) & ~bundle.is_active[targets]] = -1
        parts = (tuple(examples), tuple(histories), tuple(fields))
        return cls(bundle, *parts, targets, exclude_seen)

    @property
    def target_positions(self) -> NDArray[np.int64]:
        """(n,) int64: the target's position in SID order, -1 where it cannot be recommended."""
        active = self.bundle.active
        # the last entry is that of target -1
        position_of = np.full(len(self.bundle.items) + 1, -1, dtype=np.int64)
        position_of[active] = np.arange(len(active))
        positions = position_of[self.targets]
        if self.exclude_seen:
            examples = zip(self.targets, self.histories, strict=True)
            positions[[target in history for target, history in examples]] = -1
        return positions

    @property
    def target_leaves(self) -> NDArray[np.int64]:
        """(n,) int64: the leaf of each target's SID, -1 where it cannot be recommended."""
        return self.bundle.trie().leaves(self.target_positions)

    def denied_positions(self, example: int) -> NDArray[np.int64]:
        """Positions in SID order of the items that may not be recommended for an example."""
        history = self.histories[example] if self.exclude_seen else self.targets[:0]
        return self.bundle.trie().positions(history)


def rank_sids(
    loaded: LoadedModel,
    examples: IndexedExamples,
    *,
    k: int,
    num_beams: int,
    normalize: Normalize | None = None,
    progress: Progress | None = None,
) -> RankedQueries:
    """The k best SIDs of the model alone for each example, as leaves of the trie; scores are
    normalized as the model was trained unless given.

    Raises DataError if the model was not trained to recommend."""
    session = QuerySession.of(replace(loaded, memory=None), normalize)
    total = len(examples.histories)
    return session.rank(
        loaded.model,
        example_queries(session, examples),
        k=k,
        num_beams=num_beams,
        total=total,
        progress=progress,
    )


def rank_mixture(
    loaded: LoadedModel,
    examples: IndexedExamples,
    *,
    k: int,
    num_beams: int,
    normalize: Normalize | None = None,
    progress: Progress | None = None,
) -> RankedQueries:
    """The k best items of a model and its memory for each example, by position in SID order.

    Raises UsageError unless scores are normalized over the trie."""
    session = QuerySession.of(loaded, normalize)
    total = len(examples.histories)
    return session.rank_items(
        loaded.model,
        example_queries(session, examples),
        k=k,
        num_beams=num_beams,
        total=total,
        progress=progress,
    )


def rank_memory(loaded: LoadedModel, examples: IndexedExamples, *, k: int) -> NDArray[np.int64]:
    """(n, k) int64: the k best items of the memory alone for each example, by position in SID
    order; -1 where there are no more."""
    weighted = loaded.memory
    assert weighted is not None
    index = MemoryIndex.of(weighted.memory, examples.bundle, weighted.new_item_factor)
    return rank_index(index, examples, power=weighted.power, k=k)


def rank_index(
    index: MemoryIndex, examples: IndexedExamples, *, power: float, k: int
) -> NDArray[np.int64]:
    """As `rank_memory`, by an index of the memory and the power of its scores."""
    ranked = np.full((len(examples.histories), k), -1, dtype=np.int64)
    for start in range(0, len(ranked), WINDOW):
        histories = examples.histories[start : start + WINDOW]
        distributions = index.distributions(histories, power)
        for row, distribution in enumerate(distributions, start=start):
            denied = examples.denied_positions(row)
            distribution = distribution.select(~np.isin(distribution.positions, denied))
            order = np.lexsort((distribution.positions, -distribution.log_probs))[:k]
            ranked[row, : len(order)] = distribution.positions[order]
    return ranked


def example_queries(session: QuerySession, examples: IndexedExamples) -> Iterator[Query]:
    """The query of each example, with its target to follow through the beam."""
    targets = examples.target_leaves.tolist()
    for example, history, fields, target in zip(
        examples.examples, examples.histories, examples.fields, targets, strict=True
    ):
        denied = [history] if examples.exclude_seen else []
        leaf_filter = session.leaf_filter(None, denied)
        prompt = session.from_history(history, fields, user=example.user)
        yield Query(prompt, leaf_filter, history, target)


class Ranker(Protocol):
    """Ranks in place of `rank_sids`, or of `rank_mixture` if `is_mixed`, for one model."""

    def __call__(
        self,
        examples: IndexedExamples,
        *,
        k: int,
        num_beams: int,
        is_mixed: bool,
        normalize: Normalize | None = None,
        progress: Progress | None = None,
    ) -> RankedQueries:
        """The k best SIDs or items of each example."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The recommendations of one system for n examples, and the ranks of the targets in them."""

    item_ranks: TargetRanks
    sid_ranks: TargetRanks
    """where any item of a shared SID counts as correct"""
    first_items: NDArray[np.int64]
    """(n, COVERED or fewer): the first items, -1 where there are no more"""
    survived: NDArray[np.bool_]
    """(n, levels): whether the target's prefix was in the beam after each level; (n, 0) for a
    system without a beam"""

    @classmethod
    def of_beams(cls, examples: IndexedExamples, beams: RankedQueries) -> "Ranking":
        """The ranking of the leaves that a beam search found."""
        ranking = cls.of_sids(examples, beams.entries)
        return replace(ranking, survived=_survived(examples, beams))

    @classmethod
    def of_item_beams(cls, examples: IndexedExamples, beams: RankedQueries) -> "Ranking":
        """The ranking of the items that a beam search with a memory found."""
        ranking = cls.of_items(examples, beams.entries)
        return replace(ranking, survived=_survived(examples, beams))

    @classmethod
    def of_sids(cls, examples: IndexedExamples, leaves: NDArray[np.int64]) -> "Ranking":
        """The ranking of (n, k) leaves."""
        return cls(
            item_ranks(examples, leaves),
            sid_ranks(examples, leaves),
            first_items(examples, leaves, COVERED),
            np.zeros((len(leaves), 0), dtype=np.bool_),
        )

    @classmethod
    def of_items(cls, examples: IndexedExamples, positions: NDArray[np.int64]) -> "Ranking":
        """The ranking of (n, k) items by position in SID order."""
        leaves = np.where(positions < 0, -1, examples.bundle.trie().leaves(positions))
        return cls(
            find_targets(positions, examples.target_positions),
            find_targets(leaves, examples.target_leaves, _first_of_each(leaves)),
            positions[:, :COVERED],
            np.zeros((len(leaves), 0), dtype=np.bool_),
        )


def _first_of_each(leaves: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, k): 1 where a leaf of a row stands for the first time, else 0: items of one SID repeat
    it."""
    order = np.argsort(leaves, axis=1, kind="stable")
    ordered = np.take_along_axis(leaves, order, axis=1)
    is_new = np.ones(leaves.shape, dtype=np.bool_)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(is_new)
    np.put_along_axis(first, order, is_new, axis=1)
    return (first & (leaves >= 0)).astype(np.int64)


def _survived(examples: IndexedExamples, beams: RankedQueries) -> NDArray[np.bool_]:
    """(n, levels): whether the target's prefix was in the beam after each level."""
    levels = np.arange(1, examples.bundle.space.levels + 1)
    return beams.survived[:, None] >= levels


def item_ranks(examples: IndexedExamples, leaves: NDArray[np.int64]) -> TargetRanks:
    """The targets' ranks among items, from (n, k) ranked leaves: items that share a SID share a
    rank."""
    return find_targets(leaves, examples.target_leaves, _eligible_per_leaf(examples, leaves))


def sid_ranks(examples: IndexedExamples, leaves: NDArray[np.int64]) -> TargetRanks:
    """The ranks of the targets' SIDs among SIDs: any item of a shared SID counts as correct."""
    return find_targets(leaves, examples.target_leaves)


def first_items(
    examples: IndexedExamples, leaves: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """(n, count) int64: the first items of (n, k) ranked leaves, by position in SID order; -1 where
    there are no more."""
    trie = examples.bundle.trie()
    if trie.leaf_start is None:
        return leaves[:, :count]
    items = np.full((len(leaves), count), -1, dtype=np.int64)
    for row, ranked in enumerate(leaves):
        denied = examples.denied_positions(row)
        # each denied item hides at most one leaf, so this many are enough
        needed = [leaf for leaf in ranked[: count + len(denied)].tolist() if leaf >= 0]
        groups = [np.arange(*trie.leaf_start[leaf : leaf + 2], dtype=np.int64) for leaf in needed]
        positions = np.concatenate([ranked[:0], *groups])
        positions = positions[~np.isin(positions, denied)][:count]
        items[row, : len(positions)] = positions
    return items


def _eligible_per_leaf(examples: IndexedExamples, leaves: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, k) int64: the number of items of each leaf that may be recommended."""
    trie = examples.bundle.trie()
    sizes = trie.items_per_leaf(leaves)
    if trie.leaf_start is not None and examples.exclude_seen:
        for row, ranked in enumerate(leaves):
            denied_leaves = trie.leaves(examples.denied_positions(row))
            # (k, denied) matches: each takes one item away from its leaf
            sizes[row] -= (ranked[:, None] == denied_leaves).sum(axis=1)
    return sizes
