"""The bodies of calls: JSON to requests, texts and vectors, and answers to JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError
from sidtool.data import Vectors
from sidtool.recommendation.requests import BadRequest, Request
from sidtool.recommendation.serve.choices import NAMES, Choices, check_key, read_choices
from sidtool.recommendation.serve.serve_options import ServeLimits


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
        request = {key: part for key, part in value.items() if key not in NAMES}
        for key in request:
            check_key(key)
        return Call((Request.from_json(request),), choices, is_one=True)
    _refuse_others(value, ("requests", *NAMES))
    requests = value["requests"]
    if not isinstance(requests, list):
        raise DataError("'requests' is a list of requests")
    if len(requests) > limits.max_waiting:
        raise DataError(
            f"{len(requests)} requests in one call, at most {limits.max_waiting} can wait",
            hint="send them in several calls",
        )
    read = (_request(each, number) for number, each in enumerate(requests, start=1))
    return Call(tuple(read), choices, is_one=False)


def _request(value: Any, number: int) -> Request | BadRequest:
    where = f"line {number} of the requests"
    try:
        if not isinstance(value, dict):
            raise DataError("not a JSON object")
        return Request.from_json(value, number)
    except DataError as error:
        return BadRequest(DataError(f"{where}: {error}"), number)


def read_texts(body: bytes) -> list[str]:
    """The texts of {"texts": [...]}. Raises DataError for another body."""
    value = read_object(body)
    _refuse_others(value, ("texts",))
    texts = value.get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError("the body is an object with 'texts', a list of strings")
    return texts


def read_vectors(body: bytes) -> list[str] | Vectors:
    """The texts of {"texts": [...]} or the (n, dim) float32 vectors of {"vectors": [[...]]}.
    Raises DataError for another body."""
    value = read_object(body)
    if "vectors" not in value:
        return read_texts(body)
    _refuse_others(value, ("vectors",))
    try:
        vectors = np.array(value["vectors"], dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        vectors = np.zeros(0, dtype=np.float32)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise DataError("'vectors' is a list of lists of numbers, each of the same length")
    return vectors


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises DataError for anything else."""
    try:
        value = parse_json(body)
    except ValueError as error:
        raise DataError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError("the body is not a JSON object")
    return value


def spell(value: Any) -> bytes:
    """A JSON value as bytes, as `--json` prints it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def _refuse_others(value: dict[str, Any], names: Sequence[str]) -> None:
    """Raise DataError for a key that is none of these."""
    for key in value:
        if key not in names:
            raise DataError(f"the body has the key {key[:80]!r}, known are {', '.join(names)}")
