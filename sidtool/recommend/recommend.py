"""Recommendations: requests in, items out, in the order of the requests and in bounded memory."""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from sidtool.errors import DataError, SidtoolWarning
from sidtool.model.load import LoadedModel
from sidtool.recommend.filters import AllowList
from sidtool.recommend.options import RecommendOptions
from sidtool.recommend.query import WINDOW, ItemIndex, Progress, Query, QuerySession, in_windows
from sidtool.recommend.requests import Recommendation, Request, result_file


def recommend(
    model: LoadedModel | str | Path,
    requests: Iterable[Request],
    options: RecommendOptions | None = None,
    *,
    candidates: Sequence[str] | None = None,
    token_budget: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Recommendation]:
    """Recommend k items for each request, in order, as the requests are read.

    k items are returned whenever the filters leave k. Each of `candidates`, if they are given, is
    scored exactly instead of a beam search, and nothing else is recommended: for new items, whose
    SIDs a beam does not reach, and for reranking. Ids of a history that the bundle lacks are
    skipped, and a SidtoolWarning at the end counts them; a request whose prompt is empty without
    them gets no items. `progress` is called with a total of 0 if `requests` has no length.

    Raises DataError if the allow or deny list names no item of the bundle, if a candidate is
    unknown, or if the model was not trained for the requests."""
    run = _Run.of(model, options or RecommendOptions())
    candidate_index = None if candidates is None else run.candidate_index(candidates)
    total = len(requests) if isinstance(requests, Sequence) else 0
    unknown = 0
    for window in in_windows(requests, WINDOW, total, progress):
        if candidate_index is None:
            answers = run.by_beam(window, token_budget)
        else:
            answers = run.by_score(window, candidate_index)
        for answer in answers:
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
) -> int:
    """Write the recommendations of `recommend` to a file of JSON Lines; returns their number.

    With `resume`, requests that an interrupted run answered are skipped. Raises UsageError if `out`
    exists, without `force`."""
    count = 0
    with result_file(Path(out), resume=resume, force=force) as (stream, finished):
        remaining = islice(requests, finished, None)
        answers = recommend(model, remaining, options, candidates=candidates, progress=progress)
        for answer in answers:
            stream.write(json.dumps(answer.to_json(), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return finished + count


@dataclass(frozen=True, eq=False)
class _Run:
    """What all requests of a run share."""

    model: LoadedModel
    session: QuerySession
    options: RecommendOptions
    allowed: AllowList | None
    denied: ItemIndex

    @classmethod
    def of(cls, model: LoadedModel | str | Path, options: RecommendOptions) -> "_Run":
        """Look up the lists of the options. Raises DataError if one names no item."""
        if isinstance(model, str | Path):
            from sidtool.model.load import load_model_folder

            model = load_model_folder(model)
        session = QuerySession.of(model, options.normalize)
        items = session.bundle.items
        allowed = None
        if options.allow is not None:
            allowed = AllowList.of(session.trie, items.rows(options.allow))
            if not len(allowed.positions):
                raise DataError(
                    f"none of the {len(options.allow)} ids of the allow list is an active item"
                )
        denied = items.rows(options.deny) if options.deny else np.zeros(0, dtype=np.int64)
        if len(denied) and (denied < 0).all():
            raise DataError(f"none of the {len(denied)} ids of the deny list is in the bundle")
        return cls(model, session, options, allowed, denied)

    def candidate_index(self, candidates: Sequence[str]) -> ItemIndex:
        """The sorted item index of candidates."""
        items = self.session.bundle.items
        index = items.rows(candidates)
        if (index < 0).any():
            raise DataError(
                f"candidate {candidates[int((index < 0).argmax())]!r} is not in the bundle"
            )
        if items.retired[index].all():
            raise DataError(f"none of the {len(candidates)} candidates is an active item")
        return np.unique(index)

    def by_beam(
        self, requests: Sequence[Request], token_budget: int | None
    ) -> Iterator[Recommendation]:
        """Answers by beam search, in order."""
        histories = [self.session.bundle.items.rows(request.history) for request in requests]
        queries = []
        for request, history in zip(requests, histories, strict=True):
            leaf_filter = self.session.leaf_filter(
                self._allowed(request), self._denied(request, history)
            )
            queries.append(Query(self._prompt(request, history), leaf_filter))
        results = self.session.search(
            self.model.model,
            queries,
            k=self.options.k,
            num_beams=self.options.num_beams,
            token_budget=token_budget,
        )
        trie = self.session.trie
        for request, history, query, result in zip(
            requests, histories, queries, results, strict=True
        ):
            index: list[int] = []
            scores: list[float] = []
            for leaf, score in zip(result.leaves.tolist(), result.scores.tolist(), strict=True):
                leaf_filter = query.leaf_filter
                shared = trie.leaf_rows(leaf) if leaf_filter is None else leaf_filter.items(leaf)
                index.extend(shared.tolist())
                scores.extend([score] * len(shared))
            k = self.options.k
            yield self._recommendation(request, history, index[:k], scores[:k])

    def by_score(
        self, requests: Sequence[Request], candidates: ItemIndex
    ) -> Iterator[Recommendation]:
        """Answers out of (m,) candidates, by their exact scores, in order."""
        items = self.session.bundle.items
        histories = [items.rows(request.history) for request in requests]
        prompts = [
            self._prompt(request, history)
            for request, history in zip(requests, histories, strict=True)
        ]
        all_scores = self.session.score(self.model.model, prompts, candidates)
        for request, history, scores in zip(requests, histories, all_scores, strict=True):
            denied = np.concatenate(self._denied(request, history))
            eligible = ~np.isin(candidates, denied) & ~items.retired[candidates]
            eligible &= np.isfinite(scores)
            for allow in (self.options.allow, request.allow):
                if allow is not None:
                    eligible &= np.isin(candidates, items.rows(allow))
            order = np.argsort(-scores[eligible], kind="stable")[: self.options.k]
            best = np.flatnonzero(eligible)[order]
            yield self._recommendation(
                request, history, candidates[best].tolist(), scores[best].tolist()
            )

    def _prompt(self, request: Request, history: ItemIndex) -> Sequence[int]:
        if request.prompt is not None:
            return request.prompt
        if request.text is not None:
            return self.session.from_text(request.text)
        return self.session.from_history(history)

    def _allowed(self, request: Request) -> AllowList | None:
        if request.allow is None:
            return self.allowed
        trie = self.session.trie
        allowed = AllowList.of(trie, self.session.bundle.items.rows(request.allow))
        return allowed if self.allowed is None else allowed.intersect(trie, self.allowed)

    def _denied(self, request: Request, history: ItemIndex) -> list[ItemIndex]:
        denied = [self.denied, self.session.bundle.items.rows(request.deny)]
        return [*denied, history] if self.options.exclude_seen else denied

    def _recommendation(
        self, request: Request, history: ItemIndex, index: Sequence[int], scores: Sequence[float]
    ) -> Recommendation:
        items = self.session.bundle.items
        space = self.session.tokens.space
        return Recommendation(
            user=request.user,
            items=tuple(items.ids[row] for row in index),
            scores=tuple(scores),
            sids=tuple(space.spell(items.codes[row]) for row in index),
            titles=tuple(items.title(row) for row in index),
            unknown=int((history < 0).sum()),
        )
