"""Ranks the items that may answer queries: by beam search, by exact scores of candidates, with a
memory, or as one list."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidtool.recommendation.list_query import search_lists
from sidtool.recommendation.query import Query, QuerySession
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.requests import Explanation
from sidtool.recommendation.search.mixture import RankedItems
from sidtool.tokenizer.index_spaces import ItemRows


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
    candidates: ItemRows | None
    """sorted, each one once"""

    def rank(self, queries: Sequence[Query]) -> Iterator[QueryRanking]:
        """The k best items of each query, with a memory by the mixture; or its list of k items."""
        if self.options.list is not None:
            yield from self._as_list(queries)
            return
        session, k = self.session, self.options.k
        if self.candidates is not None:
            results = session.score_items(self.model, queries, self.candidates, k=k)
        else:
            num_beams = self.options.num_beams
            results = session.search_items(self.model, queries, k=k, num_beams=num_beams)
        for query, result in zip(queries, results, strict=True):
            rows = session.trie.item_rows(result.positions)
            explanations = self._explain(query, result) if self.options.explain else None
            yield QueryRanking(rows.tolist(), result.scores.tolist(), explanations)

    def _explain(self, query: Query, result: RankedItems) -> tuple[Explanation, ...]:
        assert self.session.mixture is not None
        ids = self.session.bundle.items.ids
        history = ItemRows(np.zeros(0, dtype=np.int64)) if query.history is None else query.history
        sources = self.session.mixture.index.sources(history, result.positions)
        return tuple(
            Explanation(share, {ids[row]: part for row, part in list(parts.items())[:3]})
            for share, parts in zip(result.memory_shares.tolist(), sources, strict=True)
        )

    def _as_list(self, queries: Sequence[Query]) -> Iterator[QueryRanking]:
        """The item index and scores of each query's list. Candidates are what it may contain: their
        scores depend on the items before them."""
        assert self.options.list is not None
        lists = search_lists(
            self.session,
            self.model,
            queries,
            length=self.options.k,
            num_beams=self.options.num_beams,
            options=self.options.list,
        )
        for ranked in lists:
            rows = self.session.trie.item_rows(ranked.positions)
            yield QueryRanking(rows.tolist(), ranked.scores.tolist())
