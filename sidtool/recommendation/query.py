"""Queries to a model: histories or texts become prompts, filters become sets of leaves, and ranked
SIDs come back.

The one caller of beam search and of exact scoring: recommendation, evaluation and validation all
query a model through `QuerySession`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.base.progress import Progress
from sidtool.data import NO_FIELDS, Fields
from sidtool.memory.mixture import NO_PRIOR, RERANKED, Mixture, Prior
from sidtool.model import LoadedModel
from sidtool.model.prompt import (
    HistoryPrompt,
    TextPrompt,
    fit_prompt,
    history_prompt_ids,
    text_prompt_ids,
)
from sidtool.model.vocabulary import SidTokens, UserTokens
from sidtool.recommendation.rerank import Reranking
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.results import (
    BeamResult,
    ItemList,
    Normalize,
    RankedItems,
    RankedQueries,
    check_normalize,
    check_scores,
    mix,
    padded_lists,
    rank_items,
)
from sidtool.recommendation.windows import WINDOW, in_windows
from sidtool.tokenizer.bundle import Bundle, Trie
from sidtool.tokenizer.sid import ItemRows, Leaves, SidPositions


@dataclass(frozen=True, eq=False)
class Query:
    """A prompt, as token ids that end where a SID begins, and the items that may answer it."""

    prompt: Sequence[int]
    leaf_filter: LeafFilter | None = None
    history: ItemRows | None = None
    """What the memory reads; None answers by the model alone."""
    target: int = -1
    """The leaf whose prefixes are followed through the beam, -1 for none."""


@dataclass(frozen=True, eq=False)
class QuerySession:
    """What all queries to one model share: how prompts are built and where SIDs are looked up."""

    bundle: Bundle
    tokenizer: Any
    tokens: SidTokens
    history_prompt: HistoryPrompt | None
    text_prompt: TextPrompt | None
    normalize: Normalize
    mixture: Mixture | None = None
    """The memory that answers are mixed with."""
    users: UserTokens | None = None
    """The tokens of users, of which a history begins with one."""
    engine_search: Callable[..., list[BeamResult]] | None = None
    """What an engine searches with; None is sidtool's decoder."""
    reranking: Reranking | None = None
    """What orders the first items of the mixture again."""

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        normalize: Normalize | None = None,
        *,
        list_length: int | None = None,
    ) -> "QuerySession":
        """The session of a loaded model; scores are normalized as it was trained unless given.

        With a `list_length`, histories are followed by a list: their prompt is that of lists, with
        room for as many items. Raises DataError then if the model was not trained on lists;
        UsageError for a memory with lists, or with scores that are not normalized over the trie."""
        contract = loaded.contract
        normalize = normalize or contract.normalize
        history_prompt: HistoryPrompt | None = contract.history_prompt
        # all codes but the last are fed back
        n_answer = contract.space.levels - 1 + bool(contract.users)
        if list_length is not None:
            history_prompt = contract.list_prompt
            if history_prompt is None:
                raise DataError(
                    "the model was not trained on lists: its contract has no list prompt",
                    hint="make-sft --task list=1, then train; without --list the best items are "
                    "recommended one by one",
                )
            item_tokens = contract.space.levels + 2 * contract.space.has_begin_end_tokens
            n_answer += (list_length - 1) * item_tokens
        mixture, reranking = None, None
        if (memory := loaded.memory) is not None and memory.is_used:
            check_normalize(normalize)
            if list_length is not None:
                raise UsageError(
                    "lists are those of the model alone: they are not mixed with a memory",
                    hint="--memory-weight 0 leaves the memory out",
                )
            mixture = Mixture.of(memory, loaded.bundle)
            reranking = Reranking.of(memory, mixture.index, loaded.bundle)
        return cls(
            loaded.bundle,
            loaded.tokenizer,
            loaded.tokens,
            fit_prompt(history_prompt, loaded.model, n_answer),
            fit_prompt(contract.text_prompt, loaded.model, n_answer),
            normalize,
            mixture,
            contract.users,
            loaded.beam_search,
            reranking,
        )

    @property
    def trie(self) -> Trie:
        """The trie of the bundle's active items."""
        return self.bundle.trie()

    def from_history(
        self, history: ItemRows, fields: Fields = NO_FIELDS, *, user: str | None = None
    ) -> list[int]:
        """The prompt for the next item after a history, oldest item first, with the fields of its
        items; items that are unknown or have a code without a token are left out. It has the token
        of the `user`, if the model has such tokens. Raises DataError if the model was not trained
        to recommend, or if its prompt shows a field that is not among these."""
        if self.history_prompt is None:
            raise DataError(
                "the model was not trained to recommend: its contract has no history prompt",
                hint="train it on a task such as next-item",
            )
        in_bundle = history >= 0
        in_bundle[in_bundle] = ~self.tokens.lacking(self.bundle.items.codes[history[in_bundle]])
        if fields is not NO_FIELDS and not in_bundle.all():
            # by places from the end: fields may go further back than the history
            fields = fields.take((np.flatnonzero(in_bundle) - len(history)).tolist())
        history = ItemRows(history[in_bundle])
        items = self.bundle.items
        titles = None
        if self.history_prompt.history_as == "title":
            titles = [items.title(index) for index in history.tolist()]
        codes = items.codes[history]  # (items, levels)
        model = (self.tokenizer, self.tokens)
        ids = history_prompt_ids(self.history_prompt, *model, codes, titles, fields)
        if self.users is not None and user is not None:
            place = self.users.place(ids, self.tokenizer.bos_token_id)
            ids.insert(place, self.users.id(user))
        return ids

    def from_text(self, text: str) -> list[int]:
        """The prompt for the item that a text describes. Raises DataError if the model was not
        trained on such a task."""
        if self.text_prompt is None:
            raise DataError(
                "the model was not trained to find items by text",
                hint="make-sft --task title-to-sid=1 or query-to-sid=1, then train",
            )
        return text_prompt_ids(self.text_prompt, self.tokenizer, self.tokens, text)

    def leaf_filter(
        self, allowed: SidPositions | None, denied: Sequence[ItemRows]
    ) -> LeafFilter | None:
        """The filter of allowed items, by position in SID order, and of denied ones; None if it
        would exclude nothing."""
        if allowed is None and not any(map(len, denied)):
            return None
        return LeafFilter.of(self.trie, allowed, ItemRows(np.concatenate(denied)))

    def search(
        self,
        model: Any,
        queries: Sequence[Query],
        *,
        k: int,
        num_beams: int,
        priors: Sequence[Prior | None] | None = None,
    ) -> list[BeamResult]:
        """The k best SIDs of each query by beam search; with a memory, those of the best items.
        `priors` are those of the queries, if they are there already."""
        from sidtool.recommendation.search.beam import beam_search

        search = self.engine_search or beam_search
        return search(
            model,
            [query.prompt for query in queries],
            self.trie,
            self.tokens,
            num_beams=num_beams,
            k=k,
            normalize=self.normalize,
            filters=[query.leaf_filter for query in queries],
            priors=self._priors(queries) if priors is None else priors,
            targets=[query.target for query in queries],
        )

    def search_items(
        self, model: Any, queries: Sequence[Query], *, k: int, num_beams: int
    ) -> list[RankedItems]:
        """The k best items of each query by beam search, in the order of the re-ranker if there is
        one; items that share a SID are in SID order where nothing else decides. A memory of weight
        1 that has k items answers without the model."""
        priors = self._priors(queries)
        width = self._width(k, num_beams)
        ranked = list(map(partial(self._from_memory, width), queries, priors))
        searched = [place for place, items in enumerate(ranked) if items is None]
        results = self.search(
            model,
            [queries[place] for place in searched],
            k=width,
            num_beams=num_beams,
            priors=[priors[place] for place in searched],
        )
        for place, result in zip(searched, results, strict=True):
            leaf_filter = queries[place].leaf_filter
            ranked[place] = rank_items(result, self.trie, leaf_filter, priors[place], width)
        return self._reranked([items for items in ranked if items is not None], queries, priors, k)

    def score_items(
        self, model: Any, queries: Sequence[Query], candidates: ItemRows, *, k: int
    ) -> list[RankedItems]:
        """The k best candidates of each query that pass its filter, by exact scores. Only where a
        memory has a share, items that share a SID share its probability. Raises UsageError for a
        model in an engine, which scores no list."""
        if self.engine_search is not None:
            raise UsageError(
                "an engine does not score candidates", hint="recommend with the model itself"
            )
        from sidtool.recommendation.search.score import score_sids

        trie = self.trie
        positions = trie.positions(candidates)
        prompts = [query.prompt for query in queries]
        codes = self.bundle.items.codes[trie.item_rows(positions)]  # (candidates, levels)
        all_scores = score_sids(
            model, prompts, codes, self.tokens, normalize=self.normalize, trie=trie
        )
        ranked = []
        priors = self._priors(queries)
        for query, prior, scores in zip(queries, priors, all_scores, strict=True):
            check_scores(scores)
            model_scores = scores.astype(np.float64)
            if prior is not None and prior.is_mixed:
                model_scores -= np.log(trie.items_per_leaf(trie.leaves(positions)))
            is_eligible = np.isfinite(model_scores)
            if query.leaf_filter is not None:
                is_eligible &= query.leaf_filter.passes(positions)
            eligible = SidPositions(positions[is_eligible])
            width = self._width(k, len(eligible))
            ranked.append(mix(eligible, model_scores[is_eligible], prior or NO_PRIOR, width))
        return self._reranked(ranked, queries, priors, k)

    def _from_memory(self, k: int, query: Query, prior: Prior | None) -> RankedItems | None:
        """The k best items of a memory that decides alone; None where the model is needed: for the
        order of items of which the memory knows nothing, for a re-ranker, or for the prefixes of a
        target."""
        if prior is None or prior.weight < 1 or self.reranking is not None or query.target >= 0:
            return None
        distribution = prior.distribution
        if query.leaf_filter is not None:
            distribution = distribution.select(query.leaf_filter.passes(distribution.positions))
        if len(distribution) < k or self.engine_search is not None:
            return None
        return mix(distribution.positions, np.full(len(distribution), -np.inf), prior, k)

    def _priors(self, queries: Sequence[Query]) -> list[Prior | None]:
        if self.mixture is None:
            return [None] * len(queries)
        return self.mixture.priors([query.history for query in queries])

    def _width(self, k: int, available: int) -> int:
        """The number of items that are ranked by the mixture for the k best."""
        return k if self.reranking is None else max(k, min(available, RERANKED))

    def _reranked(
        self,
        ranked: list[RankedItems],
        queries: Sequence[Query],
        priors: Sequence[Prior | None],
        k: int,
    ) -> list[RankedItems]:
        """The k best of ranked items, of which a re-ranker orders the first ones again."""
        if self.reranking is None:
            return ranked
        return self.reranking.reorder(ranked, priors, [query.history for query in queries], k)

    def rank(
        self,
        model: Any,
        queries: Iterable[Query],
        *,
        k: int,
        num_beams: int,
        items: bool = False,
        total: int = 0,
        window: int | None = None,
        progress: Progress | None = None,
    ) -> RankedQueries:
        """The k best SIDs of each query, or with `items` the k best items. Queries are read
        `window` (WINDOW) at a time."""
        entries: list[NDArray[np.int64]] = []
        by_mixture: list[NDArray[np.int64]] = []
        survived: list[int] = []
        for batch in in_windows(queries, window or WINDOW, total, progress):
            search = self.search_items if items else self.search
            for result in search(model, batch, k=k, num_beams=num_beams):
                survived.append(result.survived)
                if isinstance(result, BeamResult):
                    entries.append(result.leaves)
                    continue
                entries.append(result.positions)
                if result.mixture_order is not None:
                    by_mixture.append(result.mixture_order)
        table = padded_lists(entries, k)
        levels = np.array(survived, dtype=np.int64)
        if not items:
            return RankedQueries(Leaves(table), levels)
        positions = SidPositions(table)
        mixture = None if self.reranking is None else SidPositions(padded_lists(by_mixture, k))
        return RankedQueries(self.trie.leaves(positions), levels, positions, mixture)

    def search_lists(
        self, model: Any, queries: Sequence[Query], *, length: int, num_beams: int, n_lists: int = 1
    ) -> list[list[ItemList]]:
        """Up to `n_lists` lists of each query, distinct as sequences of SIDs: of `length` items, or
        all that its filter leaves.

        Raises as `search.list_search.search_lists`."""
        from sidtool.recommendation.search.list_search import search_lists

        return search_lists(
            model,
            [query.prompt for query in queries],
            self.trie,
            self.tokens,
            length=length,
            num_beams=num_beams,
            n_lists=n_lists,
            normalize=self.normalize,
            filters=[query.leaf_filter for query in queries],
        )
