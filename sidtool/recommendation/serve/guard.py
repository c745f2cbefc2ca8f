"""Around all endpoints: admits calls that have the token, counts them, and ends those that fail."""

import hmac
import logging
import time
from typing import Any

from sidtool.recommendation.serve.log import frames
from sidtool.recommendation.serve.replies import refusal
from sidtool.recommendation.serve.service import Service

OPEN_PATHS = ("/healthz", "/readyz")
"""Paths that need no token."""

log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware."""

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
