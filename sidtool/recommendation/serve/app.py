"""The HTTP endpoints: each reads a body, asks the service, and spells the answer."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from sidtool.base.errors import MissingPackageError, SidtoolError, UsageError
from sidtool.recommendation.requests import BadRequest
from sidtool.recommendation.serve import schema
from sidtool.recommendation.serve.batcher import Answered, Busy
from sidtool.recommendation.serve.bodies import Call, read_call, read_texts, read_vectors
from sidtool.recommendation.serve.guard import Guard
from sidtool.recommendation.serve.page import endpoint_page
from sidtool.recommendation.serve.reading import read_body
from sidtool.recommendation.serve.replies import json_reply, refusal
from sidtool.recommendation.serve.serve_options import ServeOptions
from sidtool.recommendation.serve.service import Service

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PAGE_POLICY = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}

log = logging.getLogger(__name__)


def make_app(
    options: ServeOptions,
    service: Service | None = None,
    *,
    on_start: Callable[[], object] | None = None,
) -> FastAPI:
    """The application of one process. Without a `service` that is open already, its lifespan
    loads the model; it starts the model's thread, and at its end answers what waits. `on_start`
    is called when calls can be answered.

    A model that cannot be loaded is one line in the log, and ends the start."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            # of a worker, whose folder for temporary files is removed by its supervisor
            app.state.service = service or Service.open(options, Path(mkdtemp()))
        except SidtoolError as error:
            log.error("%s", error)
            raise
        app.state.service.start()
        if on_start is not None:
            on_start()
        yield
        await app.state.service.stop()

    app = FastAPI(
        title="sidtool",
        summary="Recommendations by semantic IDs",
        version=schema.VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirection names the host that the client names
    )
    app.add_middleware(Guard, token=options.token)
    app.add_exception_handler(HTTPException, _http_refusal)
    app.add_exception_handler(SidtoolError, _refusal)
    app.add_exception_handler(Busy, _busy)
    app.add_exception_handler(TimeoutError, _late)
    _add_inference(app)
    _add_lookups(app)
    _add_operations(app)
    return app


def _add_inference(app: FastAPI) -> None:
    @app.post("/v1/recommend", **schema.RECOMMEND)
    async def recommend(request: Request) -> Response:
        return await _answer(request, scores=False)

    @app.post("/v1/score", **schema.SCORE)
    async def score(request: Request) -> Response:
        return await _answer(request, scores=True)


async def _answer(request: Request, *, scores: bool) -> Response:
    service: Service = request.app.state.service
    limits = service.options.limits
    deadline = service.deadline()
    call = read_call(await read_body(request, limits, deadline), limits, scores=scores)
    return _spell_answers(call, await service.answer(call, deadline))


def _spell_answers(call: Call, answered: list[Answered]) -> Response:
    """One answer as `recommend --json` prints it, or a list of them; a header names the bundles
    that they are from."""
    bundles = dict.fromkeys(each.served.loaded.bundle.digest[:12] for each in answered)
    headers = {"sidtool-bundle": ", ".join(bundles)}
    if not call.is_one:
        return json_reply({"answers": [_to_json(each) for each in answered]}, headers)
    answer = answered[0].answer
    if answer is None:
        return refusal(500, "the request failed, and the log of the service says where")
    if isinstance(answer, BadRequest):
        return _refusal_of(answer.error)
    return json_reply(answer.to_json(), headers)


def _to_json(answered: Answered) -> Mapping[str, Any]:
    if answered.answer is None:
        return {"error": "the request failed, and the log of the service says where"}
    return answered.answer.to_json()


def _add_lookups(app: FastAPI) -> None:
    @app.post("/v1/encode", **schema.ENCODE)
    async def encode(request: Request) -> Response:
        service: Service = request.app.state.service
        deadline = service.deadline()
        inputs = read_vectors(await read_body(request, service.options.limits, deadline))
        return json_reply({"encodings": await service.encodings(inputs, deadline)})

    @app.post("/v1/decode", **schema.DECODE)
    async def decode(request: Request) -> Response:
        service: Service = request.app.state.service
        deadline = service.deadline()
        texts = read_texts(await read_body(request, service.options.limits, deadline))
        return json_reply({"decoded": await service.decoded(texts, deadline)})


def _add_operations(app: FastAPI) -> None:
    @app.get("/healthz", **schema.HEALTH)
    async def healthz(request: Request) -> Response:
        service: Service = request.app.state.service
        if not service.is_alive:
            return refusal(503, "the thread of the model has ended")
        return json_reply({"ok": True})

    @app.get("/readyz", **schema.READY)
    async def readyz(request: Request) -> Response:
        service: Service = request.app.state.service
        if service.is_draining or not service.is_alive:
            return refusal(503, "the service is ending")
        not_taken = service.watcher.last_error or None
        return json_reply({"ready": True, **service.served.to_json(), "not_taken": not_taken})

    @app.get("/metrics", **schema.METRICS)
    async def metrics(request: Request) -> Response:
        return Response(request.app.state.service.metrics.page(), media_type=METRICS_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = endpoint_page(app.openapi())
        return Response(page, media_type="text/html; charset=utf-8", headers=PAGE_POLICY)


def _refusal_of(error: SidtoolError) -> Response:
    """400 for a wrong option, 501 for a package that the service lacks, else 422."""
    kinds = ((UsageError, 400), (MissingPackageError, 501))
    status = next((status for kind, status in kinds if isinstance(error, kind)), 422)
    return refusal(status, str(error), hint=error.hint)


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, SidtoolError)
    return _refusal_of(error)


async def _http_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refusal(error.status_code, str(error.detail), headers=error.headers)


async def _busy(_: Request, error: Exception) -> Response:
    assert isinstance(error, Busy)
    return refusal(429, str(error), headers={"retry-after": str(error.seconds)})


async def _late(_: Request, __: Exception) -> Response:
    message = "no answer within the time limit of the service"
    return refusal(503, message, headers={"retry-after": "1"})
