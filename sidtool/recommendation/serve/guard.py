"""What all endpoints share: replies, the reading of a body, and `Guard`, which admits calls that
have the token, counts them, and ends those that fail."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sidtool.base.visible import visible
from sidtool.recommendation.serve.log import frames
from sidtool.recommendation.serve.serve_options import ServeLimits

log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware around all endpoints."""

    def __init__(self, app: Any, token: str | None, open_paths: Collection[str]) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._open_paths = open_paths
        """Paths that need no token."""

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

        tokens = [value for name, value in scope["headers"] if name == b"authorization"]
        is_admitted = self._expected is None or scope["path"] in self._open_paths
        if not is_admitted and self._expected is not None and len(tokens) == 1:
            is_admitted = hmac.compare_digest(tokens[0], self._expected)
        try:
            if is_admitted:
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
            route_paths = {route.path for route in scope["app"].routes}
            path = scope["path"] if scope["path"] in route_paths else "other"
            seconds = time.monotonic() - start
            metrics = scope["app"].state.service.metrics
            metrics.calls.labels(path, status).inc()
            metrics.call_seconds.labels(path).observe(seconds)
            log.debug("%s %s %s %.1f ms", scope["method"], path, status, 1000 * seconds)


async def read_body(request: Request, limits: ServeLimits) -> tuple[bytes, float]:
    """The body of a call, and the time of the loop until which it arrives and the call is answered.
    Raises HTTPException 413 if it is too long, 408 if it does not arrive in time, 400 if it ends
    early."""
    deadline = asyncio.get_running_loop().time() + limits.seconds
    message = f"the body has more than {limits.max_body} bytes"
    too_long = HTTPException(413, message, {"connection": "close"})
    length = request.headers.get("content-length", "")
    if "expect" in request.headers and length.isdigit() and int(length) > limits.max_body:
        raise too_long  # the client waits before it sends the body
    body = bytearray()
    try:
        async with asyncio.timeout_at(deadline):
            async for piece in request.stream():
                # a long one is read to its end: whoever still sends does not read the answer
                if len(body) <= limits.max_body:
                    body += piece
    except TimeoutError:
        if len(body) <= limits.max_body:
            detail = f"the body did not arrive within {limits.seconds:g} seconds"
            raise HTTPException(408, detail, {"connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed within the body") from None
    if len(body) > limits.max_body:
        raise too_long
    return bytes(body), deadline


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
