"""Reads the columns of the Parquet files of a split, and codes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.data.coded import ArrowCodes
from sidtool.data.tables import row_groups

NUMBER = "a number"
"""The type of a column of int64 or of double."""


@dataclass(frozen=True, eq=False)
class PartColumn:
    """A column of one file: n values, or the members of n lists."""

    chunks: Sequence[Any]
    """Arrow arrays, without dictionaries but for texts"""
    lengths: NDArray[np.int32]
    """(n,) of the lists; those of a column of values are 1"""

    @classmethod
    def joined(cls, columns: Sequence["PartColumn"]) -> "PartColumn":
        """The values of several files, of which some have none."""
        chunks = [chunk for column in columns for chunk in column.chunks]
        lengths = np.concatenate([column.lengths for column in columns])
        return cls([chunk for chunk in chunks if len(chunk)] or chunks[:1], lengths)

    @property
    def numbers(self) -> NDArray[Any]:
        """The values as numbers."""
        return np.concatenate([chunk.to_numpy() for chunk in self.chunks])


PartFile = dict[str, PartColumn]


def read_part(path: Path, kinds: Mapping[str, str]) -> PartFile:
    """The columns of a file. Raises IntegrityError unless it has these, of these types, without
    missing values but in fields."""
    groups = list(row_groups(path))
    if not groups or set(groups[0].column_names) != set(kinds):
        columns = groups[0].column_names if groups else "no rows"
        raise IntegrityError(f"{path} has {columns}, not the columns {list(kinds)}")
    file = {}
    for name, kind in kinds.items():
        chunks = [chunk for group in groups for chunk in group[name].chunks]
        file[name] = _column(f"{path}: {name}", kind, chunks)
    for name, column in file.items():
        is_of_events = name in ("positions", "times") or name.startswith("event_")
        if is_of_events and not np.array_equal(column.lengths, file["items"].lengths):
            raise IntegrityError(f"{path}: {name} and items differ in length")
    return file


def joined_files(files: Sequence[PartFile]) -> PartFile:
    """The columns of files, one behind the other."""
    if len(files) == 1:
        return files[0]
    return {name: PartColumn.joined([file[name] for file in files]) for name in files[0]}


def _column(label: str, kind: str, chunks: Sequence[Any]) -> PartColumn:
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = np.zeros(0, dtype=np.int32)
    if kind.startswith("list "):
        if not all(pa.types.is_list(chunk.type) and not chunk.null_count for chunk in chunks):
            raise IntegrityError(f"{label} has a row without a list")
        lengths = np.concatenate([pc.list_value_length(chunk).to_numpy() for chunk in chunks])
        chunks = [chunk.flatten() for chunk in chunks]
        kind = kind.removeprefix("list ")
    actual = chunks[0].type
    if pa.types.is_dictionary(actual):
        actual = actual.value_type
    is_number = actual in (pa.int64(), pa.float64())
    if not (is_number if kind == NUMBER else actual == pa.type_for_alias(kind)):
        raise IntegrityError(f"{label} is of type {actual}, not {kind}")
    is_field = label.rpartition(": ")[2].startswith(("event_", "user_"))
    if not is_field and any(chunk.null_count for chunk in chunks):
        raise IntegrityError(f"{label} lacks a value")
    return PartColumn(chunks, lengths)


def coded_columns(columns: Sequence[PartColumn]) -> tuple[Any, list[list[NDArray[np.int32]]]]:
    """The distinct values of several columns as an arrow array, and the codes of each column's
    chunks; that of a missing value is -1."""
    import pyarrow as pa

    kind = columns[0].chunks[0].type  # a file has a row group
    codes = ArrowCodes(kind.value_type if pa.types.is_dictionary(kind) else kind)
    parts = [[codes.add(chunk) for chunk in column.chunks] for column in columns]
    return codes.values, parts
