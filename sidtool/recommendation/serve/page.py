"""The endpoints as an HTML page, without scripts: it loads nothing from other hosts."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

_HEAD = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>sidtool: endpoints</title>"
    "<style>body{font-family:sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "pre{background:#f4f4f4;padding:1rem;overflow:auto}</style>"
    "<h1>sidtool: endpoints</h1><p>The same as OpenAPI: <a href=/openapi.json>/openapi.json</a>."
)


def endpoint_page(openapi: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    parts = [_HEAD]
    for path, methods in openapi["paths"].items():
        for method, endpoint in methods.items():
            parts.append(f"<h2>{escape(method.upper())} {escape(path)}</h2>")
            parts.append(f"<p>{escape(endpoint.get('summary', ''))}.")
            if "description" in endpoint:
                parts.append(f"<p>{escape(endpoint['description'])}")
            parts.extend(_details(endpoint))
    return "\n".join(parts)


def _details(endpoint: Mapping[str, Any]) -> list[str]:
    """The schema of the body, and the statuses of answers."""
    parts = []
    body = endpoint.get("requestBody")
    if body:
        schema = body["content"]["application/json"]["schema"]
        text = escape(json.dumps(schema, indent=1))
        parts.append(f"<details><summary>Body</summary><pre>{text}</pre></details>")
    rows = [
        f"<li>{escape(status)}: {escape(response.get('description', ''))}"
        for status, response in endpoint.get("responses", {}).items()
    ]
    return [*parts, f"<ul>{''.join(rows)}</ul>"]
