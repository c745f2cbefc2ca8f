"""Tables in files of any type (`containers`), one or several (`locate`): which columns they have,
and columns as strings.

Only the columns that are named are read, each as text: a number with its digits, a list or an
object as JSON. So columns of mixed types (Amazon's `price`) can be read.

Ids are stricter: a text as it stands, with blanks around it, or a whole number. 1 and "1" are one
id; 1.0 and true are none. In a CSV file every cell is a text."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sidtool.base.errors import DataError
from sidtool.data.tables.containers import DELIMITERS, PARQUET, Column, read_errors, suffix
from sidtool.data.tables.delimited import delimited_batches, header, read_delimited
from sidtool.data.tables.json_tables import json_column_names, read_json
from sidtool.data.tables.locate import table_files
from sidtool.data.tables.parquet import parquet_batches, parquet_column_names, read_parquet

MAX_COLUMNS = 1 << 14
"""Each takes some ten thousand bytes, however few are in it."""


def column_names(path: Path) -> tuple[str, ...]:
    """The columns of a table, in file order; of a JSON file those of its first thousand rows. The
    files of a pattern or a folder must have the same columns. Raises DataError."""
    table = table_files(path)
    with table.named_errors():
        names = _column_names(table.files[0])
        for file in table.files[1:]:
            if sorted(_column_names(file)) != sorted(names):
                raise DataError(f"{file} has other columns than {table.files[0]}")
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{path} has {len(names)} columns, more than {MAX_COLUMNS}")
    return names


def read_columns(path: Path, names: Sequence[str], *, ids: Sequence[str] = ()) -> dict[str, Column]:
    """The named columns as pyarrow string arrays of one length, null where a row has no value.
    `ids` are those of them that hold ids. The rows of several files follow each other in the order
    of the files' names.

    Raises DataError, with file and line, if the file is missing or malformed, or an id is neither
    text nor a whole number.
    """
    import pyarrow as pa

    names = list(dict.fromkeys(names))
    table = table_files(path)
    with table.named_errors():
        parts = [_read_columns(file, names, ids) for file in table.files]
    if len(parts) == 1:
        return parts[0]
    return {
        name: pa.chunked_array(
            [chunk for part in parts for chunk in part[name].chunks], pa.string()
        )
        for name in names
    }


def column_batches(
    path: Path, names: Sequence[str], *, ids: Sequence[str] = ()
) -> Iterator[dict[str, Column]]:
    """As `read_columns`, some rows at a time: delimited files in blocks of 16 MiB, Parquet files in
    batches of rows. JSON files are read whole, one after the other, and so is a delimited file that
    only the strict parser reads."""
    names = list(dict.fromkeys(names))
    table = table_files(path)
    with table.named_errors():
        for file in table.files:
            kind = suffix(file)
            with read_errors(file):
                if kind in DELIMITERS:
                    yield from delimited_batches(file, kind, names)
                elif kind in PARQUET:
                    yield from parquet_batches(file, names, ids)
                else:
                    yield read_json(file, kind, names, ids)


def _column_names(path: Path) -> tuple[str, ...]:
    kind = suffix(path)
    with read_errors(path):
        if kind in DELIMITERS:
            return header(path, kind)
        if kind in PARQUET:
            return parquet_column_names(path)
        return json_column_names(path)


def _read_columns(path: Path, names: Sequence[str], ids: Sequence[str]) -> dict[str, Column]:
    kind = suffix(path)
    with read_errors(path):
        if kind in DELIMITERS:
            return read_delimited(path, kind, names)
        if kind in PARQUET:
            return read_parquet(path, names, ids)
        return read_json(path, kind, names, ids)
