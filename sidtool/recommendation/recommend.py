"""Recommendations: requests in, items out, in the order of the requests and in bounded memory."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidtool.errors import DataError, SidtoolWarning
from sidtool.model.load import LoadedModel, load_model_folder
from sidtool.output import refuse_existing
from sidtool.recommendation.filters import AllowList
from sidtool.recommendation.query import (
    WINDOW,
    ItemIndex,
    Progress,
    Query,
    QuerySession,
    in_windows,
)
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.requests import Recommendation, Request
from sidtool.recommendation.result_file import result_file, run_fingerprint


def recommend(
    model: LoadedModel | str | Path,
    requests: Iterable[Request],
    options: RecommendOptions | None = None,
    *,
    candidates: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Iterator[Recommendation]:
    """Recommend k items for each request, in order, as the requests are read.

    k items are returned whenever the filters leave k. If `candidates` are given, each of them is
    scored exactly instead of a beam search, and nothing else is recommended: for new items, whose
    SIDs a beam does not reach, and for reranking. Ids of a history that the bundle lacks are
    skipped, and a SidtoolWarning at the end counts them; a request whose prompt is empty without
    them gets no items. `progress` is called with a total of 0 if `requests` has no length.

    Raises DataError if the allow or deny list names no item of the bundle, if a candidate is
    unknown, or if the model was not trained for the requests."""
    run = _Run.of(model, options or RecommendOptions(), candidates)
    total = len(requests) if isinstance(requests, Sequence) else 0
    unknown = 0
    for window in in_windows(requests, WINDOW, total, progress):
        for answer in run.answer(window):
            unknown += answer.unknown
            yield answer
    if unknown:
        warnings.warn(
            f"{unknown} ids in the histories are not in the bundle and were skipped",
            SidtoolWarning,
            stacklevel=2,
        )


def recommend_to_file(
    model: LoadedModel | str | Path,
    requests: Iterable[Request],
    out: str | Path,
    options: RecommendOptions | None = None,
    *,
    candidates: Sequence[str] | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the recommendations of `recommend` to a file of JSON Lines.

    With `resume`, requests that an interrupted run answered are skipped. Raises UsageError if `out`
    exists, without `force`, or if the interrupted run had other settings, another model or other
    requests."""
    out = Path(out)
    refuse_existing(out, force)
    loaded = load_model_folder(model) if isinstance(model, str | Path) else model
    options = options or RecommendOptions()
    fingerprint = run_fingerprint(loaded, options, candidates)
    with result_file(out, fingerprint, resume=resume, force=force) as file:
        remaining = file.remaining(requests)
        answers = recommend(loaded, remaining, options, candidates=candidates, progress=progress)
        for answer in answers:
            file.write(answer.to_json())


@dataclass(frozen=True, eq=False)
class _Run:
    """What all requests of a run share."""

    model: LoadedModel
    session: QuerySession
    options: RecommendOptions
    candidates: ItemIndex | None
    """Sorted, each one once."""
    allowed: AllowList | None
    denied: ItemIndex

    @classmethod
    def of(
        cls,
        model: LoadedModel | str | Path,
        options: RecommendOptions,
        candidates: Sequence[str] | None,
    ) -> "_Run":
        """Look up the lists of items. Raises DataError as `recommend` does."""
        loaded = load_model_folder(model) if isinstance(model, str | Path) else model
        session = QuerySession.of(loaded, options.normalize)
        items = session.bundle.items
        candidate_index = None
        if candidates is not None:
            candidate_index = items.rows(candidates)
            if (candidate_index < 0).any():
                unknown = candidates[int(candidate_index.argmin())]
                raise DataError(f"candidate {unknown!r} is not in the bundle")
            candidate_index = np.unique(candidate_index)
        allowed = None
        for name, ids in (("allow list", options.allow), ("candidates", candidates)):
            if ids is not None:
                listed = AllowList.of(session.trie, items.rows(ids))
                if not len(listed.positions):
                    raise DataError(f"none of the {len(ids)} ids of the {name} is an active item")
                allowed = listed if allowed is None else listed.intersect(session.trie, allowed)
        denied = items.rows(options.deny) if options.deny else np.zeros(0, dtype=np.int64)
        if len(denied) and (denied < 0).all():
            raise DataError(f"none of the {len(denied)} ids of the deny list is in the bundle")
        return cls(loaded, session, options, candidate_index, allowed, denied)

    def answer(self, requests: Sequence[Request]) -> Iterator[Recommendation]:
        """The recommendations for a window of requests, in order."""
        items = self.session.bundle.items
        histories = [items.rows(request.history) for request in requests]
        queries = [
            self._query(request, history)
            for request, history in zip(requests, histories, strict=True)
        ]
        ranked = self._by_beam(queries) if self.candidates is None else self._by_score(queries)
        for request, history, (index, scores) in zip(requests, histories, ranked, strict=True):
            yield Recommendation(
                user=request.user,
                items=tuple(items.ids[row] for row in index),
                scores=tuple(scores),
                sids=tuple(self.session.tokens.space.spell(items.codes[row]) for row in index),
                titles=tuple(items.title(row) for row in index),
                unknown=int((history < 0).sum()),
            )

    def _query(self, request: Request, history: ItemIndex) -> Query:
        session = self.session
        items = session.bundle.items
        allowed = self.allowed
        if request.allow is not None:
            allowed = AllowList.of(session.trie, items.rows(request.allow))
            if self.allowed is not None:
                allowed = allowed.intersect(session.trie, self.allowed)
        denied = [self.denied, items.rows(request.deny)]
        if self.options.exclude_seen:
            denied.append(history)
        if request.text is None:
            prompt = session.from_history(history)
        else:
            prompt = session.from_text(request.text)
        return Query(prompt, session.leaf_filter(allowed, denied))

    def _by_beam(self, queries: Sequence[Query]) -> Iterator[tuple[list[int], list[float]]]:
        """The item index and scores of each query's k best items, by beam search."""
        k = self.options.k
        trie = self.session.trie
        results = self.session.search(
            self.model.model, queries, k=k, num_beams=self.options.num_beams
        )
        for query, result in zip(queries, results, strict=True):
            index: list[int] = []
            scores: list[float] = []
            items_of = trie.leaf_rows if query.leaf_filter is None else query.leaf_filter.items
            for leaf, score in zip(result.leaves.tolist(), result.scores.tolist(), strict=True):
                shared = items_of(leaf).tolist()
                index.extend(shared)
                scores.extend([score] * len(shared))
            yield index[:k], scores[:k]

    def _by_score(self, queries: Sequence[Query]) -> Iterator[tuple[list[int], list[float]]]:
        """The same out of the candidates, by their exact scores."""
        assert self.candidates is not None
        all_scores = self.session.score(self.model.model, queries, self.candidates)
        for query, scores in zip(queries, all_scores, strict=True):
            assert query.leaf_filter is not None  # the candidates are an allow list
            eligible = np.isfinite(scores) & np.isin(self.candidates, query.leaf_filter.eligible())
            order = np.argsort(-scores[eligible], kind="stable")[: self.options.k]
            best = np.flatnonzero(eligible)[order]
            yield self.candidates[best].tolist(), scores[best].tolist()
