"""Ranks the items that may answer queries: by beam search, by exact scores of candidates, with a
memory, or as one list."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidtool.base.errors import UsageError
from sidtool.recommendation.query import Query, QuerySession
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.requests import Explanation
from sidtool.recommendation.search.list_options import ListOptions
from sidtool.recommendation.search.mixture import RankedItems
from sidtool.recommendation.search.results import EMPTY_LIST, ItemList
from sidtool.tokenizer.sid import ItemRows


def check_lists(session: QuerySession) -> None:
    """Raise UsageError if the session would mix answers with a memory."""
    if session.mixture is not None:
        raise UsageError(
            "lists are those of the model alone: they are not mixed with a memory",
            hint="--memory-weight 0 leaves the memory out",
        )


def search_lists(
    session: QuerySession,
    model: Any,
    queries: Sequence[Query],
    *,
    length: int,
    num_beams: int,
    options: ListOptions,
) -> list[ItemList]:
    """The list of each query: of `length` items, or all that its filter leaves. Draws follow from
    the seed of the options and the query's prompt.

    Raises as `search.list_search.search_lists`, and UsageError if the session has a memory.
    """
    found = search_distinct_lists(
        session, model, queries, length=length, num_beams=num_beams, options=options, n_lists=1
    )
    return [lists[0] if lists else EMPTY_LIST for lists in found]


def search_distinct_lists(
    session: QuerySession,
    model: Any,
    queries: Sequence[Query],
    *,
    length: int,
    num_beams: int,
    options: ListOptions,
    n_lists: int,
) -> list[list[ItemList]]:
    """As `search_lists`, but up to `n_lists` lists of each query, distinct as sequences of SIDs."""
    from sidtool.recommendation.search.list_search import search_lists as search

    check_lists(session)
    prompts = [query.prompt for query in queries]
    return search(
        model,
        prompts,
        session.trie,
        session.tokens,
        length=length,
        num_beams=num_beams,
        n_lists=n_lists,
        options=options,
        normalize=session.normalize,
        filters=[query.leaf_filter for query in queries],
        codebook=session.bundle.codebook if options.mmr else None,
        seeds=[_prompt_seed(options.seed, prompt) for prompt in prompts],
    )


def _prompt_seed(seed: int, prompt: Sequence[int]) -> int:
    """A seed of 63 bits for the draws of one prompt: the same in any batch and place."""
    digest = hashlib.sha256(np.array([seed, *prompt], dtype=np.int64).tobytes()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


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
