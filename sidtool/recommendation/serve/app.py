"""The HTTP endpoints: each reads a body, asks the service, and spells the answer. Around all of
them `Guard` admits calls that have the token, counts them, and ends those that fail."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sidtool.base.errors import MissingPackageError, SidtoolError, UsageError
from sidtool.base.visible import visible
from sidtool.recommendation.requests import BadRequest
from sidtool.recommendation.serve import schema
from sidtool.recommendation.serve.batcher import Busy
from sidtool.recommendation.serve.bodies import read_call, read_texts, read_vectors
from sidtool.recommendation.serve.log import frames
from sidtool.recommendation.serve.serve_options import ServeLimits, ServeOptions
from sidtool.recommendation.serve.service import Service

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FAILED = "the request failed, and the log of the service says where"
OPEN_PATHS = ("/healthz", "/readyz")
"""Paths that need no token."""

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
    for kind in (HTTPException, SidtoolError, Busy, TimeoutError):
        app.add_exception_handler(kind, _refuse)
    app.post("/v1/recommend", **schema.RECOMMEND)(recommend)
    app.post("/v1/score", **schema.SCORE)(score)
    app.post("/v1/encode", **schema.ENCODE)(encode)
    app.post("/v1/decode", **schema.DECODE)(decode)
    app.get("/healthz", summary=schema.HEALTH)(healthz)
    app.get("/readyz", summary=schema.READY)(readyz)
    app.get("/metrics", summary=schema.METRICS)(metrics)
    return app


async def recommend(request: Request) -> Response:
    """Answer one request or several by beam search."""
    return await _answer(request, scores=False)


async def score(request: Request) -> Response:
    """Answer one request or several by exact scores of candidates."""
    return await _answer(request, scores=True)


async def _answer(request: Request, *, scores: bool) -> Response:
    """One answer as `recommend --json` prints it, or a list of them; a header names the bundles
    that they are from."""
    service: Service = request.app.state.service
    limits = service.options.limits
    deadline = service.deadline()
    call = read_call(await read_body(request, limits, deadline), limits, scores=scores)
    answered = await service.answer(call, deadline)
    bundles = dict.fromkeys(each.served.loaded.bundle.digest[:12] for each in answered)
    headers = {"sidtool-bundle": ", ".join(bundles)}
    answers = [each.answer for each in answered]
    if not call.is_one:
        values = [{"error": FAILED} if answer is None else answer.to_json() for answer in answers]
        return json_reply({"answers": values}, headers)
    (answer,) = answers
    if answer is None:
        return refusal(500, FAILED)
    if isinstance(answer, BadRequest):
        return await _refuse(request, answer.error)
    return json_reply(answer.to_json(), headers)


async def encode(request: Request) -> Response:
    """The SIDs of texts or vectors."""
    service: Service = request.app.state.service
    deadline = service.deadline()
    inputs = read_vectors(await read_body(request, service.options.limits, deadline))
    return json_reply({"encodings": await service.encodings(inputs, deadline)})


async def decode(request: Request) -> Response:
    """The items of SIDs in texts."""
    service: Service = request.app.state.service
    deadline = service.deadline()
    texts = read_texts(await read_body(request, service.options.limits, deadline))
    return json_reply({"decoded": await service.decoded(texts, deadline)})


async def healthz(request: Request) -> Response:
    """503 if the model's thread has ended."""
    if not request.app.state.service.is_alive:
        return refusal(503, "the thread of the model has ended")
    return json_reply({"ok": True})


async def readyz(request: Request) -> Response:
    """What is served; 503 if the service is ending."""
    service: Service = request.app.state.service
    if service.is_draining or not service.is_alive:
        return refusal(503, "the service is ending")
    not_taken = service.watcher.last_error or None
    return json_reply({"ready": True, **service.served.to_json(), "not_taken": not_taken})


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


class Guard:
    """ASGI middleware around all endpoints."""

    def __init__(self, app: Any, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one call, or pass on what is none."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        status = 0

        async def send_counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._admits(scope):
                await self._app(scope, receive, send_counted)
            else:
                challenge = {"www-authenticate": "Bearer"}
                answer = refusal(401, "the bearer token is missing or wrong", headers=challenge)
                await answer(scope, receive, send_counted)
        except Exception as error:
            # the message may quote the body, so it is neither logged nor sent
            log.error("a call failed with %s", frames(error))
            if not status:
                answer = refusal(500, "the call failed, and the log of the service says where")
                await answer(scope, receive, send_counted)
        finally:
            # a client may try any number of other paths
            known = {route.path for route in scope["app"].routes}
            path = scope["path"] if scope["path"] in known else "other"
            seconds = time.monotonic() - start
            service: Service = scope["app"].state.service
            service.metrics.calls.labels(path, status).inc()
            service.metrics.call_seconds.labels(path).observe(seconds)
            log.debug("%s %s %s %.1f ms", scope["method"], path, status, 1000 * seconds)

    def _admits(self, scope: Any) -> bool:
        if self._expected is None or scope["path"] in OPEN_PATHS:
            return True
        tokens = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(tokens) == 1 and hmac.compare_digest(tokens[0], self._expected)


async def read_body(request: Request, limits: ServeLimits, deadline: float) -> bytes:
    """The body of a call, which arrives until `deadline`, a time of the loop. Raises HTTPException
    413 if it is too long, 408 if it does not arrive in time, 400 if it ends early."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.max_body:
        raise _too_long(limits)
    body = bytearray()
    try:
        async with asyncio.timeout_at(deadline):
            async for piece in request.stream():
                body += piece
                if len(body) > limits.max_body:
                    raise _too_long(limits)
    except TimeoutError:
        detail = f"the body did not arrive within {limits.seconds:g} seconds"
        raise HTTPException(408, detail, {"connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed within the body") from None
    return bytes(body)


def _too_long(limits: ServeLimits) -> HTTPException:
    detail = f"the body has more than {limits.max_body} bytes"
    return HTTPException(413, detail, {"connection": "close"})


def json_reply(
    value: Any, headers: Mapping[str, str] | None = None, *, status: int = 200
) -> Response:
    """A JSON value, exactly as the commands print it."""
    content = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return Response(content, status, dict(headers or {}), media_type="application/json")


def refusal(
    status: int, message: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """An error of one line, and what to do next."""
    value = {"error": visible(message)}
    if hint:
        value["hint"] = visible(hint)
    return json_reply(value, headers, status=status)
