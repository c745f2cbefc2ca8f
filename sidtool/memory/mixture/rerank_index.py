"""Makes the features of the re-ranker, of the pairs of items that a memory counted and compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split.pairs import UNIT
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.memory import Memory
from sidtool.memory.mixture.index import HISTORY, MemoryIndex
from sidtool.memory.mixture.reranker import LOG_FLOOR, N_FEATURES, RERANK_FEATURES, ListedItems
from sidtool.memory.rows import row_entries
from sidtool.memory.similarity import age_weights, content_gain
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows, SidPositions

COMPARED = 20
"""Items of a history that are compared by content, the last ones."""


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
        """What a memory knows, and where the `index` of it found its items in the bundle."""
        from scipy import sparse

        # the row is the earlier item of a pair, so the column follows it
        followed = memory.pairs.to_scipy().astype(np.complex64) * UNIT
        above_diagonal = sparse.csr_matrix(followed.shape, dtype=np.float32)
        if memory.content is not None:
            above_diagonal = memory.content.to_scipy()
        content_settings = memory.manifest.content
        positions = SidPositions(np.arange(index.n_active))
        return cls(
            pairs=(followed + 1j * followed.T).tocsr(),
            cosines=(above_diagonal + above_diagonal.T).tocsr(),
            content_weight=0.0 if content_settings is None else content_settings.weight,
            settings=memory.manifest.settings,
            events=memory.events,
            memory_rows=index.memory_rows,
            candidate_rows=index.memory_rows[bundle.trie().item_rows(positions)],
        )

    def features(
        self,
        histories: Sequence[ItemRows],
        positions: NDArray[np.int64],
        model: NDArray[np.float64],
        memory: NDArray[np.float64],
        mixture: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """(n, c, N_FEATURES) of the (n, c) items of n requests, by position in SID order, in the
        order of the mixture, -1 where there are fewer; the others are the logs of the items'
        probabilities by model, memory and mixture. Undefined where there is no item."""
        is_present = positions >= 0
        rows = np.where(is_present, self.candidate_rows[positions], -1)
        in_memory = np.isfinite(memory) & is_present
        n_in_memory = in_memory.sum(axis=1)[:, None]
        items = ListedItems(
            rows=rows,
            events=np.where(rows < 0, 0, self.events[rows]),
            log_model=np.maximum(model, LOG_FLOOR),
            log_memory=np.maximum(memory, LOG_FLOOR),
            log_mixture=np.maximum(mixture, LOG_FLOOR),
            in_memory=in_memory,
            model_ranks=_ranks(model, is_present),
            memory_ranks=np.minimum(_ranks(memory, is_present), n_in_memory),
            log_length=np.zeros((len(histories), 1)),
            log_last=np.zeros((len(histories), 1)),
        )
        slots = np.full(len(self.events), -1, dtype=np.int64)
        for request, history in enumerate(histories):
            history_rows = self.memory_rows[history[history >= 0]]
            items.log_length[request] = np.log1p(len(history_rows))
            if len(history_rows):
                last_events = self.events[history_rows[-1]] if history_rows[-1] >= 0 else 0
                items.log_last[request] = np.log1p(last_events)
                self._compare(items, request, history_rows[-HISTORY:], slots)
        features = np.empty((*positions.shape, N_FEATURES), dtype=np.float32)
        for number, feature in enumerate(RERANK_FEATURES):
            features[..., number] = feature.values(items)
        return features

    def _compare(
        self, items: ListedItems, request: int, history: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> None:
        """Fill in what follows from the pairs of a request's items with those of its history, which
        has the memory's rows, -1 for items that it lacks. `slots` has room for the place of each of
        the memory's items among the request's: -1 for all, before and after."""
        rows = items.rows[request]
        n = len(rows)
        in_memory = np.flatnonzero(rows >= 0)
        slots[rows[in_memory]] = in_memory
        ages = age_weights([len(history)], self.settings.recency)
        last = len(history) - 1
        # pairs that co-occur, (m,) each: the place in the history, that among the items, the counts
        event, candidate, counts = _matches(self.pairs, history, slots)
        after, before = counts.real.astype(np.float64), counts.imag
        history_events, item_events = self.events[history[event]], self.events[rows[candidate]]
        products = (history_events * item_events.astype(np.float64)) ** self.settings.normalization
        weights = after + self.settings.reverse * before
        similarities = weights / (products + self.settings.shrinkage)
        items.event_scores[request] = np.bincount(candidate, similarities * ages[event], n)
        is_last = event == last
        items.followed[request, candidate[is_last]] = after[is_last]
        items.preceded[request, candidate[is_last]] = before[is_last]
        # pairs that are near by content, with their cosine ** POWER
        event, candidate, powers = _matches(self.cosines, history, slots)
        fewer_events = np.minimum(self.events[history[event]], self.events[rows[candidate]])
        similarities = self.content_weight * powers * content_gain(fewer_events)
        items.content_scores[request] = np.bincount(candidate, similarities * ages[event], n)
        # of these, pairs with one of the last items of the history
        is_compared = event > last - COMPARED
        event, candidate = event[is_compared], candidate[is_compared]
        cosines = np.sqrt(powers[is_compared])  # POWER is 2
        is_last = event == last
        items.last_cosine[request, candidate[is_last]] = cosines[is_last]
        np.maximum.at(items.largest_cosine[request], candidate, cosines)
        sums = np.bincount(candidate, cosines * ages[event], n)
        items.mean_cosine[request] = sums / ages[-COMPARED:].sum()
        slots[rows[in_memory]] = -1


def _matches(
    matrix: Any, history: NDArray[np.int64], slots: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """(m,) each: the entries of the rows of a history's items in columns that have a slot: the
    index of the item in the history, the slot, and the value."""
    events, entries = row_entries(matrix.indptr, history)
    entry_slots = slots[matrix.indices[entries]]
    matches = np.flatnonzero(entry_slots >= 0)
    return events[matches], entry_slots[matches], matrix.data[entries[matches]]


def _ranks(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n, c) ranks from 0 within each row, of equal ones the first in the row first."""
    order = np.argsort(np.where(present, -scores, np.inf), axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(scores.shape[1])[None], axis=1)
    return ranks
