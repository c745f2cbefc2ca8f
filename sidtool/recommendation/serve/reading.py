"""Reads the body of a call within the limits of size and time."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from sidtool.recommendation.serve.serve_options import ServeLimits


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
