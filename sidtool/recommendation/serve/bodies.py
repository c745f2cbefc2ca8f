"""The bodies of calls: JSON to requests with their options, to texts and to vectors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeGuard

import numpy as np

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError, UsageError
from sidtool.data import Vectors
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.requests import (
    KEYS,
    TARGET_KEYS,
    BadRequest,
    Request,
    item_ids,
    refuse_others,
    request_or_bad,
)
from sidtool.recommendation.serve.serve_options import ServeLimits


@dataclass(frozen=True)
class Choices:
    """Options of requests; those with the same ones can share a batch. The others are the
    service's own."""

    body_options: tuple[tuple[str, Any], ...] = ()
    """The options in the body, by the names of KINDS, and their values."""
    candidates: tuple[str, ...] | None = None
    """Items that are scored exactly, in place of a beam search."""

    def options(self, defaults: RecommendOptions) -> RecommendOptions:
        """The service's options with those of the call. Raises UsageError for a value out of
        range."""
        values = dict(self.body_options)
        if "list" in values:
            values |= {"k": values["list"], "list": True}
        if self.candidates is not None:
            values = {"k": max(1, len(self.candidates)), **values, "list": False}
        return replace(defaults, **values)


KINDS: Mapping[str, type] = {
    "k": int,
    "num_beams": int,
    "exclude_seen": bool,
    "explain": bool,
    "list": int,
}
"""The options of the body of a call, and the type of each; `list` is the length of a list, in place
of the k best next items."""
NAMES = (*KINDS, "candidates")


@dataclass(frozen=True)
class Call:
    """The requests of one call."""

    requests: tuple[Request | BadRequest, ...]
    choices: Choices
    is_one: bool
    """Whether the body is one request itself, and not an object with a list of them."""


def read_call(body: bytes, limits: ServeLimits, *, scores: bool) -> Call:
    """The requests in a body: one request as `recommend --file` reads it from a line, or
    {"requests": [...]} of many, either with options beside.

    A malformed one of many becomes a BadRequest in its place. Raises DataError or UsageError if
    the body or its options are wrong, or if the only request is malformed."""
    value = read_object(body)
    choices = read_choices(value, limits, scores=scores)
    if "requests" not in value:
        # before Request does, which does not know of the options
        refuse_others("the body", value, (*KEYS, *NAMES), TARGET_KEYS)
        request = {key: part for key, part in value.items() if key not in NAMES}
        return Call((Request.from_json(request),), choices, is_one=True)
    refuse_others("the body", value, ("requests", *NAMES))
    requests = value["requests"]
    if not isinstance(requests, list):
        raise DataError("'requests' is a list of requests")
    keys = {key for request in requests if isinstance(request, dict) for key in request}
    if misplaced := keys & {*NAMES}:
        raise DataError(f"{min(misplaced)!r} stands beside 'requests', not in one of them")
    if len(requests) > limits.max_waiting:
        raise DataError(
            f"{len(requests)} requests in one call, at most {limits.max_waiting} can wait",
            hint="send them in several calls",
        )
    parsed_requests = (
        request_or_bad(request, number, f"line {number} of the requests")
        for number, request in enumerate(requests, start=1)
    )
    return Call(tuple(parsed_requests), choices, is_one=False)


def read_choices(value: Mapping[str, Any], limits: ServeLimits, *, scores: bool) -> Choices:
    """The options in a body; with `scores` it must have candidates, otherwise none.

    Raises DataError for a missing option or one of another type, UsageError for a value beyond the
    limits."""
    options = {name: value[name] for name in KINDS if value.get(name) is not None}
    for name, option in options.items():
        # isinstance would take a bool for an int
        if type(option) is not KINDS[name]:
            kind = "a whole number" if KINDS[name] is int else "true or false"
            raise DataError(f"{name!r} is {kind}, not {str(option)[:80]!r}")
    candidates = item_ids(value, "candidates")
    if scores:
        if not candidates:
            raise DataError("'candidates' of /v1/score is a list of at least one item id")
    elif candidates is not None:
        raise DataError("'candidates' are scored by /v1/score; 'allow' restricts a beam search")
    if "list" in options and (scores or "k" in options):
        other = "candidates" if scores else "k"
        raise DataError(f"'list' is the length of a list, which has no {other!r}")
    # k and beams of candidates need no tree
    widths = [] if scores else [options.get(name, 1) for name in ("k", "num_beams", "list")]
    if max(widths, default=1) > limits.max_beams:
        raise UsageError(
            f"{max(widths)} items or beams are too many, the limit of this service is "
            f"{limits.max_beams}"
        )
    return Choices(tuple(options.items()), candidates)


def read_texts(body: bytes) -> list[str]:
    """The texts of {"texts": [...]}. Raises DataError for another body."""
    value = read_object(body)
    refuse_others("the body", value, ("texts",))
    texts = value.get("texts")
    if not _are_texts(texts):
        raise DataError("the body is an object with 'texts', a list of strings")
    return texts


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def read_vectors(body: bytes) -> list[str] | Vectors:
    """The texts of {"texts": [...]} or the (n, dim) float32 vectors of {"vectors": [[...]]}.
    Raises DataError for another body."""
    value = read_object(body)
    if "vectors" not in value:
        return read_texts(body)
    refuse_others("the body", value, ("vectors",))
    rows = value["vectors"]
    # types first: as float32 texts and true would be numbers, too, and an array of texts has room
    # for the longest one at each place
    are_lists = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    if are_lists and {*map(type, chain.from_iterable(rows))} <= {int, float}:
        try:
            with np.errstate(over="ignore"):
                vectors = np.array(rows, dtype=np.float32)
        except (ValueError, OverflowError):  # rows of different lengths, or a number of 400 digits
            vectors = np.zeros(0, dtype=np.float32)
        if vectors.ndim == 2 and np.isfinite(vectors).all():
            return vectors
    raise DataError("'vectors' is a list of lists of numbers, each of the same length")


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises DataError for anything else."""
    try:
        value = parse_json(body)
    except ValueError as error:
        raise DataError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError("the body is not a JSON object")
    return value
