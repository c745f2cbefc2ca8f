"""Search queries: what somebody typed, and the item that was meant.

    queries.jsonl   {"item": "i3", "text": "a film like Alien but funny"}
                    {"item": "i3", "text": "something for tonight", "user": "u1"}

A query with a user is an event of that user, so a row of it may only be made if the event is a
training event. Knows nothing of semantic IDs or prompts. Queries are read, or composed of catalog
columns by a template that the user writes; none is ever made up."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidtool.data.items import Items, render, template_columns
from sidtool.data.json_tables import json_lines
from sidtool.errors import DataError, UsageError


@dataclass(frozen=True)
class Query:
    """A text in one line, and the id of the item that it means; `user` where it is an event of
    somebody's."""

    item: str
    text: str
    user: str | None = None


def read_queries(path: Path) -> tuple[Query, ...]:
    """The queries of a JSON Lines file. Raises DataError, with the line, for a malformed one, and
    if there is none."""
    found = tuple(_read(path))
    if not found:
        raise DataError(f"{path} holds no query")
    return found


def compose_queries(items: Items, template: str) -> tuple[Query, ...]:
    """A query for each item, filled in like the text of an item; items for which it comes out empty
    have none.

    Raises UsageError if the items lack a column of the template.
    """
    names = template_columns(template)
    columns = {"title": items.titles, **items.fields}
    missing = [name for name in names if name not in columns]
    if missing:
        raise UsageError(f"query template {template!r} needs the column {missing[0]!r}")
    texts = (
        render(template, {name: columns[name][row] for name in names}) for row in range(len(items))
    )
    return tuple(Query(item, text) for item, text in zip(items.ids, texts, strict=True) if text)


def _read(path: Path) -> Iterator[Query]:
    for number, row in json_lines(path):
        item, text, user = (row.get(key) for key in ("item", "text", "user"))
        if not isinstance(item, str | int) or not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{path}, line {number}: a query is {{item, text}} and maybe user, not "
                f"{sorted(row)}"
            )
        yield Query(str(item), " ".join(text.split()), None if user is None else str(user))
