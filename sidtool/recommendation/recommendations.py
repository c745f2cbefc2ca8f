"""Recommendations: requests in, items out, in the order of the requests and in bounded memory."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sidtool.base.errors import DataError, SidtoolError, SidtoolWarning, UsageError
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import RESULTS
from sidtool.base.progress import Progress
from sidtool.model import LoadedModel, load_model_folder
from sidtool.recommendation.live import LiveRequests
from sidtool.recommendation.query import (
    WINDOW,
    Query,
    QuerySession,
    in_windows,
    reporting,
)
from sidtool.recommendation.ranker import QueryRanker, QueryRanking, check_lists
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.requests import (
    Answer,
    BadRequest,
    Outcome,
    Recommendation,
    Request,
    at_line,
)
from sidtool.recommendation.result_file import result_file, run_fingerprint
from sidtool.recommendation.search.filters import AllowList
from sidtool.tokenizer.sid import ItemRows


def recommend(
    model: LoadedModel | str | Path,
    requests: Iterable[Request],
    options: RecommendOptions | None = None,
    *,
    candidates: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Iterator[Recommendation]:
    """Recommend k items for each request, in order, as the requests are read.

    k items are returned whenever the filters leave k; `missing` of a recommendation is the number
    that it lacks. If `candidates` are given, each of them is scored exactly instead of a beam
    search, and nothing else is recommended: for new items, whose SIDs a beam does not reach, and
    for reranking. With `options.list` an answer is one list of k items in its order, and candidates
    are what it may contain. Ids that the bundle lacks are skipped in histories and have no effect
    in deny lists; a SidtoolWarning counts them. A request whose prompt is empty without them gets
    no items.
    `progress` is called with a total of 0 if `requests` has no length.

    Raises DataError if the allow or deny list names no item of the bundle, if a candidate is
    unknown, or if the model's scores are NaN; and, after the answers to the requests before it, for
    a request that the model was not trained for or that `options.strict` refuses.

    Examples:
        >>> requests = [sidtool.Request(user="u1", history=("b001", "b002"))]
        >>> (answer,) = sidtool.recommend("tuned", requests, sidtool.RecommendOptions(k=3))
        >>> answer.user, len(answer.items)
        ('u1', 3)
    """
    answers = answer_each(
        model, requests, options, candidates=candidates, stop=True, progress=progress
    )
    for answer in answers:
        assert isinstance(answer, Recommendation)  # the error of a bad one is raised
        yield answer


def answer_each(
    model: LoadedModel | str | Path,
    requests: Iterable[Request | BadRequest],
    options: RecommendOptions | None = None,
    *,
    candidates: Sequence[str] | None = None,
    stop: bool = False,
    progress: Progress | None = None,
) -> Iterator[Answer]:
    """As `recommend`, but a request that cannot be answered is a BadRequest among the answers and
    stops no other; with `stop` its error is raised. LiveRequests are answered whenever they
    pause."""
    run = Recommender.of(model, options or RecommendOptions(), candidates)
    total = len(requests) if isinstance(requests, Sequence) else 0
    unknown: Counter[str] = Counter()
    if isinstance(requests, LiveRequests):
        windows = reporting(requests.windows(WINDOW), total, progress)
    else:
        windows = in_windows(requests, WINDOW, total, progress)
    for window in windows:
        for answer in run.answer(window):
            if isinstance(answer, BadRequest):
                if stop:
                    raise answer.error
            else:
                unknown.update(count_unknown(answer))
            yield answer
    warn_of_unknown(unknown)


def recommend_to_file(
    model: LoadedModel | str | Path,
    requests: Iterable[Request | BadRequest],
    out: str | Path,
    options: RecommendOptions | None = None,
    *,
    candidates: Sequence[str] | None = None,
    stop: bool = False,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Write the answers of `answer_each` to a file of JSON Lines, or of Parquet if its name says
    so, one line or row per request; that of a bad one has the key `error`.

    With `resume`, requests that an interrupted run answered are skipped. Raises UsageError if `out`
    exists, without `force`, or if the interrupted run had other settings, another model or other
    requests."""
    out = Path(out)
    refuse_existing(out, force, RESULTS)
    loaded = load_model_folder(model) if isinstance(model, str | Path) else model
    options = options or RecommendOptions()
    fingerprint = run_fingerprint(loaded, options, candidates)
    with result_file(out, fingerprint, resume=resume, force=force) as file:
        outcome = file.outcome
        remaining = file.remaining(requests)
        answers = answer_each(
            loaded, remaining, options, candidates=candidates, stop=stop, progress=progress
        )
        for answer in outcome.count(answers):
            file.write(answer.to_json())
    return outcome


def count_unknown(answer: Recommendation) -> dict[str, int]:
    """The numbers of ids that the bundle lacks, by the key of an answer."""
    return {
        "unknown": answer.unknown,
        "unknown_allowed": answer.unknown_allowed,
        "unknown_denied": answer.unknown_denied,
    }


def warn_of_unknown(counts: Mapping[str, int]) -> None:
    """Warn of ids of requests that the bundle lacks, counted as by `count_unknown`."""
    if counts.get("unknown"):
        _warn(f"{counts['unknown']} ids in the histories are not in the bundle and were skipped")
    for name, key in (("allow", "unknown_allowed"), ("deny", "unknown_denied")):
        if counts.get(key):
            _warn(f"{counts[key]} ids in the {name} lists of requests are not in the bundle")


def _warn(message: str) -> None:
    # 3: the caller of `answer_each` or of `Recommender.of`
    warnings.warn(message, SidtoolWarning, stacklevel=3)


@dataclass(frozen=True, eq=False)
class Recommender:
    """What all requests of a run share."""

    session: QuerySession
    ranker: QueryRanker
    options: RecommendOptions
    allowed: AllowList | None
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
        is one already. Raises DataError as `recommend` does."""
        loaded = load_model_folder(model) if isinstance(model, str | Path) else model
        list_length = None if options.list is None else options.k
        session = session or QuerySession.of(loaded, options.normalize, list_length=list_length)
        if list_length is not None:
            check_lists(session)
            _report_length(loaded, list_length)
        _check_explain(session, options)
        items = session.bundle.items
        candidate_index = None
        if candidates is not None:
            candidate_index = items.rows(candidates)
            if (candidate_index < 0).any():
                unknown = candidates[int(candidate_index.argmin())]
                raise DataError(f"candidate {unknown!r} is not in the bundle")
            candidate_index = ItemRows(np.unique(candidate_index))
        allowed = None
        for name, ids in (("allow list", options.allow), ("candidates", candidates)):
            if ids is not None:
                listed = AllowList.of(session.trie, items.rows(ids))
                if not len(listed.positions):
                    raise DataError(f"none of the {len(ids)} ids of the {name} is an active item")
                allowed = listed if allowed is None else listed.intersect(allowed)
        denied = items.rows(options.deny)
        if len(denied) and (denied < 0).all():
            raise DataError(f"none of the {len(denied)} ids of the deny list is in the bundle")
        _report_unknown(session, options)
        ranker = QueryRanker(session, loaded.model, options, candidate_index)
        return cls(session, ranker, options, allowed, denied)

    def with_options(self, options: RecommendOptions) -> "Recommender":
        """The same model and lists with other options. Raises UsageError as `of`."""
        _check_explain(self.session, options)
        ranker = replace(self.ranker, options=options)
        return replace(self, ranker=ranker, options=options)

    def answer(self, requests: Sequence[Request | BadRequest]) -> Iterator[Answer]:
        """The answers to a window of requests, in order."""
        return self.answer_prepared([self.prepare(request) for request in requests])

    def answer_prepared(self, prepared: Sequence["Prepared | BadRequest"]) -> Iterator[Answer]:
        """The answers to requests whose items were looked up, in order."""
        queries = [each.query for each in prepared if isinstance(each, Prepared)]
        rankings = self.ranker.rank(queries)
        for each in prepared:
            if isinstance(each, BadRequest):
                yield each
            else:
                yield self._recommendation(each, next(rankings))

    def _recommendation(self, prepared: "Prepared", ranking: QueryRanking) -> Recommendation:
        items = self.session.bundle.items
        is_list = self.options.list is not None
        return Recommendation(
            user=prepared.request.user,
            items=tuple(items.ids[row] for row in ranking.rows),
            scores=tuple(ranking.scores),
            sids=tuple(self.session.tokens.space.spell(items.codes[row]) for row in ranking.rows),
            titles=tuple(items.title(row) for row in ranking.rows),
            unknown=_n_unknown(prepared.history),
            unknown_allowed=_n_unknown(prepared.allowed),
            unknown_denied=_n_unknown(prepared.denied),
            missing=self.options.k - len(ranking.rows),
            explanations=ranking.explanations,
            list_score=float(sum(ranking.scores)) if is_list else None,
        )

    def prepare(self, request: Request | BadRequest) -> "Prepared | BadRequest":
        """Look up the items of a request and build its prompt."""
        if isinstance(request, BadRequest):
            return request
        items = self.session.bundle.items
        history = items.rows(request.history)
        denied = items.rows(request.deny)
        allowed = None if request.allow is None else items.rows(request.allow)
        try:
            for name, ids, rows in (
                ("allow", request.allow or (), allowed),
                ("deny", request.deny, denied),
            ):
                if self.options.strict and rows is not None and (bad := _unknown_ids(ids, rows)):
                    raise DataError(f"the {name} list of the request has {bad}")
            query = self._query(request, history, allowed, denied)
        except SidtoolError as error:
            return BadRequest(at_line(error, request.line), request.line, request.user)
        return Prepared(request, history, allowed, denied, query)

    def _query(
        self,
        request: Request,
        history: ItemRows,
        allowed_by_request: ItemRows | None,
        denied_by_request: ItemRows,
    ) -> Query:
        session = self.session
        allowed = self.allowed
        if allowed_by_request is not None:
            allowed = AllowList.of(session.trie, allowed_by_request)
            if self.allowed is not None:
                allowed = allowed.intersect(self.allowed)
        denied = [self.denied, denied_by_request]
        if self.options.exclude_seen:
            denied.append(history)
        if request.text is None:
            fields = request.fields.over(self.options.fields)
            prompt = session.from_history(history, fields, user=request.user)
        elif self.options.list is not None:
            raise DataError("a list follows a history, not a text")
        else:
            prompt = session.from_text(request.text)
        remembered = history if request.text is None else None
        return Query(prompt, session.leaf_filter(allowed, denied), remembered)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request with its items looked up."""

    request: Request
    history: ItemRows
    allowed: ItemRows | None
    denied: ItemRows
    query: Query


def _report_length(loaded: LoadedModel, length: int) -> None:
    """Warn of lists that are longer than those that the model was trained on."""
    prompt = loaded.contract.list_prompt
    if prompt is not None and length > prompt.list_length:
        _warn(f"the model was trained on lists of {prompt.list_length} items, not {length}")


def _check_explain(session: QuerySession, options: RecommendOptions) -> None:
    """Raise UsageError if there is no memory to explain."""
    if options.explain and session.mixture is None:
        raise UsageError("--explain needs a memory", hint="give --memory, or tune-memory's model")


def _report_unknown(session: QuerySession, options: RecommendOptions) -> None:
    """Warn of ids of the run's lists that the bundle lacks; with `strict` raise DataError."""
    for name, ids in (("allow", options.allow), ("deny", options.deny)):
        unknown = _unknown_ids(ids, session.bundle.items.rows(ids)) if ids else ""
        if unknown and options.strict:
            raise DataError(f"the {name} list has {unknown}")
        if unknown:
            _warn(f"the {name} list has {unknown}")


def _n_unknown(rows: ItemRows | None) -> int:
    return 0 if rows is None else int((rows < 0).sum())


def _unknown_ids(ids: Sequence[str], index: ItemRows) -> str:
    """How many ids the bundle lacks, and the first three of them; empty if it lacks none."""
    unknown = np.flatnonzero(index < 0)
    if not len(unknown):
        return ""
    examples = ", ".join(repr(ids[row][:80]) for row in unknown[:3])
    return f"{len(unknown)} of {len(ids)} ids that the bundle lacks: {examples}"
