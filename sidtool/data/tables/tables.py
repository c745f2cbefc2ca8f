"""Tables in files of any type (CONTAINERS), one or several (`table_files`): which columns they
have, and columns as strings.

    .csv .txt .dat           comma separated, quoted as CSV is, with a header; without a comma in
                             it, semicolons, tabs or bars
    .tsv                     tab separated, quoted as CSV is, with a header
    .item .inter .user       RecBole: tab separated, never quoted, header `name:type`
    .jsonl .ndjson           one JSON object per line
    .json                    JSON Lines as well, or one list of objects, or one object of objects
                             (MiniOneRec's item.json), whose keys become the column `item_id`
    .parquet .pq             a Parquet file, or a folder of them

Only the columns that are named are read, each as text: a number with its digits, a list or an
object as JSON. So columns of mixed types (Amazon's `price`) can be read.

Ids are stricter: a text as it stands, with blanks around it, or a whole number. 1 and "1" are one
id; 1.0 and true are none. In a CSV file every cell is a text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from sidtool.base.errors import DataError
from sidtool.data.coded import Column, read_back
from sidtool.data.tables.delimited import DELIMITERS, delimited_batches, header
from sidtool.data.tables.json_tables import JSON, json_batches, json_column_names
from sidtool.data.tables.opening import PARQUET, read_errors, table_files
from sidtool.data.tables.parquet import parquet_batches, parquet_column_names

MAX_COLUMNS = 1 << 14
"""Each takes some ten thousand bytes, however few are in it."""
Batches = Iterator[dict[str, Column]]


ReadNames = Callable[[Path], tuple[str, ...]]
ReadBatches = Callable[[Path, Sequence[str], Sequence[str]], Batches]
"""Of a file, names, and those of them that hold ids: the columns as strings, some rows at a
time."""

CONTAINERS: dict[str, tuple[ReadNames, ReadBatches]] = {
    **{
        kind: (partial(header, kind=kind), partial(delimited_batches, kind=kind))
        for kind in DELIMITERS
    },
    **dict.fromkeys(JSON, (json_column_names, json_batches)),
    **dict.fromkeys(PARQUET, (parquet_column_names, parquet_batches)),
}
"""Suffix of a file's name, without `.gz` -> how it is read; base/output_name.py has the suffixes,
too."""


def suffix(path: Path) -> str:
    """The suffix that names the file type, without `.gz`. Raises DataError if it is none of
    CONTAINERS."""
    name = path.name.lower().removesuffix(".gz")
    for kind in CONTAINERS:
        if name.endswith(kind):
            return kind
    if not path.exists():  # more likely a misspelled folder than a file of an unknown type
        raise DataError(f"{path} does not exist")
    raise DataError(
        f"{path}: the name does not end in a known suffix",
        hint=f"known are {' '.join(CONTAINERS)}; `sidtool prepare --from movielens` reads u.data",
    )


def column_names(path: Path) -> tuple[str, ...]:
    """The columns of a table, in file order; of a JSON file those of its first thousand rows. The
    files of a pattern or a folder must have the same columns. Raises DataError."""
    table = table_files(path)
    columns_of_files = []
    with table.named_errors():
        for file in table.files:
            read_names, _ = CONTAINERS[suffix(file)]
            with read_errors(file):
                columns_of_files.append(read_names(file))
        names, *others = columns_of_files
        for file, other in zip(table.files[1:], others, strict=True):
            if sorted(other) != sorted(names):
                raise DataError(f"{file} has other columns than {table.files[0]}")
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{path} has {len(names)} columns, more than {MAX_COLUMNS}")
    return names


def read_columns(
    path: Path, names: Sequence[str], *, ids: Sequence[str] = (), folder: Path | None = None
) -> dict[str, Column]:
    """The named columns as pyarrow string arrays of one length, null (in delimited files empty)
    where a row has no value. `ids` are those of them that hold ids. The rows of several files
    follow each other in the order of the files' names. The columns are in memory, or in an unnamed
    file of a folder.

    Raises DataError, with file and line, if the file is missing or malformed, or an id is neither
    text nor a whole number.
    """
    import pyarrow as pa

    schema = pa.schema(dict.fromkeys(names, pa.string()))
    batches = column_batches(path, names, ids=ids, whole=True)
    tables = (pa.table(batch, schema) for batch in batches)
    if folder is None:
        table = pa.concat_tables([schema.empty_table(), *tables])
    else:
        with TemporaryFile(dir=folder) as file:
            with pa.ipc.new_file(file, schema) as written:
                for part in tables:
                    written.write_table(part)
            table = pa.ipc.open_file(pa.py_buffer(read_back(file, np.uint8))).read_all()
    return dict(zip(table.column_names, table.columns, strict=True))


def column_batches(
    path: Path, names: Sequence[str], *, ids: Sequence[str] = (), whole: bool = False
) -> Batches:
    """As `read_columns`, some rows at a time: delimited files in blocks of 16 MiB, Parquet files in
    batches of rows. JSON files are read whole, one after the other, and so is a delimited file that
    only the strict parser reads. `whole`: the batches are held in memory together."""
    names = list(dict.fromkeys(names))
    table = table_files(path)
    with table.named_errors():
        for file in table.files:
            kind = suffix(file)
            _, read = CONTAINERS[kind]
            if whole and kind in PARQUET:  # what is held in memory together has a limit
                read = partial(parquet_batches, whole=True)
            with read_errors(file):
                yield from read(file, names, ids)


def rows_by_id(path: Path, ids: Iterable[str], content: str) -> dict[str, int]:
    """The row of each id of an item or a user, from 0. Raises DataError for an empty id, or one in
    two rows."""
    row_by_id: dict[str, int] = {}
    for row, member in enumerate(ids):
        if not member:
            raise DataError(f"{path}, row {row + 1}: the {content} id is empty")
        if member in row_by_id:
            raise DataError(
                f"{path}: {content} id {member!r} is in rows {row_by_id[member] + 1} and {row + 1}",
                hint="an id has one row: drop the other",
            )
        row_by_id[member] = row
    return row_by_id
