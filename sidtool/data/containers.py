"""The file types of tables, and how such a file is opened.

    .csv .tsv                comma or tab separated, quoted as CSV is, with a header
    .item .inter .user       RecBole: tab separated, never quoted, header `name:type`
    .jsonl .ndjson           one JSON object per line
    .json                    JSON Lines as well, or one list of objects, or one object of objects
                             (MiniOneRec's item.json), whose keys become the column `item_id`
    .parquet .pq             a Parquet file, or a folder of them

A further `.gz` means that the file is compressed (not Parquet, which compresses itself)."""

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from sidtool.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".item": "\t", ".inter": "\t", ".user": "\t"}
RECBOLE = (".item", ".inter", ".user")
PARQUET = (".parquet", ".pq")
SUFFIXES = (*DELIMITERS, ".jsonl", ".ndjson", ".json", *PARQUET)
BLOCK_BYTES = 1 << 24
"""Bytes that pyarrow parses at once; no row may be longer."""

Column = Any
"""A pyarrow ChunkedArray of strings. pyarrow is imported where it is used, so its types are not
named here."""


def suffix(path: Path) -> str:
    """The suffix that names the file type, without `.gz`. Raises DataError if it is none of
    SUFFIXES."""
    name = path.name.lower().removesuffix(".gz")
    for file_type in SUFFIXES:
        if name.endswith(file_type):
            return file_type
    if not path.exists():  # more likely a misspelled folder than a file of an unknown type
        raise DataError(f"{path} does not exist")
    raise DataError(
        f"{path}: the name does not end in a known suffix",
        hint=f"known are {' '.join(SUFFIXES)}",
    )


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if it is a `.gz`."""
    compressed = path.name.lower().endswith(".gz")
    with gzip.open(path) if compressed else path.open("rb") as stream:
        yield cast(BinaryIO, stream)


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raise DataError, in one line that names the file, for any error of a reader."""
    import pyarrow as pa

    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        yield
    except (OSError, EOFError, UnicodeError, csv.Error, zlib.error, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
