"""JSON files as rows or as columns of strings, and cells that spell a list, as JSON or as a Python
literal."""

import ast
import json
import re
from collections.abc import Callable, Container, Iterator, Sequence
from itertools import islice
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

from sidtool.base.documents import check_strings, parse_json, parse_json_row
from sidtool.base.errors import DataError
from sidtool.data.coded import Column
from sidtool.data.tables.opening import BLOCK_BYTES, open_file, read_errors

JSON = (".jsonl", ".ndjson", ".json")
HEAD_ROWS = 1000
"""Rows that are read to find out which columns there are."""
KEY_COLUMN = "item_id"
"""Column of the keys of a JSON object of objects."""
WHOLE_NUMBER = re.compile(r"-?[0-9]+")


class Number(str):
    """A number of a JSON file, by its digits: 1.50 stays 1.50, and any number of digits stays."""


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank. Raises DataError, with the line, if it
    is no JSON object."""
    with read_errors(path):
        yield from _json_lines(path, parse_json)


def json_column_names(path: Path) -> tuple[str, ...]:
    """The keys of the first HEAD_ROWS rows. Raises DataError if there are no rows."""
    rows = islice(_json_rows(path), HEAD_ROWS)
    names = tuple(dict.fromkeys(name for _, row in rows for name in row))
    if not names:
        raise DataError(f"{path} holds no rows")
    for name in names:
        check_strings(name)
    return names


def json_batches(
    path: Path, names: Sequence[str], ids: Container[str]
) -> Iterator[dict[str, Column]]:
    """The named columns in one batch, null where a row lacks one; those in `ids` by `as_id`. Raises
    DataError for a malformed row."""
    import pyarrow as pa

    if not _is_json(path):
        try:
            # fast, if every value of these columns is a string
            yield _read_json_strings(path, names)
            return
        except (pa.ArrowInvalid, UnicodeDecodeError):
            pass  # a value is no string, or a line is malformed: Python's parser names the line
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    for place, row in _json_rows(path):
        for name, values in columns.items():
            spell = as_id if name in ids else as_text
            try:
                values.append(spell(row.get(name)))
            except ValueError as error:
                raise DataError(f"{path}, {place}, {name!r}: {error}") from error
    yield {
        name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in columns.items()
    }


def _is_json(path: Path) -> bool:
    """Whether a name says that its file may be one list or object, not JSON Lines."""
    return path.name.lower().removesuffix(".gz").endswith(".json")


def as_text(value: Any) -> str | None:
    """A JSON value as text: a number keeps its digits, a list or object becomes JSON, null and NaN
    (a missing number, as pandas writes it) are None.

    Raises ValueError for a lone surrogate, and for bytes that are not UTF-8.
    """
    if value is None or value != value:
        return None
    if isinstance(value, str):
        text = str(value)
    else:
        text = json.dumps(_plain(value), ensure_ascii=False, default=_spell)
    check_strings(text)
    return text


def as_id(value: Any) -> str | None:
    """A JSON value as an id: a text, or the digits of a whole number, so that 1 and "1" are one id;
    None for null.

    Raises ValueError for any other value: 1.0 and true are no ids.
    """
    if value is None:
        return None
    is_whole = type(value) is int or (isinstance(value, Number) and WHOLE_NUMBER.fullmatch(value))
    if not (is_whole or type(value) is str):
        spelled = json.dumps(_plain(value), default=str)[:40]
        raise ValueError(f"{spelled} is no id, which is a text or a whole number")
    check_strings(value)
    return str(value)


def is_id(value: Any) -> bool:
    """Whether a JSON value is an id: a text that is not empty, or a whole number."""
    return type(value) is int or (type(value) is str and value != "")


def _spell(value: Any) -> str:
    """A value of a Parquet list that JSON has no type for. Raises ValueError for bytes that are not
    UTF-8."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    """A JSON value with numbers in place of their digits."""
    if isinstance(value, Number):
        return parse_json(value)
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value] if isinstance(value, list) else value


def _read_json_strings(path: Path, names: Sequence[str]) -> dict[str, Column]:
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


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row, and where it is; its numbers are instances of Number."""
    if _is_json(path) and not _is_json_lines(path):
        yield from _json_document(path)
        return
    for number, row in _json_lines(path, _parse_row):
        yield f"line {number}", row


def _parse_row(text: bytes) -> Any:
    return parse_json_row(text, parse_number=Number)


def _json_lines(path: Path, parse: Callable[[bytes], Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_file(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = parse(line)
            except json.JSONDecodeError as error:
                reason = f"not JSON ({error.msg} at column {error.colno})"
                raise DataError(f"{path}, line {number}: {reason}") from error
            except ValueError as error:
                reason = str(error) if str(error) == "not UTF-8" else f"not JSON ({error})"
                raise DataError(f"{path}, line {number}: {reason}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: not a JSON object")
            yield number, row


def _is_json_lines(path: Path) -> bool:
    """Whether the first line alone is one row, not an object that contains all rows."""
    with open_file(path) as stream:
        first = next((line for line in stream if line.strip()), b"")
    try:
        row = _parse_row(first)
    except json.JSONDecodeError:
        return False
    except ValueError:
        return True  # so that the line is named
    return isinstance(row, dict) and not (row and _is_keyed(row))


def _json_document(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open_file(path) as stream:
        content = stream.read()
    try:
        value = _parse_row(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if _is_keyed(value):
        for key, row in value.items():
            if as_text(row.get(KEY_COLUMN, key)) != key:
                raise DataError(f"{path}, item {key!r}: its {KEY_COLUMN!r} is {row[KEY_COLUMN]!r}")
            yield f"item {key!r}", {**row, KEY_COLUMN: key}
        return
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DataError(f"{path} is neither a list of objects nor an object of objects")
    for number, row in enumerate(value, 1):
        yield f"row {number}", row


def _is_keyed(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(row, dict) for row in value.values())


TOKEN = re.compile(
    r"""\s*(?:([\[\],])|('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")|(-?(?:0|[1-9][0-9]*))(?![\w.]))\s*""",
    re.DOTALL,
)
"""A bracket or comma, a quoted text, or a whole number of a Python list."""


def parse_list(text: str) -> list[Any] | None:
    """The list that a cell spells as JSON, or as a Python literal of texts, whole numbers and
    lists; None if it spells none."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        return list(parse_json(text))
    except ValueError:
        return _parse_literal(text)


def _parse_literal(text: str) -> list[Any] | None:
    """A stricter `ast.literal_eval`, which joins texts without a comma between them (as NumPy
    prints arrays) and can exhaust the stack: the tokens of the list, as those of a JSON list."""
    tokens: list[str] = []
    position = 0
    while position < len(text):
        token = TOKEN.match(text, position)
        if token is None:
            return None
        position = token.end()
        mark, quoted, number = token.groups()
        if mark == "]" and tokens[-1:] == [","] and tokens[-2:] != ["[", ","]:
            tokens.pop()  # Python allows a comma behind the last member
        try:
            literal = quoted and (ast.literal_eval(quoted) if "\\" in quoted else quoted[1:-1])
            tokens.append(mark or number or encode_basestring(literal))
        except (ValueError, SyntaxError):  # a malformed escape
            return None
    try:
        return list(parse_json(" ".join(tokens)))
    except ValueError:  # also for a lone surrogate, and for a number of thousands of digits
        return None
