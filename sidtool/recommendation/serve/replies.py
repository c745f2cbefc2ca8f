"""Answers and refusals as HTTP responses."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from sidtool.base.visible import visible
from sidtool.recommendation.serve.bodies import spell


def json_reply(
    value: Any, headers: Mapping[str, str] | None = None, *, status: int = 200
) -> Response:
    """A JSON value, exactly as the commands print it."""
    content = spell(value)
    return Response(content, status, dict(headers or {}), media_type="application/json")


def refusal(
    status: int, message: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """An error of one line, and what to do next."""
    value = {"error": visible(message)}
    if hint:
        value["hint"] = visible(hint)
    return json_reply(value, headers, status=status)
