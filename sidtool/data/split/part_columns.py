"""The columns of a split's Parquet files as arrow arrays, checked against the types that they must
have, and columns of texts as codes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.data.coded import numpy_codes, numpy_numbers
from sidtool.data.tables import library_errors, row_groups

NOTHING = np.zeros(0, dtype=np.int32)
NUMBER = "a number"
"""The type of a column of int64 or of double."""


@dataclass(frozen=True, eq=False)
class PartColumn:
    """A column of a part: n values, or the members of n lists."""

    chunks: Sequence[Any]
    """Arrow arrays, without dictionaries but for texts"""
    lengths: NDArray[np.int32]
    """(n,) of the lists; none for a column of values, or of events as `items`"""

    @property
    def numbers(self) -> NDArray[Any]:
        """The values as numbers."""
        return joined_arrays([numpy_numbers(chunk) for chunk in self.chunks])

    @property
    def decoded(self) -> "PartColumn":
        """The texts without dictionaries."""
        import pyarrow as pa

        return replace(self, chunks=[chunk.cast(pa.string()) for chunk in self.chunks])


PartFile = dict[str, PartColumn]


def read_part(paths: Sequence[Path], kinds: Mapping[str, str]) -> PartFile:
    """The columns of files, one behind the other. Raises IntegrityError unless each file has these,
    of these types, without missing values but in fields, DataError for one that is damaged."""
    chunks: dict[str, list[Any]] = {name: [] for name in kinds}
    lengths: dict[str, list[NDArray[np.int32]]] = {name: [] for name in kinds}
    for path in paths:
        with library_errors(path):
            groups = list(row_groups(path))
            if not groups or set(groups[0].column_names) != set(kinds):
                columns = groups[0].column_names if groups else "no rows"
                raise IntegrityError(f"{path} has {columns}, not the columns {list(kinds)}")
            stored = {
                name: [chunk for group in groups for chunk in group[name].chunks] for name in kinds
            }
            for name, kind in kinds.items():
                chunks[name] += _values_of(f"{path}: {name}", kind, stored[name])
                if not kind.startswith("list "):
                    continue
                sizes = joined_arrays(
                    [np.diff(numpy_numbers(chunk.offsets)) for chunk in stored[name]]
                )
                if not (name in ("positions", "times") or name.startswith("event_")):
                    lengths[name].append(sizes)
                elif not np.array_equal(sizes, lengths["items"][-1]):
                    raise IntegrityError(f"{path}: {name} and items differ in length")
    return {
        name: PartColumn(
            [chunk for chunk in chunks[name] if len(chunk)] or chunks[name][:1],
            joined_arrays(lengths[name] or [NOTHING]),
        )
        for name in kinds
    }


def _values_of(label: str, kind: str, chunks: Sequence[Any]) -> Sequence[Any]:
    """The values of a column, or the members of its lists. Raises IntegrityError unless they are
    there, of this type."""
    import pyarrow as pa

    if kind.startswith("list "):
        if not all(pa.types.is_list(chunk.type) and not chunk.null_count for chunk in chunks):
            raise IntegrityError(f"{label} has a row without a list")
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
    if kind == "string":
        for chunk in chunks:
            chunk.validate(full=True)  # pyarrow reads codes of no text, and any bytes as UTF-8
    return chunks


def joined_arrays(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays, one behind the other; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def coded_columns(columns: Sequence[PartColumn]) -> tuple[Any, list[Iterable[NDArray[np.int32]]]]:
    """The distinct values of several columns as an arrow array, and for each column the codes of
    its chunks, which are made when they are read; that of a missing value is -1."""
    import pyarrow as pa

    is_coded = pa.types.is_dictionary
    # of a coded chunk the distinct values are hashed, not all of them
    chunks = [
        [(chunk.dictionary if is_coded(chunk.type) else chunk, chunk) for chunk in column.chunks]
        for column in columns
    ]
    coded = pa.chunked_array(values for column_chunks in chunks for values, _ in column_chunks)
    coded = coded.dictionary_encode()
    names = coded.chunk(0).dictionary if coded.num_chunks else pa.nulls(0, coded.type.value_type)
    code_arrays = (chunk.indices for chunk in coded.chunks)  # none of an empty chunk

    def codes(value_codes: Any, chunk: Any) -> NDArray[np.int32]:
        if is_coded(chunk.type):
            value_codes = value_codes.take(chunk.indices)
        return numpy_codes(value_codes)

    nothing = pa.nulls(0, pa.int32())
    parts = [
        [(next(code_arrays) if len(values) else nothing, chunk) for values, chunk in column_chunks]
        for column_chunks in chunks
    ]
    return names, [starmap(codes, part) for part in parts]
