"""Ranked SIDs or items for evaluation examples, and the ranks of the correct items in them.

The items of a SID are all active items that share it, less those that may not be recommended. Only
`rank_examples` needs the model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.base.progress import Progress
from sidtool.data import NO_FIELDS, Fields
from sidtool.data.split import Example
from sidtool.evaluation.metrics import (
    COVERED,
    TargetRanks,
    find_targets,
    metric_names,
    metric_values,
    survival_names,
)
from sidtool.memory.mixture import MemoryIndex
from sidtool.model import LoadedModel
from sidtool.recommendation import WINDOW, Query, QuerySession, RankedQueries
from sidtool.recommendation.search import Normalize, padded_lists
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows, Leaves, SidPositions


@dataclass(frozen=True, eq=False)
class IndexedExamples:
    """n examples, with items as their index in a bundle."""

    bundle: Bundle
    examples: tuple[Example, ...]
    histories: tuple[ItemRows, ...]
    """Items that the bundle lacks are left out."""
    fields: tuple[Fields, ...]
    """The fields of each example, without those of items that the bundle lacks."""
    targets: ItemRows
    """(n,) int64: -1 where the item is not active: absent, retired, or without tokens."""
    exclude_seen: bool

    @classmethod
    def of(
        cls, bundle: Bundle, examples: Sequence[Example], *, exclude_seen: bool
    ) -> "IndexedExamples":
        """Look every item up, each one once."""
        all_ids = (item for example in examples for item in (*example.history, example.item))
        ids = list(dict.fromkeys(all_ids))
        rows_by_id = dict(zip(ids, bundle.items.rows(ids).tolist(), strict=True))
        histories = []
        fields = []
        for example in examples:
            history = np.array([rows_by_id[item] for item in example.history], dtype=np.int64)
            is_in_bundle = history >= 0
            histories.append(ItemRows(history[is_in_bundle]))
            is_whole = example.fields is NO_FIELDS or is_in_bundle.all()
            places = np.flatnonzero(is_in_bundle).tolist()
            item_fields = example.fields if is_whole else example.fields.take(places)
            # a model that is given the feedback of the next item is given that of the target
            feedback = example.feedback
            fields.append(replace(item_fields, feedback=feedback) if feedback else item_fields)
        targets = np.array([rows_by_id[example.item] for example in examples], dtype=np.int64)
        # items that are not active have a SID, so they stay in a history
        targets[(targets >= 0) & ~bundle.is_active[targets]] = -1
        parts = (tuple(examples), tuple(histories), tuple(fields))
        return cls(bundle, *parts, ItemRows(targets), exclude_seen)

    @property
    def target_positions(self) -> SidPositions:
        """(n,) int64: the target's position in SID order, -1 where it cannot be recommended."""
        positions = self.bundle.trie().positions_of(self.targets)
        if self.exclude_seen:
            examples = zip(self.targets, self.histories, strict=True)
            positions[[target in history for target, history in examples]] = -1
        return positions

    @property
    def target_leaves(self) -> Leaves:
        """(n,) int64: the leaf of each target's SID, -1 where it cannot be recommended."""
        return self.bundle.trie().leaves(self.target_positions)

    def denied_positions(self, example: int) -> SidPositions:
        """Positions in SID order of the items that may not be recommended for an example."""
        seen = self.histories[example] if self.exclude_seen else ItemRows(self.targets[:0])
        return self.bundle.trie().positions(seen)


def rank_examples(
    loaded: LoadedModel,
    examples: IndexedExamples,
    *,
    k: int,
    num_beams: int,
    is_mixed: bool = False,
    normalize: Normalize | None = None,
    progress: Progress | None = None,
) -> RankedQueries:
    """The k best SIDs of the model alone for each example, or if `is_mixed` the k best items of the
    model and its memory; scores are normalized as the model was trained unless given.

    Raises DataError if the model was not trained to recommend, UsageError for a mixture whose
    scores are not normalized over the trie."""
    session = QuerySession.of(loaded if is_mixed else replace(loaded, memory=None), normalize)
    return session.rank(
        loaded.model,
        example_queries(session, examples),
        k=k,
        num_beams=num_beams,
        items=is_mixed,
        total=len(examples.histories),
        progress=progress,
    )


def rank_index(
    index: MemoryIndex, examples: IndexedExamples, *, power: float, k: int
) -> SidPositions:
    """(n, k) int64: the k best items of a memory alone for each example, by position in SID order;
    -1 where there are no more. Its scores are raised to a power."""
    ranked = []
    for start in range(0, len(examples.histories), WINDOW):
        histories = examples.histories[start : start + WINDOW]
        distributions = index.distributions(histories, power)
        for row, distribution in enumerate(distributions, start=start):
            denied = examples.denied_positions(row)
            distribution = distribution.select(~np.isin(distribution.positions, denied))
            order = np.lexsort((distribution.positions, -distribution.log_probs))
            ranked.append(distribution.positions[order[:k]])
    return SidPositions(padded_lists(ranked, k))


def example_queries(
    session: QuerySession, examples: IndexedExamples, *, follow: bool = True
) -> Iterator[Query]:
    """The query of each example; with `follow`, its target is followed through the beam."""
    targets = examples.target_leaves.tolist() if follow else [-1] * len(examples.histories)
    for example, history, fields, target in zip(
        examples.examples, examples.histories, examples.fields, targets, strict=True
    ):
        leaf_filter = session.leaf_filter(None, [history] if examples.exclude_seen else [])
        prompt = session.from_history(history, fields, user=example.user)
        yield Query(prompt, leaf_filter, history, target)


Ranker = Callable[..., RankedQueries]
"""Ranks in place of `rank_examples` of one model: takes examples and the same keywords."""


def item_ranks(examples: IndexedExamples, leaves: Leaves) -> TargetRanks:
    """The targets' ranks among items, from (n, k) ranked leaves: items that share a SID share a
    rank."""
    trie = examples.bundle.trie()
    sizes = trie.items_per_leaf(leaves)  # (n, k)
    if trie.leaf_start is not None and examples.exclude_seen:
        for row, ranked in enumerate(leaves):
            denied_leaves = trie.leaves(examples.denied_positions(row))
            # (k, denied) matches: each takes one item away from its leaf
            sizes[row] -= (ranked[:, None] == denied_leaves).sum(axis=1)
    return find_targets(leaves, examples.target_leaves, sizes)


def first_items(examples: IndexedExamples, leaves: Leaves, count: int) -> SidPositions:
    """(n, count) int64: the first items of (n, k) ranked leaves, by position in SID order; -1 where
    there are no more."""
    trie = examples.bundle.trie()
    if trie.leaf_start is None:
        return SidPositions(leaves[:, :count])
    items = np.full((len(leaves), count), -1, dtype=np.int64)
    for row, ranked in enumerate(leaves):
        denied = examples.denied_positions(row)
        # each denied item hides at most one leaf, so this many are enough
        needed = ranked[: count + len(denied)]
        positions, _ = trie.items(Leaves(needed[needed >= 0]))
        eligible = positions[~np.isin(positions, denied)][:count]
        items[row, : len(eligible)] = eligible
    return SidPositions(items)


def sid_ranks(examples: IndexedExamples, leaves: Leaves) -> TargetRanks:
    """The targets' ranks among SIDs, where any item of a shared SID counts as correct, from (n, k)
    leaves of ranked SIDs or items: items of one SID repeat it, and the first one counts."""
    order = np.argsort(leaves, axis=1, kind="stable")
    ordered = np.take_along_axis(leaves, order, axis=1)
    is_new = np.ones(leaves.shape, dtype=np.bool_)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(is_new)
    np.put_along_axis(first, order, is_new, axis=1)
    return find_targets(leaves, examples.target_leaves, (first & (leaves >= 0)).astype(np.int64))


POPULARITY = "popularity"
ITEM_KNN = "item-knn"
"""The baseline that a verdict is about."""


@dataclass(frozen=True, eq=False)
class SystemValues:
    """The metrics of one system on each of n examples, and its first recommendations."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    """(n, metrics), in the order of `names`"""
    first_items: SidPositions
    """(n, count): the first recommended items, by position in SID order; -1 where there are no
    more"""

    @classmethod
    def of(cls, examples: IndexedExamples, ranked: RankedQueries, ks: Sequence[int]) -> Self:
        """Those of the SIDs or items that a beam search found, at item level, and the survival of
        the target's prefixes in its beam."""
        if ranked.positions is None:
            item_level = cls.of_sids(examples, ranked.leaves, ks)
        else:
            item_level = cls.of_items(examples, ranked.positions, ks)
        levels = examples.bundle.space.levels
        survived = ranked.survived[:, None] >= np.arange(1, levels + 1)  # (n, levels)
        names = (*item_level.names, *survival_names(levels))
        return cls(names, np.column_stack([item_level.values, survived]), item_level.first_items)

    @classmethod
    def of_sids(cls, examples: IndexedExamples, leaves: Leaves, ks: Sequence[int]) -> Self:
        """Those of (n, k) leaves, at item level."""
        values = metric_values(item_ranks(examples, leaves), ks)
        return cls(metric_names(ks), values, first_items(examples, leaves, COVERED))

    @classmethod
    def of_items(
        cls, examples: IndexedExamples, positions: SidPositions, ks: Sequence[int]
    ) -> Self:
        """Those of (n, k) items by position in SID order."""
        values = metric_values(find_targets(positions, examples.target_positions), ks)
        return cls(metric_names(ks), values, SidPositions(positions[:, :COVERED]))

    def columns(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(n, names): the values of these metrics."""
        return self.values[:, [self.names.index(name) for name in names]]


def sample_examples(examples: Sequence[Example], users: int, seed: int) -> Sequence[Example]:
    """A seeded sample of the examples in their order; `users` is its size, 0 takes all.

    Raises DataError without examples."""
    if not examples:
        raise DataError("the validation file has no users")
    if not users or users >= len(examples):
        return examples
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(len(examples), users, replace=False))
    return [examples[index] for index in drawn.tolist()]
