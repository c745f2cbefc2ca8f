"""The third stage: the first items of a request's mixture in a new order.

Scores stay those of the mixture; only the order changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sidtool.memory.mixture import (
    RERANKED,
    FeatureIndex,
    MemoryIndex,
    Prior,
    Reranker,
    WeightedMemory,
)
from sidtool.recommendation.search.results import RankedItems, padded_lists
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows, SidPositions


@dataclass(frozen=True, eq=False)
class Reranking:
    """A re-ranker in use with one bundle."""

    reranker: Reranker
    index: FeatureIndex

    @classmethod
    def of(cls, memory: WeightedMemory, index: MemoryIndex, bundle: Bundle) -> "Reranking | None":
        """None for a memory without one."""
        if memory.reranker is None:
            return None
        return cls(memory.reranker, FeatureIndex.of(memory.memory, index, bundle))

    def reorder(
        self,
        ranked: Sequence[RankedItems],
        priors: Sequence[Prior | None],
        histories: Sequence[ItemRows | None],
        k: int,
    ) -> list[RankedItems]:
        """The first k items of each request, of which the first RERANKED are ordered again before
        the list is cut; not those of a request whose memory has no share. Equal items stay in the
        order of the mixture."""
        reordered = [
            replace(
                items.take(np.arange(min(k, len(items.positions)))),
                mixture_order=SidPositions(items.positions[:k]),
            )
            for items in ranked
        ]
        # row of those that are ordered again, their memory's distribution and their history
        reranked = [
            (row, prior.distribution, history)
            for row, (prior, history) in enumerate(zip(priors, histories, strict=True))
            if prior is not None and history is not None and prior.is_mixed
            if len(ranked[row].positions)
        ]
        if not reranked:
            return reordered
        rows, distributions, their_histories = zip(*reranked, strict=True)
        # (n, c) the first items of n requests
        lists = [ranked[row] for row in rows]
        width = min(RERANKED, max(len(items.positions) for items in lists))
        positions = padded_lists([items.positions for items in lists], width)
        scores = padded_lists([items.scores for items in lists], width, -np.inf, np.float64)
        model_scores = padded_lists(
            [items.model_scores for items in lists], width, -np.inf, np.float64
        )
        pairs = zip(distributions, positions, strict=True)
        memory_scores = np.stack([known.log_probs_at(items) for known, items in pairs])
        features = self.index.features(
            their_histories, positions, model_scores, memory_scores, scores
        )
        inputs = self.reranker.standardized(features)
        present = positions >= 0
        scores[present] += self.reranker.scores(inputs[present])
        scores[present] += self.reranker.bonuses(features[present])
        orders = np.argsort(-scores, axis=1, kind="stable")
        for row, request_inputs, order in zip(rows, inputs, orders, strict=True):
            places = np.arange(len(ranked[row].positions))
            count = min(len(places), RERANKED)
            places[:count] = order[:count]
            reordered[row] = replace(
                ranked[row].take(places[:k]),
                mixture_order=reordered[row].mixture_order,
                features=request_inputs[places[: min(count, k)]],
            )
        return reordered
