"""The third stage: features of the first items of a request's mixture, and their new order.

docs/ranking.md defines the features. Scores stay those of the mixture; only the order changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split.pairs import UNIT
from sidtool.memory import (
    HISTORY,
    N_FEATURES,
    RERANKED,
    KnnSettings,
    Memory,
    MemoryIndex,
    Prior,
    Reranker,
    WeightedMemory,
    age_weights,
    content_gain,
)
from sidtool.recommendation.search.mixture import RankedItems
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows, SidPositions

LOG_FLOOR = -30.0
"""Log-probabilities below this, as those of items that the memory lacks, count as this."""
SCORE_FLOOR = 1e-4
"""Added to an event or content score before its logarithm."""
COMPARED = 20
"""Items of a history that are compared by content, the last ones."""
N_PAIR_FEATURES = 7
"""Event and content score, transitions after and before the last item, and three cosines."""


@dataclass(frozen=True, eq=False)
class FeatureIndex:
    """What a memory knows of pairs of items, beyond the neighbors that its distribution has."""

    pairs: Any
    """(n, n) scipy CSR complex64: how often the column follows the row, and, as imaginary part, how
    often it precedes it"""
    cosines: Any
    """(n, n) scipy CSR float32, symmetric: cosine ** POWER of items that are near by content"""
    content_weight: float
    settings: KnnSettings
    events: NDArray[np.int64]
    """(n,) training events"""
    memory_rows: NDArray[np.int64]
    """(bundle items,): the memory's row of each, -1 if it has none"""
    candidate_rows: NDArray[np.int64]
    """(n_active,): the same by position in SID order"""

    @classmethod
    def of(cls, memory: Memory, index: MemoryIndex, bundle: Bundle) -> "FeatureIndex":
        """Of a memory and its index in a bundle."""
        from scipy import sparse

        later = memory.pairs.to_scipy().astype(np.complex64) * UNIT
        content = memory.content
        above = sparse.csr_matrix(later.shape, dtype=np.float32)
        if content is not None:
            above = content.to_scipy()
        settings = memory.manifest.content
        positions = SidPositions(np.arange(index.n_active))
        return cls(
            (later + 1j * later.T).tocsr(),
            (above + above.T).tocsr(),
            0.0 if settings is None else settings.weight,
            memory.manifest.settings,
            memory.events,
            index.memory_rows,
            index.memory_rows[bundle.trie().item_rows(positions)],
        )

    def features(
        self,
        histories: Sequence[ItemRows],
        positions: NDArray[np.int64],
        model: NDArray[np.float64],
        memory: NDArray[np.float64],
        mixed: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """(n, c, N_FEATURES) of the (n, c) items of n requests, by position in SID order, in the
        order of the mixture, -1 where there are fewer; the others are the logs of the items'
        probabilities by model, memory and mixture. Undefined where there is no item."""
        present = positions >= 0
        rows = np.where(present, self.candidate_rows[positions], -1)
        events = np.where(rows < 0, 0, self.events[rows])
        pairs = np.zeros((*positions.shape, N_PAIR_FEATURES), dtype=np.float32)
        slots = np.full(len(self.events), -1, dtype=np.int64)
        lengths = np.zeros((len(histories), 1))
        last_events = np.zeros((len(histories), 1))
        for request, history in enumerate(histories):
            items = self.memory_rows[history[history >= 0]]
            lengths[request] = np.log1p(len(items))
            if len(items):
                last = items[-1]
                last_events[request] = np.log1p(self.events[last]) if last >= 0 else 0.0
                pairs[request] = self._pair_features(items[-HISTORY:], rows[request], slots)
        event, content, after, before, *cosines = np.moveaxis(pairs, -1, 0)
        log_model = np.maximum(model, LOG_FLOOR)
        log_memory = np.maximum(memory, LOG_FLOOR)
        in_memory = np.isfinite(memory) & present
        memory_ranks = np.minimum(_ranks(memory, present), in_memory.sum(axis=1)[:, None])
        ones = np.ones(positions.shape)
        columns = (
            log_model,
            log_memory,
            np.maximum(mixed, LOG_FLOOR),
            in_memory,
            np.log1p(_ranks(model, present)),
            np.log1p(memory_ranks),
            np.log(event + SCORE_FLOOR),
            np.log(content + SCORE_FLOOR),
            _share_of_best(event),
            _share_of_best(content),
            np.log1p(after),
            np.log1p(before),
            np.log1p(events),
            *cosines,
            lengths * ones,
            last_events * ones,
            lengths * log_model,
            lengths * log_memory,
            last_events * log_model,
            last_events * log_memory,
        )
        features = np.empty((*positions.shape, N_FEATURES), dtype=np.float32)
        for number, column in enumerate(columns):
            features[..., number] = column
        return features

    def _pair_features(
        self, history: NDArray[np.int64], rows: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(c, N_PAIR_FEATURES) of c items, by the memory's rows of them and of the history, -1 for
        items that it lacks. `slots` has -1 for every row, before and after."""
        n = len(rows)
        known = np.flatnonzero(rows >= 0)
        slots[rows[known]] = known
        ages = age_weights([len(history)], self.settings.recency)
        features = np.zeros((n, N_PAIR_FEATURES))
        # (m,) each: the event, the candidate and the value of each pair that is there
        event, candidate, counts = _matches(self.pairs, history, slots)
        after, before = counts.real.astype(np.float64), counts.imag
        own_events, other_events = self.events[history[event]], self.events[rows[candidate]]
        products = (own_events * other_events.astype(np.float64)) ** self.settings.normalization
        similarities = (after + self.settings.reverse * before) / (
            products + self.settings.shrinkage
        )
        features[:, 0] = np.bincount(candidate, similarities * ages[event], minlength=n)
        of_last = event == len(history) - 1
        features[candidate[of_last], 2] = after[of_last]
        features[candidate[of_last], 3] = before[of_last]
        event, candidate, powers = _matches(self.cosines, history, slots)
        fewer = np.minimum(self.events[history[event]], self.events[rows[candidate]])
        similarities = self.content_weight * powers * content_gain(fewer)
        features[:, 1] = np.bincount(candidate, similarities * ages[event], minlength=n)
        is_compared = event >= len(history) - COMPARED
        event, candidate = event[is_compared], candidate[is_compared]
        cosines = np.sqrt(powers[is_compared])  # POWER is 2
        of_last = event == len(history) - 1
        features[candidate[of_last], 4] = cosines[of_last]
        np.maximum.at(features[:, 5], candidate, cosines)
        means = np.bincount(candidate, cosines * ages[event], minlength=n)
        features[:, 6] = means / ages[-COMPARED:].sum()
        slots[rows[known]] = -1
        return features


def _matches(
    matrix: Any, history: NDArray[np.int64], slots: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """(m,) each: the entries of the rows of a history's items in columns that have a slot: the
    index of the item in the history, the slot, and the value."""
    starts = matrix.indptr[history]
    sizes = np.where(history < 0, 0, matrix.indptr[history + 1] - starts)
    ends = sizes.cumsum()
    events = np.arange(len(history)).repeat(sizes)
    entries = np.arange(len(events)) + (starts - (ends - sizes))[events]
    columns = slots[matrix.indices[entries]]
    matches = np.flatnonzero(columns >= 0)
    return events[matches], columns[matches], matrix.data[entries[matches]]


def _ranks(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n, c) ranks from 0 within each row, of equal ones the first in the row first."""
    order = np.argsort(np.where(present, -scores, np.inf), axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None], axis=1)
    return ranks


def _share_of_best(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, c) scores over the largest of their row."""
    best = scores.max(axis=1, keepdims=True, initial=0)
    return np.divide(scores, best, out=np.zeros_like(scores), where=best > 0)


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
        """The first k of the items of each request after the first RERANKED have a new order; those
        of a request whose memory has no share keep theirs. Equal items stay in the order of the
        mixture."""
        reordered = [
            replace(
                items.take(np.arange(min(k, len(items.positions)))),
                mixture_order=SidPositions(items.positions[:k]),
            )
            for items in ranked
        ]
        mixed = [row for row, prior in enumerate(priors) if prior is not None and prior.is_mixed]
        chosen = [row for row in mixed if len(ranked[row].positions)]
        if not chosen:
            return reordered
        inputs, scores = self._scores(
            [ranked[row] for row in chosen],
            [priors[row] for row in chosen],
            [histories[row] for row in chosen],
        )
        orders = np.argsort(-scores, axis=1, kind="stable")
        for row, of_request, order in zip(chosen, inputs, orders, strict=True):
            places = np.arange(len(ranked[row].positions))
            count = min(len(places), RERANKED)
            places[:count] = order[:count]
            reordered[row] = replace(
                ranked[row].take(places[:k]),
                mixture_order=reordered[row].mixture_order,
                features=of_request[places[: min(count, k)]],
            )
        return reordered

    def _scores(
        self,
        ranked: Sequence[RankedItems],
        priors: Sequence[Prior | None],
        histories: Sequence[ItemRows | None],
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """(n, c, N_FEATURES) standardized features and (n, c) scores of the first items of n
        requests, minus infinity where there are fewer."""
        positions = _padded([items.positions for items in ranked], -1)
        scores = _padded([items.scores for items in ranked], -np.inf)
        model = _padded([items.model_scores for items in ranked], -np.inf)
        memory = np.full(positions.shape, -np.inf)
        known = []
        for row, (prior, history) in enumerate(zip(priors, histories, strict=True)):
            assert prior is not None
            assert history is not None
            memory[row] = prior.distribution.log_probs_at(SidPositions(positions[row]))
            known.append(history)
        features = self.index.features(known, positions, model, memory, scores)
        inputs = self.reranker.standardized(features)
        present = positions >= 0
        scores[present] += self.reranker.scores(inputs[present])
        scores[present] += self.reranker.bonuses(features[present])
        return inputs, scores


def _padded(rows: Sequence[NDArray[Any]], fill: float) -> NDArray[Any]:
    """(n, c) the first RERANKED values of each row, filled up."""
    width = min(RERANKED, max(map(len, rows)))
    table = np.full((len(rows), width), fill, dtype=rows[0].dtype)
    for row, values in enumerate(rows):
        table[row, : len(values)] = values[:width]
    return table
