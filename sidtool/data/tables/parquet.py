"""Parquet files, and folders of them, as columns of strings."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.errors import DataError
from sidtool.data.tables.containers import Column, refuse_repeated
from sidtool.data.tables.json_tables import as_text
from sidtool.data.tables.parquet_footer import claimed_values

ROWS_AT_ONCE = 1024
BATCH_ROWS = 1 << 17
"""Rows of a batch of columns."""
FREE_ROWS = 1 << 16
"""Rows that a file of any size may have."""
FREE_VALUES = 1 << 22
"""Values that a column of a file of any size may have."""
VALUES_PER_BYTE = 64
"""Rows and values beyond these that each byte of a file may hold: a footer can claim any number."""


def parquet_column_names(path: Path) -> tuple[str, ...]:
    """The columns. Raises DataError if two have one name, or the footer claims more rows than the
    file can hold."""
    names = tuple(open_dataset(path).schema.names)
    refuse_repeated(path, names)
    return names


def read_parquet(path: Path, names: Sequence[str], ids: Container[str]) -> dict[str, Column]:
    """The named columns as strings; those in `ids` must hold texts or whole numbers."""
    parquet_column_names(path)
    table = open_dataset(path).read(columns=list(names))
    return {
        name: (id_strings if name in ids else _strings)(path, name, table[name]) for name in names
    }


def parquet_batches(
    path: Path, names: Sequence[str], ids: Container[str]
) -> Iterator[dict[str, Column]]:
    """As `read_parquet`, BATCH_ROWS rows at a time."""
    parquet_column_names(path)
    for table in _tables(path, BATCH_ROWS, names):
        yield {
            name: (id_strings if name in ids else _strings)(path, name, table[name])
            for name in names
        }


def open_dataset(path: Path) -> Any:
    """A pyarrow ParquetDataset. Raises DataError if a footer claims more rows than its file can
    hold."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    # names of folders such as user=007 are texts: pyarrow would read a number
    steps = {step for file in path.rglob("*=*/**/*") for step in file.relative_to(path).parts[:-1]}
    keys = sorted({step.partition("=")[0] for step in steps if "=" in step})
    texts = ds.partitioning(pa.schema([(key, pa.string()) for key in keys]), flavor="hive")
    dataset = pq.ParquetDataset(path, partitioning=texts)
    for file in dataset.files:
        size = Path(file).stat().st_size
        with pq.ParquetFile(file) as opened:
            footer = opened.metadata
        if not 0 <= footer.num_rows <= FREE_ROWS + VALUES_PER_BYTE * size:
            raise DataError(f"{file} claims {footer.num_rows} rows in {size} bytes")
        values = _most_values(Path(file), footer)
        if values > FREE_VALUES + VALUES_PER_BYTE * size:
            raise DataError(f"{file} claims a column of {values} values in {size} bytes")
    return dataset


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows as Python values, read in batches."""
    for table in _tables(path, ROWS_AT_ONCE):
        yield from table.to_pylist()


def _tables(path: Path, rows: int, names: Sequence[str] | None = None) -> Iterator[Any]:
    """pyarrow tables of so many rows with the named columns, or all: those of the files, and the
    values in the names of folders such as day=1."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    dataset = open_dataset(path)
    for fragment in dataset.fragments:
        values = ds.get_partition_keys(fragment.partition_expression)
        stored = None if names is None else [name for name in names if name not in values]
        with pq.ParquetFile(fragment.path) as opened:
            for batch in opened.iter_batches(rows, columns=stored):
                table = pa.Table.from_batches([batch])
                for name, value in values.items():
                    if names is None or name in names:
                        column = pa.repeat(pa.scalar(value), batch.num_rows)
                        table = table.append_column(name, column)
                yield table


def _most_values(path: Path, footer: Any) -> int:
    """The number of values that the largest column claims, members of lists included."""
    try:
        values = claimed_values(path)
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    columns = footer.num_columns
    if len(values) != columns * footer.num_row_groups:
        raise DataError(f"{path} cannot be read: a column of its footer has no number of values")
    return max((sum(values[column::columns]) for column in range(columns)), default=0)


def id_strings(path: Path, name: str, column: Column) -> Column:
    """A column of texts or whole numbers as strings. Raises DataError for other types, and for
    bytes that are not UTF-8."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if not (pa.types.is_integer(kind) or _is_text(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"{path}: the ids in the column {name!r} are of type {kind}, not text or whole numbers"
        )
    return _as_strings(path, name, column)


def _strings(path: Path, name: str, column: Column) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_floating(kind):
        _refuse_rounded(path, name, column)
        # NaN is a missing number, as pandas writes it
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    if not pa.types.is_nested(kind):
        try:
            return _as_strings(path, name, column)
        except pa.ArrowNotImplementedError:
            pass
    texts: list[str | None] = []
    for row, value in enumerate(column.to_pylist(), 1):
        try:
            texts.append(as_text(value))
        except ValueError as error:
            raise DataError(f"{path}, row {row}, {name!r}: {error}") from error
    return pa.chunked_array([pa.array(texts, pa.string())])


def _refuse_rounded(path: Path, name: str, column: Column) -> None:
    """Raise DataError for a timestamp or other large number that half or single precision has
    rounded: float32 holds seconds of today only to two minutes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    largest_exact = {pa.float16(): 1 << 11, pa.float32(): 1 << 24}.get(column.type)
    if largest_exact is None:
        return
    largest = pc.max(pc.abs(column.cast(pa.float64()))).as_py()
    if largest is not None and np.isfinite(largest) and largest > largest_exact:
        raise DataError(
            f"{path}: the column {name!r} is of type {column.type} and holds {largest:.0f}, but "
            f"this type rounds whole numbers beyond {largest_exact}",
            hint="store it as int64 or float64",
        )


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    more = (pa.types.is_large_binary, pa.types.is_string_view, pa.types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in (*kinds, *more))


def _as_strings(path: Path, name: str, column: Column) -> Column:
    """A column as strings. Raises DataError for text that is not UTF-8, which pyarrow lets be."""
    import pyarrow as pa

    try:
        strings = column.cast(pa.string())
        strings.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: the column {name!r} is not UTF-8 text") from error
    return strings
