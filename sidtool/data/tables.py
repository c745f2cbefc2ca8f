"""Files of rows, whatever their container: which columns they have, and those columns as strings.

The suffix tells the container (a further `.gz` is seen through):

    .csv .tsv                comma or tab separated, quoted as CSV is, with a header .item .inter
    .user       RecBole: tab separated, never quoted, header `name:type` .jsonl .ndjson
    one JSON object a line .json                    JSON Lines as well, or one list of objects, or
    one object of objects (MiniOneRec's
                             item.json), whose keys become the column `item_id`
    .parquet .pq             a Parquet file, or a folder of them

Only the columns asked for are read, each as text: a number as it is spelled, a list or an object as
its JSON. So mixed types (Amazon's `price`) do no harm. Knows nothing of what the columns mean."""

import ast
import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from sidtool.errors import DataError, UsageError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".item": "\t", ".inter": "\t", ".user": "\t"}
RECBOLE = (".item", ".inter", ".user")
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".json", ".parquet", ".pq")
HEAD_ROWS = 1000
"""JSON rows that are looked at to learn which columns there are."""
KEY_COLUMN = "item_id"
"""Column that holds the keys of a JSON object of objects."""
BLOCK_BYTES = 1 << 24

Column = Any
"""A pyarrow ChunkedArray of strings: pyarrow is imported where it is used, so its types are not
named here."""


def column_names(path: Path) -> tuple[str, ...]:
    """The columns of a file, in file order; for JSON those of the first thousand rows. Raises
    DataError."""
    kind = suffix(path)
    with _reading(path):
        if kind in DELIMITERS:
            return _header(path, kind)
        if kind in (".parquet", ".pq"):
            import pyarrow.parquet as pq

            return tuple(pq.ParquetDataset(path).schema.names)
        names = tuple(
            dict.fromkeys(name for row in islice(_json_rows(path), HEAD_ROWS) for name in row)
        )
        if not names:
            raise DataError(f"{path} holds no rows")
        return names


def read_columns(path: Path, names: Sequence[str]) -> dict[str, Column]:
    """The named columns as pyarrow string arrays of one length, null where a row has no value.

    Raises DataError, with file and line, if the file is missing or malformed.
    """
    kind, names = suffix(path), list(dict.fromkeys(names))
    with _reading(path):
        if kind in DELIMITERS:
            return _read_delimited(path, kind, names)
        if kind in (".parquet", ".pq"):
            return _read_parquet(path, names)
        return _read_json(path, kind, names)


def choose_column(
    path: Path, available: Sequence[str], asked: str | None, conventional: Sequence[str], what: str
) -> str | None:
    """The column asked for, else the first that bears a conventional name, else None.

    Names are compared without regard to case, `_`, `-` and blanks: `movieId` is `movie_id`.
    Raises UsageError if the file lacks the column asked for.
    """
    if asked is not None:
        if asked not in available:
            raise UsageError(
                f"{path} has no column {asked!r} for the {what}",
                hint=f"it has {', '.join(available)}",
            )
        return asked
    plain = {_plain_name(name): name for name in reversed(available)}
    return next(
        (plain[_plain_name(name)] for name in conventional if _plain_name(name) in plain), None
    )


def need_column(
    path: Path,
    available: Sequence[str],
    asked: str | None,
    conventional: Sequence[str],
    what: str,
    flag: str,
) -> str:
    """As `choose_column`, and UsageError if there is none."""
    name = choose_column(path, available, asked, conventional, what)
    if name is None:
        raise UsageError(
            f"{path} has no column that looks like the {what}: {', '.join(available)}",
            hint=f"name it with {flag}",
        )
    return name


def suffix(path: Path) -> str:
    """The suffix that names the container, without `.gz`. Raises DataError if it is none of
    SUFFIXES."""
    name = path.name.lower().removesuffix(".gz")
    found = next((known for known in SUFFIXES if name.endswith(known)), None)
    if found is None:
        raise DataError(
            f"{path}: cannot tell the container from the name",
            hint=f"known are {' '.join(SUFFIXES)}",
        )
    return found


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank. Raises DataError at a line that is no
    JSON object."""
    with _reading(path), _open(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, _json_object(path, number, line)


def parse_list(text: str) -> list[Any] | None:
    """The list that a cell spells in JSON or as a Python literal, or None if it spells none."""
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
    """A JSON value as text: None stays, a number is spelled, a list or object becomes JSON."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    # a lone surrogate is no text: it could be neither hashed nor tokenized
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one line that names the file."""
    import pyarrow as pa

    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        yield
    except (OSError, EOFError, UnicodeError, csv.Error, zlib.error, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        yield cast(BinaryIO, stream)


def _plain_name(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


# Delimited text


def _csv_rows(path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    """Line at which each row ends and its cells: slow, for headers and for finding what is wrong."""
    with _open(path) as stream:
        lines = TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        reader = csv.reader(
            lines,
            delimiter=DELIMITERS[kind],
            quoting=csv.QUOTE_NONE if kind in RECBOLE else csv.QUOTE_MINIMAL,
        )
        for cells in reader:
            yield reader.line_num, cells


def _header(path: Path, kind: str) -> tuple[str, ...]:
    _, cells = next(_csv_rows(path, kind), (0, []))
    names = tuple(cell.split(":")[0] if kind in RECBOLE else cell for cell in cells)
    if not any(names):
        raise DataError(f"{path} is empty: its first line should name the columns")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns named {twice!r}")
    return names


def _read_delimited(path: Path, kind: str, names: list[str]) -> dict[str, Column]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    quoted = kind not in RECBOLE
    try:
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(
                column_names=_header(path, kind),
                skip_rows=1,
                block_size=BLOCK_BYTES,
                encoding="utf-8",
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=DELIMITERS[kind],
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
            ),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):  # a header and nothing else
            return {name: pa.chunked_array([], pa.string()) for name in names}
        raise _malformed_row(path, kind, error) from error
    return {name: table[name] for name in names}


def _malformed_row(path: Path, kind: str, error: Exception) -> DataError:
    """Where the first row with a wrong number of cells ends; pyarrow counts neither blank nor
    quoted lines."""
    width = len(_header(path, kind))
    try:
        for line, cells in _csv_rows(path, kind):
            if cells and len(cells) != width:
                return DataError(f"{path}, line {line}: {len(cells)} cells, the header has {width}")
            if any("�" in cell for cell in cells):
                return DataError(f"{path}, line {line}: not UTF-8")
    except csv.Error:
        pass
    return DataError(f"{path} is malformed: {str(error).splitlines()[0]}")


# Parquet


def _read_parquet(path: Path, names: list[str]) -> dict[str, Column]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=names)
    return {name: _strings(table[name]) for name in names}


def _strings(column: Column) -> Column:
    import pyarrow as pa

    try:
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # lists and structs
        return pa.chunked_array(
            [pa.array([as_text(value) for value in column.to_pylist()], pa.string())]
        )


# JSON


def _read_json(path: Path, kind: str, names: list[str]) -> dict[str, Column]:
    """pyarrow where every value asked for is a string; else, or where a line is malformed, Python's
    own parser."""
    import pyarrow as pa

    if kind != ".json":
        try:
            return _read_json_strings(path, names)
        except (pa.ArrowInvalid, UnicodeDecodeError):
            pass
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    for row in _json_rows(path):
        for name, values in columns.items():
            values.append(as_text(row.get(name)))
    return {
        name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in columns.items()
    }


def _read_json_strings(path: Path, names: list[str]) -> dict[str, Column]:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    with _open(path) as stream:
        table = arrow_json.read_json(
            stream,
            read_options=arrow_json.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=pa.schema([(name, pa.string()) for name in names]),
                unexpected_field_behavior="ignore",
            ),
        )
    table.validate(
        full=True
    )  # of what was read as a string nobody has looked yet whether it is UTF-8
    return {name: table[name] for name in names}


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    if suffix(path) == ".json" and not _is_json_lines(path):
        yield from _json_document(path)
        return
    for _, row in json_lines(path):
        yield row


def _is_json_lines(path: Path) -> bool:
    """Whether the first line alone is an object that is a row, not a whole object of rows."""
    with _open(path) as stream:
        first = next((line for line in stream if line.strip()), b"")
    try:
        row = json.loads(first)
    except ValueError:
        return False
    return isinstance(row, dict) and not (
        row and all(isinstance(value, dict) for value in row.values())
    )


def _json_document(path: Path) -> Iterator[dict[str, Any]]:
    with _open(path) as stream:
        content = stream.read()
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8") from error
    rows = [{**row, KEY_COLUMN: key} for key, row in value.items()] if _is_keyed(value) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} is neither a list of objects nor an object of objects")
    yield from rows


def _is_keyed(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(row, dict) for row in value.values())


def _json_object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}, line {number}: not UTF-8") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: not a JSON object")
    return row
