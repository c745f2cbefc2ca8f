"""Answers requests: looks up their items, builds their prompts, and ranks the items that may answer
them by beam search, by exact scores of candidates, with a memory, or as one list."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.errors import DataError, SidtoolError, SidtoolWarning, UsageError
from sidtool.model import LoadedModel, loaded_model
from sidtool.recommendation.query import Query, QuerySession
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.requests import Answer, BadRequest, Explanation, Recommendation, Request
from sidtool.recommendation.search.filters import on_both
from sidtool.recommendation.search.results import EMPTY_LIST, ItemList, RankedItems
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows, SidPositions


@dataclass(frozen=True, eq=False)
class Recommender:
    """What all requests of a run share."""

    session: QuerySession
    model: Any
    options: RecommendOptions
    candidates: ItemRows | None
    allowed: SidPositions | None
    denied: ItemRows

    @classmethod
    def of(
        cls,
        model: LoadedModel | str | Path,
        options: RecommendOptions,
        candidates: Sequence[str] | None,
        session: QuerySession | None = None,
    ) -> "Recommender":
        """Look up the lists of items; `session` is one of this model with these scores, if there
        is one already. Raises DataError as `recommend` does, UsageError as `QuerySession.of`
        and for an explanation without a memory."""
        loaded = loaded_model(model)
        list_length = options.k if options.list else None
        session = session or QuerySession.of(loaded, options.normalize, list_length=list_length)
        prompt = loaded.contract.list_prompt
        if options.list and prompt is not None and options.k > prompt.list_length:
            trained = prompt.list_length
            _warn(f"the model was trained on lists of {trained} items, not {options.k}")
        check_explain(options, session.mixture is not None)
        # candidates are named, so they are scored
        repeats = loaded.contract.targets_repeat if candidates is None else None
        options = options.with_seen(repeats)
        listed = listed_items(session.bundle, options, candidates)
        return cls(session, loaded.model, options, *listed)

    def with_options(self, options: RecommendOptions) -> "Recommender":
        """The same model and lists with other options. Raises UsageError for an explanation without
        a memory."""
        check_explain(options, self.session.mixture is not None)
        if options.exclude_seen is None:
            options = replace(options, exclude_seen=self.options.exclude_seen)
        return replace(self, options=options)

    def answer(self, requests: Sequence[Request | BadRequest]) -> Iterator[Answer]:
        """The answers to a window of requests, in order."""
        return self.answer_prepared([self.prepare(request) for request in requests])

    def answer_prepared(self, prepared: Sequence["Prepared | BadRequest"]) -> Iterator[Answer]:
        """The answers to requests whose items were looked up, in order: the k best items, with a
        memory by the mixture; or a list of k items."""
        session, model, options = self.session, self.model, self.options
        queries = [request.query for request in prepared if isinstance(request, Prepared)]
        ranked: Sequence[RankedItems | ItemList]
        if options.list:
            # candidates are what a list may contain: their scores depend on the items before them
            lists = session.search_lists(
                model, queries, length=options.k, num_beams=options.num_beams
            )
            ranked = [best[0] if best else EMPTY_LIST for best in lists]
        elif self.candidates is not None:
            ranked = session.score_items(model, queries, self.candidates, k=options.k)
        else:
            ranked = session.search_items(model, queries, k=options.k, num_beams=options.num_beams)
        rankings = iter(ranked)
        for request in prepared:
            if isinstance(request, BadRequest):
                yield request
            else:
                yield self._recommendation(request, next(rankings))

    def _recommendation(
        self, prepared: "Prepared", ranked: RankedItems | ItemList
    ) -> Recommendation:
        session = self.session
        items = session.bundle.items
        rows = session.trie.item_rows(ranked.positions).tolist()
        scores = ranked.scores.tolist()
        explanations = None
        if self.options.explain and isinstance(ranked, RankedItems):
            assert session.mixture is not None
            history = prepared.query.history
            history = ItemRows(np.zeros(0, dtype=np.int64)) if history is None else history
            sources = session.mixture.index.sources(history, ranked.positions)
            raised_by: list[dict[str, float]] = [{} for _ in sources]
            if session.reranking is not None and ranked.features is not None:
                raised = session.reranking.reranker.raised_by(ranked.features, most=3)
                raised_by[: len(raised)] = raised
            item_reasons = zip(ranked.memory_shares.tolist(), sources, raised_by, strict=True)
            explanations = tuple(
                Explanation(
                    share, {items.ids[row]: part for row, part in list(parts.items())[:3]}, raised
                )
                for share, parts, raised in item_reasons
            )
        return Recommendation(
            user=prepared.request.user,
            items=tuple(items.ids[row] for row in rows),
            scores=tuple(scores),
            sids=tuple(session.tokens.space.spell(items.codes[row]) for row in rows),
            titles=tuple(items.title(row) for row in rows),
            unknown=_n_unknown(prepared.history),
            unknown_allowed=_n_unknown(prepared.allowed),
            unknown_denied=_n_unknown(prepared.denied),
            missing=self.options.k - len(rows),
            explanations=explanations,
            list_score=float(sum(scores)) if self.options.list else None,
        )

    def prepare(self, request: Request | BadRequest) -> "Prepared | BadRequest":
        """Look up the items of a request and build its prompt."""
        if isinstance(request, BadRequest):
            return request
        session = self.session
        rows = session.bundle.items.rows
        history = rows(request.history)
        denied = rows(request.deny)
        allowed = None if request.allow is None else rows(request.allow)
        try:
            if self.options.strict:
                for name, ids, item_rows in (
                    ("allow", request.allow or (), allowed),
                    ("deny", request.deny, denied),
                ):
                    if item_rows is not None and (unknown := _unknown_ids(ids, item_rows)):
                        raise DataError(f"the {name} list of the request has {unknown}")
            positions = self.allowed
            if allowed is not None:
                positions = session.trie.positions(allowed)
                if self.allowed is not None:
                    positions = on_both(positions, self.allowed)
            seen = [history] if self.options.exclude_seen else []
            leaf_filter = session.leaf_filter(positions, [self.denied, denied, *seen])
            if request.text is None:
                fields = request.fields.over(self.options.fields).checked(len(request.history))
                prompt = session.from_history(history, fields, user=request.user)
            elif self.options.list:
                raise DataError("a list follows a history, not a text")
            else:
                prompt = session.from_text(request.text)
        except SidtoolError as error:
            if request.line is not None:
                location = f"line {request.line} of the requests"
                error = type(error)(f"{location}: {error}", hint=error.shell_hint)
            return BadRequest(error, request.line, request.user)
        query = Query(prompt, leaf_filter, history if request.text is None else None)
        return Prepared(request, history, allowed, denied, query)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request with its items looked up."""

    request: Request
    history: ItemRows
    allowed: ItemRows | None
    denied: ItemRows
    query: Query


def listed_items(
    bundle: Bundle, options: RecommendOptions, candidates: Sequence[str] | None
) -> tuple[ItemRows | None, SidPositions | None, ItemRows]:
    """The rows of the candidates, the positions in SID order of the items that options and
    candidates allow (None: all), and the rows of those denied. Raises DataError as `recommend`
    does; ids that the bundle lacks are a SidtoolWarning."""
    items = bundle.items
    candidate_rows = None
    if candidates is not None:
        candidate_rows = items.rows(candidates)
        if (candidate_rows < 0).any():
            unknown = candidates[int(candidate_rows.argmin())]
            raise DataError(f"candidate {unknown!r} is not in the bundle")
    allowed = None
    for name, ids in (("allow list", options.allow), ("candidates", candidates)):
        if ids is not None:
            listed = bundle.trie().positions(items.rows(ids))
            if not len(listed):
                raise DataError(f"none of the {len(ids)} ids of the {name} is an active item")
            allowed = listed if allowed is None else on_both(listed, allowed)
    denied = items.rows(options.deny)
    if len(denied) and (denied < 0).all():
        raise DataError(f"none of the {len(denied)} ids of the deny list is in the bundle")
    for name, ids in (("allow", options.allow or ()), ("deny", options.deny)):
        if unknown := _unknown_ids(ids, items.rows(ids)):
            if options.strict:
                raise DataError(f"the {name} list has {unknown}")
            _warn(f"the {name} list has {unknown}")
    return candidate_rows, allowed, denied


def check_explain(options: RecommendOptions, has_memory: bool) -> None:
    """Raise UsageError if there is no memory to explain."""
    if options.explain and not has_memory:
        raise UsageError(
            "--explain needs a memory",
            hint="give --memory or tune-memory's model, and a weight above 0 (--memory-weight)",
        )


def _n_unknown(rows: ItemRows | None) -> int:
    return 0 if rows is None else int((rows < 0).sum())


def _unknown_ids(ids: Sequence[str], index: ItemRows) -> str:
    """How many ids the bundle lacks, and the first three of them; empty if it lacks none."""
    unknown = np.flatnonzero(index < 0)
    if not len(unknown):
        return ""
    examples = ", ".join(repr(ids[row][:80]) for row in unknown[:3])
    return f"{len(unknown)} of {len(ids)} ids that the bundle lacks: {examples}"


def _warn(message: str) -> None:
    # 3: the caller of `Recommender.of` or `listed_items`
    warnings.warn(message, SidtoolWarning, stacklevel=3)
