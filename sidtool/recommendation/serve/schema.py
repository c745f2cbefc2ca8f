"""The endpoints as OpenAPI describes them. Bodies are read by the parser of `recommend`, so these
are descriptions for people and generators of clients, and no second parser."""

from collections.abc import Mapping
from typing import Any

from sidtool.base.options import meanings
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.serve.bodies import KINDS

VERSION = "1"
"""Of the HTTP interface: the number in the paths."""

_IDS = {"type": "array", "items": {"type": "string"}}
_NUMBERS = {"type": "array", "items": {"type": "number"}}
_REQUEST: Mapping[str, Any] = {
    "user": {"type": ["string", "integer"], "description": "returned with the answer"},
    "history": {**_IDS, "description": "item ids, oldest first"},
    "text": {"type": "string", "description": "a text to find items for, in place of a history"},
    "allow": {**_IDS, "description": "recommend no others"},
    "deny": {**_IDS, "description": "never recommend these"},
    "fields": {"type": "object", "description": "what the model's prompt shows besides items"},
}
_MEANINGS = {**meanings(RecommendOptions), "list": "The length of a list, in place of k."}
_OPTIONS: Mapping[str, Any] = {
    name: {"type": "integer", "minimum": 1, "description": _MEANINGS[name]}
    if kind is int
    else {"type": "boolean", "description": _MEANINGS[name]}
    for name, kind in KINDS.items()
}
_REFUSALS = {
    400: "a value out of range, or a body that ends early",
    401: "the bearer token is missing or wrong",
    408: "the body did not arrive in time",
    413: "the body is too long",
    422: "the body is no request, or the model cannot answer it",
    429: "too many requests wait; Retry-After says for how many seconds",
    503: "no answer within the time limit, or the service is ending",
}


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    return {**value, "required": list(required)} if required else value


def _content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": dict(schema)}}


_ERROR = _content(_object({"error": {"type": "string"}, "hint": {"type": "string"}}, "error"))


def _post(summary: str, description: str, body: Any, answer: Any) -> dict[str, Any]:
    """The arguments of a route that takes a JSON body."""
    refusals = {
        status: {"description": text, "content": _ERROR} for status, text in _REFUSALS.items()
    }
    return {
        "summary": summary,
        "description": description,
        "openapi_extra": {"requestBody": {"required": True, "content": _content(body)}},
        "responses": {200: {"content": _content(answer)}, **refusals},
    }


def _calls(options: Mapping[str, Any], *required: str) -> dict[str, Any]:
    """One request, or several with common options."""
    one = _object({**_REQUEST, **options}, *required)
    many = {"requests": {"type": "array", "items": _object(_REQUEST)}, **options}
    return {"oneOf": [one, _object(many, "requests", *required)]}


_COUNTS = ("unknown", "unknown_allowed", "unknown_denied", "missing")
_ANSWER = _object(
    {
        "user": {"type": ["string", "null"]},
        "items": {**_IDS, "description": "best first; `missing` is how many they are fewer than k"},
        "scores": _NUMBERS,
        "sids": _IDS,
        "titles": _IDS,
        **{key: {"type": "integer"} for key in _COUNTS},
    }
)
_ANSWERS = {"oneOf": [_ANSWER, _object({"answers": {"type": "array", "items": _ANSWER}})]}

RECOMMEND = _post(
    "Recommend items for one or several requests",
    "A body is a request as a line of `sidtool recommend --file`, with options beside; or "
    '{"requests": [...]} with options for all. The answer to one is the line that `recommend '
    '--json` prints, the answer to several {"answers": [...]} in their order, in which a request '
    'that cannot be answered has "error".',
    _calls(_OPTIONS),
    _ANSWERS,
)
SCORE = _post(
    "Score candidates exactly",
    "As /v1/recommend, without a beam search: every item of `candidates` is scored, and no other "
    "is returned. `k` is the number of candidates unless it is given.",
    _calls(
        {**_OPTIONS, "candidates": {**_IDS, "description": "items that are scored exactly"}},
        "candidates",
    ),
    _ANSWERS,
)
ENCODE = _post(
    "Encode texts or vectors to semantic IDs",
    'The body is {"texts": [...]}, which are embedded by the encoder that the bundle records, or '
    '{"vectors": [[...]]}. Each answer has the SID and the items with that SID.',
    {
        "oneOf": [
            _object({"texts": _IDS}, "texts"),
            _object({"vectors": {"type": "array", "items": _NUMBERS}}, "vectors"),
        ]
    },
    _object({"encodings": {"type": "array", "items": {"type": "object"}}}),
)
DECODE = _post(
    "Find the items of semantic IDs in texts",
    'The body is {"texts": [...]}. For each text, every SID in it with its status (item, retired, '
    "unknown, malformed) and items.",
    _object({"texts": _IDS}, "texts"),
    _object({"decoded": {"type": "array", "items": {"type": "array"}}}),
)
HEALTH = "Whether the process can answer: 503 if the model's thread has ended"
READY = "Whether the service takes calls, and which model, bundle and memory it serves"
METRICS = "Numbers for Prometheus"
