"""What the footer and the page headers of a Parquet file claim.

pyarrow ends the process, and raises nothing, if it is asked for the metadata of a column whose
size statistics are damaged, and it says nothing of pages. So both are read here, in Thrift's
compact protocol."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

TRAILER = 8
"""Bytes behind the footer: its length, and PAR1."""
PAGE_HEADERS = (1 << 10, 1 << 16, 1 << 24)
"""Bytes that are tried for the header of a page, which may hold two values of the page."""
MAX_DEPTH = 32
DELTA_BYTE_ARRAY = 7
"""The encoding in which a text repeats the beginning of the one before it."""
_TRUE, _FALSE, _BYTE = 1, 2, 3
_I64, _DOUBLE, _BINARY = 6, 7, 8
_LIST, _SET, _MAP, _STRUCT = 9, 10, 11, 12


@dataclass(frozen=True)
class Chunk:
    """A column of a row group."""

    values: int
    first: int
    """Where its first page is."""
    size: int


@dataclass(frozen=True)
class Page:
    """A page of a chunk, by its header."""

    values: int
    size: int
    """Bytes after it is decompressed."""
    is_dictionary: bool
    encoding: int


def column_chunks(path: Path) -> list[Chunk]:
    """The column chunks: row group by row group, column by column.

    Raises ValueError for a footer that is malformed."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - TRAILER, 0))
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(max(size - TRAILER - length, 0))
        reader = _Reader(stream.read(length))
    try:
        # FileMetaData.row_groups, RowGroup.columns, ColumnChunk.meta_data
        columns = [column[3] for group in reader.struct()[4] for column in group[1]]
        return [
            Chunk(int(column[5]), int(min(column[9], column.get(11) or column[9])), int(column[7]))
            for column in columns
        ]
    except IndexError as error:
        raise ValueError("its footer ends early") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("a column of its footer has no number of values") from error


def read_pages(stream: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """The pages of a chunk in their order, as pyarrow reads them. Raises ValueError for a malformed
    header."""
    position = chunk.first
    values = 0
    while values < chunk.values and position < chunk.first + chunk.size:
        header, length = _page_header(stream, position)
        size, stored = header.get(2, -1), header.get(3, -1)
        try:
            # of a data page, of one of version 2, or of a dictionary
            place, encoding = {0: (5, 2), 3: (8, 4), 2: (7, 2)}.get(header.get(1, -1), (0, 0))
            of_kind = header.get(place, {})
            page = Page(of_kind.get(1, 0), size, place == 7, of_kind.get(encoding, 0))
            is_damaged = min(size, stored, page.values, position) < 0
        except (TypeError, AttributeError):  # of another type than the field has
            is_damaged = True
        if is_damaged:
            raise ValueError(f"a page header at byte {position} has a size below zero")
        yield page
        values += 0 if page.is_dictionary else page.values
        position += length + stored


def _page_header(stream: BinaryIO, position: int) -> tuple[dict[int, Any], int]:
    """A page header, and its length."""
    for most in PAGE_HEADERS:
        stream.seek(max(position, 0))
        reader = _Reader(stream.read(most))
        try:
            return reader.struct(), reader.position
        except IndexError:
            continue
    raise ValueError(f"the page header at byte {position} is malformed")


class _Reader:
    """A position in a struct, beyond whose end there is an IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """A struct: the number of each field -> whole number, struct, list of such, or None."""
        fields: dict[int, Any] = {}
        field = 0
        while header := self._byte():
            delta, kind = header >> 4, header & 15
            field = field + delta if delta else self._integer()
            # the header has the value of a boolean
            fields[field] = None if kind in (_TRUE, _FALSE) else self._value(kind, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("its footer is nested too deep")
        if _BYTE < kind <= _I64:
            return self._integer()
        if kind == _STRUCT:
            return self.struct(depth)
        if kind in (_LIST, _SET):
            header = self._byte()
            size = self._varint() if header >> 4 == 15 else header >> 4
            return [self._value(header & 15, depth + 1) for _ in range(size)]
        if kind in (_TRUE, _FALSE, _BYTE):
            self.position += 1
        elif kind == _DOUBLE:
            self.position += 8
        elif kind == _BINARY:
            length = self._varint()  # this moves the position, too
            self.position += length
        elif kind == _MAP:
            size = self._varint()
            kinds = self._byte() if size else 0
            for _ in range(size):
                self._value(kinds >> 4, depth + 1)
                self._value(kinds & 15, depth + 1)
        else:
            raise ValueError(f"its footer has a value of type {kind}")
        if self.position > len(self._data):
            raise IndexError
        return None

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _integer(self) -> int:
        """A zigzag varint."""
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("its footer has a number of too many bytes")
