"""JSON files as rows or as columns of strings."""

import ast
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sidtool.data.containers import BLOCK_BYTES, Column, open_file, read_errors, suffix
from sidtool.errors import DataError

HEAD_ROWS = 1000
"""Rows that are read to find out which columns there are."""
KEY_COLUMN = "item_id"
"""Column of the keys of a JSON object of objects."""


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank. Raises DataError, with the line, if it
    is no JSON object."""
    with read_errors(path), open_file(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, _json_object(path, number, line)


def json_column_names(path: Path) -> tuple[str, ...]:
    """The keys of the first HEAD_ROWS rows. Raises DataError if there are no rows."""
    rows = islice(_json_rows(path), HEAD_ROWS)
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise DataError(f"{path} holds no rows")
    return names


def read_json(path: Path, kind: str, names: Sequence[str]) -> dict[str, Column]:
    """The named columns, null where a row lacks one. Raises DataError for a malformed row."""
    import pyarrow as pa

    if kind != ".json":
        try:
            return _read_json_strings(path, names)
        except (pa.ArrowInvalid, UnicodeDecodeError):
            pass  # a value is no string, or a line is malformed: Python's parser names the line
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    for row in _json_rows(path):
        for name, values in columns.items():
            values.append(as_text(row.get(name)))
    return {
        name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in columns.items()
    }


def parse_list(text: str) -> list[Any] | None:
    """The list that a cell spells as JSON or as a Python literal, or None if it spells none."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return list(parse(text))
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
    return None


def as_text(value: Any) -> str | None:
    """A JSON value as text: None stays None, a number keeps its digits, a list or object becomes
    JSON."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    # a lone surrogate can be neither hashed nor tokenized, so it is replaced
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _read_json_strings(path: Path, names: Sequence[str]) -> dict[str, Column]:
    """Fast, for files in which every value of these columns is a string."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    schema = pa.schema([(name, pa.string()) for name in names])
    parse_options = arrow_json.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="ignore"
    )
    read_options = arrow_json.ReadOptions(block_size=BLOCK_BYTES)
    with open_file(path) as stream:
        table = arrow_json.read_json(stream, read_options, parse_options)
    table.validate(full=True)  # pyarrow has not checked yet that the strings are UTF-8
    return {name: table[name] for name in names}


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    if suffix(path) == ".json" and not _is_json_lines(path):
        yield from _json_document(path)
        return
    for _, row in json_lines(path):
        yield row


def _is_json_lines(path: Path) -> bool:
    """Whether the first line alone is one row, not an object that contains all rows."""
    with open_file(path) as stream:
        first = next((line for line in stream if line.strip()), b"")
    try:
        row = json.loads(first)
    except ValueError:
        return False
    return isinstance(row, dict) and not (row and _is_keyed(row))


def _json_document(path: Path) -> Iterator[dict[str, Any]]:
    with open_file(path) as stream:
        content = stream.read()
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8") from error
    rows = value
    if _is_keyed(value):
        rows = [{**row, KEY_COLUMN: key} for key, row in value.items()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is neither a list of objects nor an object of objects")
    yield from rows


def _is_keyed(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(row, dict) for row in value.values())


def _json_object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.colno}"
        raise DataError(f"{path}, line {number}: not JSON ({reason})") from error
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not UTF-8") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: not a JSON object")
    return row
