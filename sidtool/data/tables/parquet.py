"""Parquet files, and folders of them, as columns of strings."""

from collections.abc import Container, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.errors import DataError
from sidtool.data.coded import Column
from sidtool.data.tables.json_tables import as_text
from sidtool.data.tables.opening import MAX_EXPANSION, library_errors, refuse_repeated
from sidtool.data.tables.parquet_footer import DELTA_BYTE_ARRAY, Page, column_chunks, read_pages

ROWS_AT_ONCE = 1024
BATCH_ROWS = 1 << 17
"""Rows of a batch of columns."""
FREE_ROWS = 1 << 16
"""Rows that a file of any size may have."""
ROWS_PER_BYTE = 1 << 12
"""Rows beyond these that each byte of a file may hold: the same value again takes hardly any."""
FREE_VALUES = 1 << 22
"""Members of lists that a column of a file of any size may have."""
VALUES_PER_BYTE = 64
"""Members of lists beyond these that each byte of a file may hold: a footer claims any number."""
PART_BYTES = 1 << 25
"""Bytes that are decoded at once, and that a file of any size may expand to."""
WHOLE_EXPANSION = 1000
"""Bytes beyond these that each byte of a file that is read whole may expand to: wide tables of
few values do so honestly."""
CELL_BYTES = 64
"""Bytes of a cell that Python reads, beside its text."""
PLAIN_OR_CODED = {0, 2, 8}
"""Encodings of pages that pyarrow reads without repeating their texts."""


def parquet_column_names(path: Path) -> tuple[str, ...]:
    """The columns. Raises DataError if two have one name, or the footer claims more rows than the
    file can hold."""
    names = tuple(open_dataset(path).schema.names)
    refuse_repeated(path, names)
    return names


def parquet_batches(
    path: Path, names: Sequence[str], ids: Container[str], whole: bool = False
) -> Iterator[dict[str, Column]]:
    """The named columns as strings, at most BATCH_ROWS and PART_BYTES of decoded values at a time:
    a file of any number of equal values can be read. Those in `ids` must hold texts or whole
    numbers. `whole`: raise DataError for what is too large to be held in memory together."""
    parquet_column_names(path)
    first = 0
    for table in whole_tables(path, names) if whole else _tables(path, BATCH_ROWS, names):
        yield {
            name: id_strings(path, name, table[name])
            if name in ids
            else _strings(path, name, table[name], first)
            for name in names
        }
        first += table.num_rows


def whole_tables(path: Path, names: Sequence[str]) -> Iterator[Any]:
    """pyarrow tables of the named columns, to be held in memory together. Raises DataError if they
    are too large for the bytes of the file."""
    size = sum(Path(file).stat().st_size for file in open_dataset(path).files)
    limit = PART_BYTES + WHOLE_EXPANSION * size
    expanded = 0
    for table in _tables(path, BATCH_ROWS, names):
        chunks = chain.from_iterable(column.chunks for column in table.columns)
        expanded += sum(map(_decoded_bytes, chunks))
        expanded += CELL_BYTES * table.num_rows * table.num_columns
        if expanded > limit:
            raise DataError(f"{path} expands from {size} bytes to more than {limit} in memory")
        yield table


def row_groups(path: Path) -> Iterator[Any]:
    """pyarrow tables of all columns of one file, a row group at a time; repeated texts stay coded,
    in lists too. Raises DataError for a file that cannot be read, or claims more than its bytes
    hold."""
    _check_claims(path)
    opened, _ = open_bounded(path, None)
    with opened:
        for number in range(opened.num_row_groups):
            yield opened.read_row_group(number)


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
        _check_claims(Path(file))
    return dataset


def _check_claims(path: Path) -> None:
    """Raise DataError if the footer of a file claims more rows or values than it can hold."""
    import pyarrow.parquet as pq

    size = path.stat().st_size
    with pq.ParquetFile(path) as opened:
        footer = opened.metadata
    if not 0 <= footer.num_rows <= FREE_ROWS + ROWS_PER_BYTE * size:
        raise DataError(f"{path} claims {footer.num_rows} rows in {size} bytes")
    with library_errors(path):
        chunks = column_chunks(path)
    values = [chunk.values for chunk in chunks]
    # the pages of chunks that overlap are read once for each
    stored = sum(max(chunk.size, 0) for chunk in chunks)
    if stored > size:
        raise DataError(f"{path} claims columns of {stored} bytes in {size} bytes")
    columns = footer.num_columns
    if len(values) != columns * footer.num_row_groups:
        raise DataError(f"{path} cannot be read: a column of its footer has no number of values")
    most = max((sum(values[column::columns]) for column in range(columns)), default=0)
    if most - footer.num_rows > FREE_VALUES + VALUES_PER_BYTE * size:
        raise DataError(f"{path} claims a column of {most} values in {size} bytes")


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows as Python values, read in batches."""
    for table in _tables(path, ROWS_AT_ONCE):
        yield from table.to_pylist()


def _tables(path: Path, rows: int, names: Sequence[str] | None = None) -> Iterator[Any]:
    """pyarrow tables of so many rows or fewer with the named columns, or all: those of the files,
    and the values in the names of folders such as day=1. Texts in lists and objects may be
    coded."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    dataset = open_dataset(path)
    for fragment in dataset.fragments:
        values = ds.get_partition_keys(fragment.partition_expression)
        stored = None if names is None else [name for name in names if name not in values]
        opened, most = open_bounded(Path(fragment.path), stored)
        with opened:
            batches = opened.iter_batches(min(rows, most), columns=stored)
            for part in chain.from_iterable(_parts(path, batch) for batch in batches):
                columns = dict(zip(part.schema.names, part.columns, strict=True))
                for name, column in columns.items():
                    if pa.types.is_dictionary(column.type):
                        columns[name] = column.dictionary_decode()
                for name, value in values.items():
                    if names is None or name in names:
                        columns[name] = pa.repeat(pa.scalar(value), part.num_rows)
                yield pa.table(columns)


def open_bounded(path: Path, names: Sequence[str] | None) -> tuple[Any, int]:
    """A ParquetFile that leaves repeated texts of the named columns coded, and the most rows to
    read at once. Raises DataError for a row group that expands to many times its size: not the
    footer's sizes count, but those of the pages, by which pyarrow allocates."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as opened:
        columns = [opened.schema.column(number) for number in range(len(opened.schema))]
    chunks = column_chunks(path)
    pages: dict[int, list[Page]] = {
        number: []
        for number, column in enumerate(columns)
        if names is None or any(f"{column.path}.".startswith(f"{name}.") for name in names)
    }
    file_size = path.stat().st_size
    with path.open("rb") as stream:
        for first in range(0, len(chunks), len(columns)):
            group = {number: chunks[first + number] for number in pages}
            stored = min(sum(chunk.size for chunk in group.values()), file_size)
            expanded = 0
            for number, chunk in group.items():
                in_chunk = list(read_pages(stream, chunk))
                expanded += sum(page.size for page in in_chunk)
                pages[number] += in_chunk
            if expanded > PART_BYTES + MAX_EXPANSION * stored:
                raise DataError(f"{path}: a row group of {stored} bytes expands to {expanded}")
    coded = []
    widest = 1  # bytes that one value of a few bytes may have
    for number, in_column in pages.items():
        has_dictionary = any(page.is_dictionary for page in in_column)
        encodings = {page.encoding for page in in_column if not page.is_dictionary}
        if columns[number].physical_type != "BYTE_ARRAY":
            widest = max(widest, columns[number].length or 0)
        elif has_dictionary and encodings <= PLAIN_OR_CODED:
            coded.append(columns[number].path)
        elif has_dictionary or DELTA_BYTE_ARRAY in encodings:
            widest = max(widest, *(page.size for page in in_column))
    # what pyarrow buffers ahead it holds until the file is closed
    opened = pq.ParquetFile(path, read_dictionary=coded, pre_buffer=False)
    return opened, max(PART_BYTES // widest, 1)


def _parts(path: Path, batch: Any) -> Iterator[Any]:
    """Parts of a batch that decode to no more than PART_BYTES. Raises DataError for a longer
    row."""
    if sum(map(_decoded_bytes, batch.columns)) <= PART_BYTES:
        yield batch
    elif batch.num_rows == 1:
        raise DataError(f"{path} has a row of more than {PART_BYTES} bytes")
    else:
        half = batch.num_rows // 2
        yield from _parts(path, batch.slice(0, half))
        yield from _parts(path, batch.slice(half))


def _decoded_bytes(array: Any) -> int:
    """The bytes of an array whose texts are not coded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type) and _is_text(array.type.value_type):
        lengths = pc.binary_length(array.dictionary).cast(pa.int64())
        return 4 * len(array) + (pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_map(array.type):
        pair = pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])
        array = array.cast(pa.list_(pair))
    if pa.types.is_nested(array.type):
        members = array.flatten()  # a list of arrays for a struct
        parts = members if isinstance(members, list) else [members]
        return 4 * len(array) + sum(map(_decoded_bytes, parts))
    return int(array.nbytes)


def id_strings(path: Path, name: str, column: Column) -> Column:
    """A column of texts or whole numbers as strings. Raises DataError for other types, and for
    bytes that are not UTF-8."""
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or _is_text(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"{path}: the ids in the column {name!r} are of type {kind}, not text or whole numbers"
        )
    return _as_strings(path, name, column)


def _strings(path: Path, name: str, column: Column, first_row: int) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

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
    for row, value in enumerate(column.to_pylist(), first_row + 1):
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
