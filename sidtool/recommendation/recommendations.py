"""Recommendations: requests in, items out, in the order of the requests and in bounded memory."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sidtool.base.errors import SidtoolWarning
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import RESULTS
from sidtool.base.progress import Progress
from sidtool.model import LoadedModel, load_model_folder
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommender import Recommender
from sidtool.recommendation.requests import (
    Answer,
    BadRequest,
    Outcome,
    Recommendation,
    Request,
)
from sidtool.recommendation.result_file import result_file, run_fingerprint
from sidtool.recommendation.windows import WINDOW, LiveRequests, in_windows, reporting


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
    # 3: the caller of `answer_each`
    warnings.warn(message, SidtoolWarning, stacklevel=3)
