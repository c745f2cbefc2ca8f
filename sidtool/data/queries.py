"""Search queries: a text, and the item that the user looked for.

    queries.jsonl   {"item": "i3", "text": "a film like Alien but funny"}
                    {"item": "i3", "text": "something for tonight", "user": "u1"}

A query with a user is an event of that user: it enters training examples only if the event is a
training event. Queries are read from such a file or a table with these columns, or composed of
catalog columns by a template."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.base.errors import DataError, UsageError
from sidtool.data.columns import Header
from sidtool.data.items import Items, render, template_columns
from sidtool.data.tables.json_tables import JSON, is_id, json_lines
from sidtool.data.tables.opening import table_files
from sidtool.data.tables.tables import column_names, read_columns, suffix

JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Query:
    """A query text (one line), the id of its item, and its user if it is an event."""

    item: str
    text: str
    user: str | None = None


def read_queries(path: Path) -> tuple[Query, ...]:
    """The queries of a JSON Lines file, or of a table of another type with the columns item, text
    and optionally user. Raises DataError, with the line or row, for a malformed query, and if there
    are none; UsageError for a table without items or texts."""
    is_table = suffix(path) not in JSON_LINES
    place = "row" if is_table else "line"
    queries = []
    for number, row in _table_rows(path) if is_table else _lines(path):
        item, text, user = row.get("item"), row.get("text"), row.get("user")
        if not is_id(item) or not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{path}, {place} {number}: a query has an item and a text, and optionally a user, "
                f"not {sorted(row)}"
            )
        if user is not None and not is_id(user):
            raise DataError(f"{path}, {place} {number}: the user is {user!r}, not an id")
        queries.append(
            Query(str(item), " ".join(text.split()), None if user is None else str(user))
        )
    if not queries:
        raise DataError(f"{path} holds no queries")
    return tuple(queries)


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


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, in its file, and object of each line of JSON Lines."""
    table = table_files(path)
    with table.named_errors():
        for file in table.files:
            yield from json_lines(file)


def _table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and cells of each row; empty cells are left out."""
    header = Header(path, column_names(path))
    names = ["item", "text"]
    for name in names:
        header.check(name, "queries")
    # the header of a JSON file is that of its first rows: users may come later
    if "user" in header.names or suffix(path) in JSON:
        names.append("user")
    table = read_columns(path, names, ids=[name for name in names if name != "text"])
    columns = [table[name].to_pylist() for name in names]
    for number, cells in enumerate(zip(*columns, strict=True), start=1):
        yield number, {name: cell for name, cell in zip(names, cells, strict=True) if cell}
