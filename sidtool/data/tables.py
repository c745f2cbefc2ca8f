"""Tables in files of any type (`containers`): which columns they have, and columns as strings.

Only the columns that are named are read, each as text: a number with its digits, a list or an
object as JSON. So columns of mixed types (Amazon's `price`) can be read.

Ids are stricter: a text as it stands, with blanks around it, or a whole number. 1 and "1" are one
id; 1.0 and true are none. In a CSV file every cell is a text."""

from collections.abc import Sequence
from pathlib import Path

from sidtool.data.containers import DELIMITERS, PARQUET, Column, read_errors, suffix
from sidtool.data.delimited import header, read_delimited
from sidtool.data.json_tables import json_column_names, read_json
from sidtool.data.parquet import parquet_column_names, read_parquet


def column_names(path: Path) -> tuple[str, ...]:
    """The columns of a file, in file order; of a JSON file those of its first thousand rows. Raises
    DataError."""
    kind = suffix(path)
    with read_errors(path):
        if kind in DELIMITERS:
            return header(path, kind)
        if kind in PARQUET:
            return parquet_column_names(path)
        return json_column_names(path)


def read_columns(path: Path, names: Sequence[str], *, ids: Sequence[str] = ()) -> dict[str, Column]:
    """The named columns as pyarrow string arrays of one length, null where a row has no value.
    `ids` are those of them that hold ids.

    Raises DataError, with file and line, if the file is missing or malformed, or an id is neither
    text nor a whole number.
    """
    kind = suffix(path)
    names = list(dict.fromkeys(names))
    with read_errors(path):
        if kind in DELIMITERS:
            return read_delimited(path, kind, names)
        if kind in PARQUET:
            return read_parquet(path, names, ids)
        return read_json(path, kind, names, ids)
