"""Comma and tab separated files, RecBole's among them, as columns of strings."""

import csv
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path

from sidtool.data.containers import BLOCK_BYTES, DELIMITERS, RECBOLE, Column, open_file
from sidtool.errors import DataError


def header(path: Path, kind: str) -> tuple[str, ...]:
    """The column names in the first line; RecBole's without their type. Raises DataError if there
    are none, or two are equal."""
    _, cells = next(_csv_rows(path, kind), (0, []))
    names = tuple(cell.split(":")[0] if kind in RECBOLE else cell for cell in cells)
    if not any(names):
        raise DataError(f"{path} is empty: its first line should name the columns")
    if len(set(names)) != len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has two columns named {duplicate!r}")
    return names


def read_delimited(path: Path, kind: str, names: Sequence[str]) -> dict[str, Column]:
    """The named columns. Raises DataError, with the line, for a malformed row."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    quoted = kind not in RECBOLE
    read_options = arrow_csv.ReadOptions(
        column_names=header(path, kind), skip_rows=1, block_size=BLOCK_BYTES, encoding="utf-8"
    )
    parse_options = arrow_csv.ParseOptions(
        delimiter=DELIMITERS[kind],
        quote_char='"' if quoted else False,
        newlines_in_values=quoted,
    )
    convert_options = arrow_csv.ConvertOptions(
        include_columns=list(names),
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=False,
    )
    try:
        table = arrow_csv.read_csv(path, read_options, parse_options, convert_options)
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):  # a header and no rows
            return {name: pa.chunked_array([], pa.string()) for name in names}
        raise _malformed_row(path, kind, error) from error
    return {name: table[name] for name in names}


def _csv_rows(path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    """The last line of each row and its cells. Slow: for headers and for error messages."""
    with open_file(path) as stream:
        lines = TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        reader = csv.reader(
            lines,
            delimiter=DELIMITERS[kind],
            quoting=csv.QUOTE_NONE if kind in RECBOLE else csv.QUOTE_MINIMAL,
        )
        for cells in reader:
            yield reader.line_num, cells


def _malformed_row(path: Path, kind: str, error: Exception) -> DataError:
    """An error that names the line of the first malformed row, since pyarrow counts neither blank
    nor quoted lines."""
    width = len(header(path, kind))
    try:
        for line, cells in _csv_rows(path, kind):
            if cells and len(cells) != width:
                return DataError(f"{path}, line {line}: {len(cells)} cells, the header has {width}")
            if any("\N{REPLACEMENT CHARACTER}" in cell for cell in cells):
                return DataError(f"{path}, line {line}: not UTF-8")
    except csv.Error:
        pass
    return DataError(f"{path} is malformed: {str(error).splitlines()[0]}")
