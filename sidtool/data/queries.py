"""Search queries: a text, and the item that the user looked for.

    queries.jsonl   {"item": "i3", "text": "a film like Alien but funny"}
                    {"item": "i3", "text": "something for tonight", "user": "u1"}

A query with a user is an event of that user: it enters training examples only if the event is a
training event. Queries are read from a file, or composed of catalog columns by a template."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidtool.data.items import Items, render, template_columns
from sidtool.data.json_tables import is_id, json_lines
from sidtool.errors import DataError, UsageError


@dataclass(frozen=True)
class Query:
    """A query text (one line), the id of its item, and its user if it is an event."""

    item: str
    text: str
    user: str | None = None


def read_queries(path: Path) -> tuple[Query, ...]:
    """The queries of a JSON Lines file. Raises DataError, with the line, for a malformed query, and
    if there are none."""
    queries = tuple(_read(path))
    if not queries:
        raise DataError(f"{path} holds no queries")
    return queries


def compose_queries(items: Items, template: str) -> tuple[Query, ...]:
    """A query for each item from a template of its columns, as item texts are made; items with an
    empty result have no query.

    Raises UsageError if the items lack a column of the template.
    """
    columns = {"title": items.titles, **items.fields}
    names = template_columns(template)
    missing = [name for name in names if name not in columns]
    if missing:
        raise UsageError(f"query template {template!r} needs the column {missing[0]!r}")
    queries = []
    for row, item in enumerate(items.ids):
        text = render(template, {name: columns[name][row] for name in names})
        if text:
            queries.append(Query(item, text))
    return tuple(queries)


def _read(path: Path) -> Iterator[Query]:
    for number, row in json_lines(path):
        item = row.get("item")
        text = row.get("text")
        user = row.get("user")
        if not is_id(item) or not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{path}, line {number}: a query has the keys item and text, and optionally user, "
                f"not {sorted(row)}"
            )
        if user is not None and not is_id(user):
            raise DataError(f"{path}, line {number}: the user is {user!r}, not an id")
        yield Query(str(item), " ".join(text.split()), None if user is None else str(user))
