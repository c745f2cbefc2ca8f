"""Tables in files of any type (`containers`): which columns they have, and columns as strings.

Only the columns that are named are read, each as text: a number with its digits, a list or an
object as JSON. So columns of mixed types (Amazon's `price`) can be read."""

from collections.abc import Sequence
from pathlib import Path

from sidtool.data.containers import DELIMITERS, PARQUET, Column, read_errors, suffix
from sidtool.data.delimited import header, read_delimited
from sidtool.data.json_tables import as_text, json_column_names, read_json
from sidtool.errors import UsageError


def column_names(path: Path) -> tuple[str, ...]:
    """The columns of a file, in file order; of a JSON file those of its first thousand rows. Raises
    DataError."""
    kind = suffix(path)
    with read_errors(path):
        if kind in DELIMITERS:
            return header(path, kind)
        if kind in PARQUET:
            import pyarrow.parquet as pq

            return tuple(pq.ParquetDataset(path).schema.names)
        return json_column_names(path)


def read_columns(path: Path, names: Sequence[str]) -> dict[str, Column]:
    """The named columns as pyarrow string arrays of one length, null where a row has no value.

    Raises DataError, with file and line, if the file is missing or malformed.
    """
    kind = suffix(path)
    names = list(dict.fromkeys(names))
    with read_errors(path):
        if kind in DELIMITERS:
            return read_delimited(path, kind, names)
        if kind in PARQUET:
            return _read_parquet(path, names)
        return read_json(path, kind, names)


def choose_column(
    path: Path,
    available: Sequence[str],
    named: str | None,
    conventional: Sequence[str],
    content: str,
) -> str | None:
    """The column `named`, else the first with a conventional name, else None.

    Conventional names are compared without case, `_`, `-` and blanks: `movieId` is `movie_id`.
    `content` describes the column in errors. Raises UsageError if the file lacks the named column.
    """
    if named is not None:
        if named not in available:
            raise UsageError(
                f"{path} has no column {named!r} for the {content}",
                hint=f"it has {', '.join(available)}",
            )
        return named
    by_plain_name = {_plain_name(name): name for name in reversed(available)}
    for name in conventional:
        if _plain_name(name) in by_plain_name:
            return by_plain_name[_plain_name(name)]
    return None


def need_column(
    path: Path,
    available: Sequence[str],
    named: str | None,
    conventional: Sequence[str],
    content: str,
    flag: str,
) -> str:
    """As `choose_column`, but raises UsageError if there is none; `flag` says how to name it."""
    name = choose_column(path, available, named, conventional, content)
    if name is None:
        raise UsageError(
            f"{path} has no column that looks like the {content}: {', '.join(available)}",
            hint=f"name it with {flag}",
        )
    return name


def _plain_name(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _read_parquet(path: Path, names: list[str]) -> dict[str, Column]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=names)
    return {name: _strings(table[name]) for name in names}


def _strings(column: Column) -> Column:
    import pyarrow as pa

    try:
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # lists and structs
        texts = [as_text(value) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
