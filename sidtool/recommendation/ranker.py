"""Ranks the items that may answer queries: by beam search, by exact scores of candidates, with a
memory, or as one list."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidtool.recommendation.list_query import search_lists
from sidtool.recommendation.query import ItemIndex, Query, QuerySession
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.requests import Explanation
from sidtool.recommendation.search.beam_result import check_scores
from sidtool.recommendation.search.mixture import RankedItems


@dataclass(frozen=True)
class QueryRanking:
    """The items of one query in order, at most k."""

    rows: list[int]
    """their index in the bundle"""
    scores: list[float]
    explanations: tuple[Explanation, ...] | None = None
    """what a memory contributes to each, if it was requested"""


@dataclass(frozen=True, eq=False)
class QueryRanker:
    """How all queries of a run are ranked."""

    session: QuerySession
    model: Any
    options: RecommendOptions
    candidates: ItemIndex | None
    """sorted, each one once"""

    def rank(self, queries: Sequence[Query]) -> Iterator[QueryRanking]:
        """The k best items of each query, or its list of k items."""
        if self.options.list is not None:
            return self._as_list(queries)
        if self.session.mixture is not None:
            return self._with_memory(queries)
        return self._by_beam(queries) if self.candidates is None else self._by_score(queries)

    def _with_memory(self, queries: Sequence[Query]) -> Iterator[QueryRanking]:
        """The k best items of each query by the mixture with the memory."""
        model = self.model
        k = self.options.k
        if self.candidates is not None:
            results = self.session.score_items(model, queries, self.candidates, k=k)
        else:
            num_beams = self.options.num_beams
            results = self.session.search_items(model, queries, k=k, num_beams=num_beams)
        trie = self.session.trie
        for query, result in zip(queries, results, strict=True):
            positions = result.positions
            rows = positions if trie.rows is None else trie.rows[positions]
            explanations = self._explain(query, result) if self.options.explain else None
            yield QueryRanking(rows.tolist(), result.scores.tolist(), explanations)

    def _explain(self, query: Query, result: RankedItems) -> tuple[Explanation, ...]:
        assert self.session.mixture is not None
        ids = self.session.bundle.items.ids
        history = query.history if query.history is not None else result.positions[:0]
        sources = self.session.mixture.index.sources(history, result.positions)
        return tuple(
            Explanation(share, {ids[row]: part for row, part in list(parts.items())[:3]})
            for share, parts in zip(result.memory_shares.tolist(), sources, strict=True)
        )

    def _by_beam(self, queries: Sequence[Query]) -> Iterator[QueryRanking]:
        """The item index and scores of each query's k best items, by beam search."""
        k = self.options.k
        trie = self.session.trie
        results = self.session.search(self.model, queries, k=k, num_beams=self.options.num_beams)
        for query, result in zip(queries, results, strict=True):
            index: list[int] = []
            scores: list[float] = []
            items_of = trie.leaf_rows if query.leaf_filter is None else query.leaf_filter.items
            for leaf, score in zip(result.leaves.tolist(), result.scores.tolist(), strict=True):
                shared = items_of(leaf).tolist()
                index.extend(shared)
                scores.extend([score] * len(shared))
            yield QueryRanking(index[:k], scores[:k])

    def _as_list(self, queries: Sequence[Query]) -> Iterator[QueryRanking]:
        """The item index and scores of each query's list. Candidates are what it may contain: their
        scores depend on the items before them."""
        assert self.options.list is not None
        trie = self.session.trie
        lists = search_lists(
            self.session,
            self.model,
            queries,
            length=self.options.k,
            num_beams=self.options.num_beams,
            options=self.options.list,
        )
        for found in lists:
            positions = found.positions
            rows = positions if trie.rows is None else trie.rows[positions]
            yield QueryRanking(rows.tolist(), found.scores.tolist())

    def _by_score(self, queries: Sequence[Query]) -> Iterator[QueryRanking]:
        """The same out of the candidates, by their exact scores."""
        assert self.candidates is not None
        all_scores = self.session.score(self.model, queries, self.candidates)
        for query, scores in zip(queries, all_scores, strict=True):
            assert query.leaf_filter is not None  # the candidates are an allow list
            check_scores(scores)
            eligible = np.isfinite(scores) & np.isin(self.candidates, query.leaf_filter.eligible())
            order = np.argsort(-scores[eligible], kind="stable")[: self.options.k]
            best = np.flatnonzero(eligible)[order]
            yield QueryRanking(self.candidates[best].tolist(), scores[best].tolist())
