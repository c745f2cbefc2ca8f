"""The HTTP endpoints: each reads a body, asks the service, and spells the answer.

OpenAPI describes them to people and generators of clients; bodies are read by the parser of
`recommend`, so a description is no second parser."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from sidtool import tokenizer
from sidtool.base.errors import MissingPackageError, SidtoolError, UsageError
from sidtool.base.options import meanings
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.requests import BadRequest
from sidtool.recommendation.serve.batcher import Busy
from sidtool.recommendation.serve.bodies import KINDS, read_call, read_texts, read_vectors
from sidtool.recommendation.serve.guard import Guard, json_reply, read_body, refusal
from sidtool.recommendation.serve.serve_options import ServeOptions
from sidtool.recommendation.serve.service import Service

VERSION = "1"
"""Of the HTTP interface: the number in the paths."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FAILED = "the request failed, and the log of the service says where"

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


_TEXTS = {"type": "array", "items": {"type": "string"}}
_IDS = {"type": "array", "items": {"type": ["string", "integer"]}}
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
    500: FAILED,
    501: "a package that the service lacks",
    503: "no answer within the time limit, or the service is ending",
}


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    return {**value, "required": list(required)} if required else value


def _content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": dict(schema)}}


_ERROR = _content(_object({"error": {"type": "string"}, "hint": {"type": "string"}}, "error"))


def _calls(options: Mapping[str, Any], *required: str) -> dict[str, Any]:
    """One request, or several with common options."""
    alone = {"additionalProperties": False}
    one = _object({**_REQUEST, **options}, *required) | alone
    many = {"requests": {"type": "array", "items": _object(_REQUEST) | alone}, **options}
    return {"oneOf": [one, _object(many, "requests", *required) | alone]}


_COUNTS = ("unknown", "unknown_allowed", "unknown_denied", "missing")
_ANSWER = _object(
    {
        "user": {"type": ["string", "null"]},
        "items": {**_TEXTS, "description": "best first; `missing` is how many fewer than k"},
        "scores": _NUMBERS,
        "sids": _TEXTS,
        "titles": _TEXTS,
        **{key: {"type": "integer"} for key in _COUNTS},
    }
)
_ANSWERS = {"oneOf": [_ANSWER, _object({"answers": {"type": "array", "items": _ANSWER}})]}


ROUTES = APIRouter()
OPEN_PATHS = ("/healthz", "/readyz")
"""Paths that need no token."""


def _call(
    path: str, summary: str, body: Mapping[str, Any], answer: Mapping[str, Any]
) -> Callable[[Handler], Handler]:
    """An endpoint that reads a body; OpenAPI describes it by its docstring and by these JSON
    schemas of the body and of the answer."""
    refusals = {
        status: {"description": text, "content": _ERROR} for status, text in _REFUSALS.items()
    }

    def add(handler: Handler) -> Handler:
        route = ROUTES.post(
            path,
            summary=summary,
            description=" ".join((handler.__doc__ or "").split()),
            openapi_extra={"requestBody": {"required": True, "content": _content(body)}},
            responses={200: {"content": _content(answer)}, **refusals},
        )
        return route(handler)

    return add


@_call("/v1/recommend", "Recommend items for one or several requests", _calls(_OPTIONS), _ANSWERS)
async def recommend(request: Request) -> Response:
    """A body is a request as a line of `sidtool recommend --file`, with options beside; or
    {"requests": [...]} with options for all. The answer to one is the line that `recommend --json`
    prints, the answer to several {"answers": [...]} in their order, in which a request that cannot
    be answered has "error"."""
    return await _answer(request, scores=False)


@_call(
    "/v1/score",
    "Score candidates exactly",
    _calls(
        {**_OPTIONS, "candidates": {**_IDS, "description": "items that are scored exactly"}},
        "candidates",
    ),
    _ANSWERS,
)
async def score(request: Request) -> Response:
    """As /v1/recommend, without a beam search: every item of `candidates` is scored, and no other
    is returned. `k` is the number of candidates unless it is given."""
    return await _answer(request, scores=True)


async def _answer(request: Request, *, scores: bool) -> Response:
    """One answer as `recommend --json` prints it, or a list of them; a header names the bundles
    that they are from."""
    service: Service = request.app.state.service
    limits = service.options.limits
    body, deadline = await read_body(request, limits)
    call = read_call(body, limits, scores=scores)
    results = await service.answer(call, deadline)
    bundles = dict.fromkeys(result.served.loaded.bundle.digest[:12] for result in results)
    headers = {"sidtool-bundle": ", ".join(bundles)}
    answers = [result.answer for result in results]
    if not call.is_one:
        values = [{"error": FAILED} if answer is None else answer.to_json() for answer in answers]
        return json_reply({"answers": values}, headers)
    (answer,) = answers
    if answer is None:
        return refusal(500, FAILED)
    if isinstance(answer, BadRequest):
        return await _refuse(request, answer.error)
    return json_reply(answer.to_json(), headers)


@_call(
    "/v1/encode",
    "Encode texts or vectors to semantic IDs",
    {
        "oneOf": [
            _object({"texts": _TEXTS}, "texts"),
            _object({"vectors": {"type": "array", "items": _NUMBERS}}, "vectors"),
        ]
    },
    _object({"encodings": {"type": "array", "items": {"type": "object"}}}),
)
async def encode(request: Request) -> Response:
    """The body is {"texts": [...]}, which are embedded by the encoder that the bundle records, or
    {"vectors": [[...]]}. Each answer has the SID and the items with that SID."""
    service: Service = request.app.state.service
    body, deadline = await read_body(request, service.options.limits)
    inputs = read_vectors(body)
    encodings = await service.aside(
        lambda: [asdict(encoding) for encoding in service.encode(inputs)], deadline
    )
    return json_reply({"encodings": encodings})


@_call(
    "/v1/decode",
    "Find the items of semantic IDs in texts",
    _object({"texts": _TEXTS}, "texts"),
    _object({"decoded": {"type": "array", "items": {"type": "array"}}}),
)
async def decode(request: Request) -> Response:
    """The body is {"texts": [...]}. For each text, every SID in it with its status (item, retired,
    unknown, malformed) and items."""
    service: Service = request.app.state.service
    body, deadline = await read_body(request, service.options.limits)
    texts = read_texts(body)
    bundle = service.batcher.served.loaded.bundle
    decoded = await service.aside(
        lambda: [[asdict(sid) for sid in tokenizer.decode(bundle, text)] for text in texts],
        deadline,
    )
    return json_reply({"decoded": decoded})


@ROUTES.get("/healthz", summary="Whether the process can answer: 503 if the last batch failed")
async def healthz(request: Request) -> Response:
    """503 if the last batch failed."""
    if not request.app.state.service.batcher.is_alive:
        return refusal(503, "the last batch failed, and the log of the service says where")
    return json_reply({"ok": True})


@ROUTES.get(
    "/readyz",
    summary="Whether the service takes calls, and which model, bundle and memory it serves",
)
async def readyz(request: Request) -> Response:
    """What is served; 503 if the service is ending, or the last batch failed."""
    service: Service = request.app.state.service
    if service.is_draining:
        return refusal(503, "the service is ending")
    if not service.batcher.is_alive:
        return await healthz(request)
    not_taken = service.watcher.last_error or None
    return json_reply({"ready": True, **service.batcher.served.to_json(), "not_taken": not_taken})


@ROUTES.get("/metrics", summary="Numbers for Prometheus")
async def metrics(request: Request) -> Response:
    """Numbers in the text format of Prometheus."""
    return Response(request.app.state.service.metrics.page(), media_type=METRICS_TYPE)


async def _refuse(_: Request, error: Exception) -> Response:
    """The answer to a call that raised an error: of sidtool's own, 400 for a wrong option, 501 for
    a package that the service lacks, else 422."""
    if isinstance(error, HTTPException):
        return refusal(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, Busy):
        return refusal(429, str(error), headers={"retry-after": str(error.seconds)})
    if isinstance(error, TimeoutError):
        message = "no answer within the time limit of the service"
        return refusal(503, message, headers={"retry-after": "1"})
    assert isinstance(error, SidtoolError)
    kinds = ((UsageError, 400), (MissingPackageError, 501))
    status = next((status for kind, status in kinds if isinstance(error, kind)), 422)
    return refusal(status, str(error), hint=error.hint)


def make_app(
    options: ServeOptions,
    service: Service | None = None,
    *,
    on_start: Callable[[], object] | None = None,
) -> FastAPI:
    """The application of one process. Without a `service` that is open already, its lifespan
    loads the model; it starts the model's thread, and at its end answers what waits. `on_start`
    is called when calls can be answered.

    An error of the start, as of a model that cannot be loaded, is one line in the log."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            # of a worker, whose folder for temporary files is removed by its supervisor
            app.state.service = service or Service.open(options, Path(mkdtemp()))
            app.state.service.watcher.start()
            if on_start is not None:
                on_start()
        except Exception as error:
            kind = "" if isinstance(error, SidtoolError) else f"{type(error).__name__}: "
            log.error("%s%s", kind, error)
            raise
        yield
        await app.state.service.stop()

    app = FastAPI(
        title="sidtool",
        summary="Recommendations by semantic IDs",
        version=VERSION,
        routes=ROUTES.routes,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirection names the host that the client names
    )
    app.add_middleware(Guard, token=options.token, open_paths=OPEN_PATHS)
    for kind in (HTTPException, SidtoolError, Busy, TimeoutError):
        app.add_exception_handler(kind, _refuse)
    return app
