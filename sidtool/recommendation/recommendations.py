"""Recommendations: requests in, items out, in the order of the requests and in bounded memory."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, overload

from sidtool.base.errors import DataError, SidtoolError, SidtoolWarning
from sidtool.base.extras import data_frame
from sidtool.base.options import argument_options, given_ids, options_from
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import RESULTS
from sidtool.base.progress import Progress
from sidtool.data import EventColumns
from sidtool.data.split import user_histories
from sidtool.memory.mixture import MemoryOptions
from sidtool.model import LoadedModel, ModelOptions, loaded_model
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommender import Recommender
from sidtool.recommendation.requests import (
    Answer,
    BadRequest,
    Outcome,
    Recommendation,
    Request,
    RequestLike,
    as_request,
)
from sidtool.recommendation.result_file import result_file, run_fingerprint
from sidtool.recommendation.windows import WINDOW, LiveRequests, in_windows
from sidtool.tokenizer.bundle import Bundle


def recommend(
    model: LoadedModel | str | Path,
    requests: Iterable[RequestLike] | RequestLike,
    options: RecommendOptions | None = None,
    *,
    candidates: Sequence[str] | Path | None = None,
    bundle: Bundle | str | Path | None = None,
    memory: MemoryOptions | str | Path | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> "Recommendations":
    """Recommend k items for each request, in order, as the requests are read. The options may also
    be given as keywords; `.to_pandas()` of the result is a table of all items. Answers to a list
    of requests are kept, have a length and may be read again; those to an iterator are not. A
    request may also be a history, a list of item ids, or what `Request.from_json` takes; one
    request is a list of one.

    k items are returned whenever the filters leave k; `missing` of a recommendation is the number
    that it lacks. If `candidates` are given, ids or a file of them, each is scored exactly instead
    of a beam search, and nothing else is recommended: for new items, whose SIDs a beam does not
    reach, and for reranking. With `options.list` an answer is one list of k items in its order, and
    candidates are what it may contain. Ids that the bundle lacks are skipped in histories and have
    no effect in deny lists; a SidtoolWarning counts them. A request whose prompt is empty without
    them gets no items.
    `bundle` and `memory` are used in place of those of a model's folder, which is then loaded at
    once; the other flags of both, like `memory_weight=0` or `device="cpu"`, are keywords, too.
    `progress` is called with a total of 0 if `requests` has no length.

    Raises UsageError at once for a keyword that is no option, and for keywords beside `options`. As
    the answers are read, raises DataError if the allow or deny list names no item of the bundle, if
    a candidate is unknown, or if the model's scores are NaN; and, after the answers to the requests
    before it, for a request that the model was not trained for or that `options.strict` refuses, or
    what is no request.

    Examples:
        >>> requests = [sidtool.Request(user="u1", history=("b001", "b002"))]
        >>> (answer,) = sidtool.recommend("tuned", requests, k=3)
        >>> answer.user, len(answer.items)
        ('u1', 3)
    """
    memory = argument_options(MemoryOptions, memory, keywords)
    loading = argument_options(ModelOptions, None, keywords)
    others = (MemoryOptions, ModelOptions)
    options = options_from(RecommendOptions, options, keywords, others)
    ids = None if candidates is None else given_ids(candidates)
    if any(value is not None for value in (bundle, memory, loading)):
        model = loaded_model(model, bundle, memory, loading)
    is_history = isinstance(requests, list | tuple) and isinstance(next(iter(requests), None), str)
    if is_history or isinstance(requests, Request | Mapping | str):
        requests = [requests]  # type: ignore[list-item]
    answers = answer_each(model, requests, options, candidates=ids, stop=True, progress=progress)
    return Recommendations(answers, len(requests) if isinstance(requests, Sequence) else None)


SHOWN = 3
"""Answers in the representation of several."""


class Recommendations(Iterator[Recommendation]):
    """The answers to requests, in their order; each is made when it is read. Those to a list of
    requests are kept: they have a length and places, and may be read again."""

    def __init__(self, answers: Iterator[Answer], n_requests: int | None = None) -> None:
        # the error of a bad one is raised
        self._answers = cast(Iterator[Recommendation], answers)
        self._n_requests = n_requests
        """None for requests that are no list; their answers are not kept."""
        self._past_answers: list[Recommendation] = []
        self._failed: Exception | None = None
        self._unread = iter(self) if n_requests is not None else self._answers

    def __len__(self) -> int:
        if self._n_requests is None:
            raise TypeError("the requests have no length: pass a list of them")
        return self._n_requests

    @overload
    def __getitem__(self, place: int) -> Recommendation: ...
    @overload
    def __getitem__(self, place: slice) -> list[Recommendation]: ...
    def __getitem__(self, place: int | slice) -> Recommendation | list[Recommendation]:
        """The answer to the request at a place, or those of a slice; makes those before it."""
        if isinstance(place, slice):
            return [self[index] for index in range(len(self))[place]]
        place = range(len(self))[place]
        while len(self._past_answers) <= place:
            if self._failed is not None:
                raise self._failed
            try:
                answer = next(self._answers, None)
                if answer is None:
                    only = f"only {len(self._past_answers)} of {len(self)} requests were answered"
                    raise SidtoolError(only, hint="after an interrupt, call recommend again")
                self._past_answers.append(answer)
                if len(self._past_answers) == self._n_requests:
                    next(self._answers, None)  # which warns of unknown ids
            except Exception as error:
                self._failed = error
                raise
        return self._past_answers[place]

    def __iter__(self) -> Iterator[Recommendation]:
        return self if self._n_requests is None else map(self.__getitem__, range(len(self)))

    def __next__(self) -> Recommendation:
        return next(self._unread)

    def __repr__(self) -> str:
        """The number of answers and the first ones, which are made for it."""
        if self._n_requests is None:
            return "<Recommendations, made as they are read>"
        lines = [f"<{len(self)} recommendations>"]
        try:
            lines += [f"  {self[place]!r}" for place in range(min(SHOWN, len(self)))]
        except SidtoolError as error:
            lines.append(f"  {error}")
        return "\n".join([*lines, "  ..."] if len(self) > SHOWN else lines)

    def to_pandas(self) -> Any:
        """All answers as a `pandas.DataFrame`, a row for each item; of requests that are no list,
        those that were not read yet.

        Columns: `request` (its number among these answers, from 0), `user`, `rank` (from 1),
        `item_id`, `title`, `sid` and `score`; a request without items has no row. Raises
        MissingPackageError if pandas is not installed."""
        rows = [
            (number, answer.user, rank, item, title, sid, score)
            for number, answer in enumerate(self)
            for rank, (item, title, sid, score) in enumerate(
                zip(answer.items, answer.titles, answer.sids, answer.scores, strict=True), start=1
            )
        ]
        columns = ["request", "user", "rank", "item_id", "title", "sid", "score"]
        return data_frame(rows, columns)


def answer_each(
    model: LoadedModel | str | Path,
    requests: Iterable[RequestLike | BadRequest],
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
    checked = requests if isinstance(requests, LiveRequests) else map(as_request, requests)
    for window in in_windows(checked, WINDOW, total, progress):
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
    loaded = loaded_model(model)
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


UNKNOWN_IDS = {
    "unknown": "ids in the histories are not in the bundle and were skipped",
    "unknown_allowed": "ids in the allow lists of requests are not in the bundle",
    "unknown_denied": "ids in the deny lists of requests are not in the bundle",
}
"""The counts of an answer, and the warning of each."""


def count_unknown(answer: Recommendation) -> dict[str, int]:
    """The numbers of ids that the bundle lacks, by the key of an answer."""
    return {key: getattr(answer, key) for key in UNKNOWN_IDS}


def warn_of_unknown(counts: Mapping[str, int]) -> None:
    """Warn of ids of requests that the bundle lacks, counted as by `count_unknown`."""
    for key, message in UNKNOWN_IDS.items():
        if counts.get(key):
            # 2: the caller
            warnings.warn(f"{counts[key]} {message}", SidtoolWarning, stacklevel=2)


def user_requests(
    events: Path, users: Sequence[str] | None = None, *, recorded: EventColumns | None = None
) -> list[Request | BadRequest]:
    """A request of each of `users`, in their order, or of all users; a user without events becomes
    a BadRequest. Arguments and errors as in `user_histories`."""
    histories = user_histories(events, users, recorded=recorded)
    requests: list[Request | BadRequest] = []
    for user in histories if users is None else users:
        if user in histories:
            items, fields = histories[user]
            requests.append(Request(user, items, fields=fields))
        else:
            error = DataError(f"user {user!r} has no events in {events}")
            requests.append(BadRequest(error, None, user))
    return requests
