"""What the footer and the page headers of a Parquet file claim.

pyarrow ends the process, and raises nothing, if it is asked for the metadata of a column whose
size statistics are damaged, and it says nothing of pages. So both are read here, in Thrift's
compact protocol."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

TRAILER = 8
"""Bytes behind the footer: its length, and PAR1."""
PAGE_HEADERS = (1 << 10, 1 << 16, 1 << 24)
"""Bytes that are tried for the header of a page, which may hold two values of the page."""
MAX_DEPTH = 32
DELTA_BYTE_ARRAY = 7
"""The encoding in which a text repeats the beginning of the one before it."""
_COLUMN = (4, 1, 3)
"""FileMetaData.row_groups, RowGroup.columns, ColumnChunk.meta_data."""
_N_VALUES, _STORED_SIZE, _DATA_OFFSET, _DICTIONARY_OFFSET = (5,), (7,), (9,), (11,)
"""Fields of ColumnMetaData."""
_PAGE_TYPE, _PAGE_SIZE, _STORED_PAGE_SIZE = (1,), (2,), (3,)
"""Fields of PageHeader."""
_DICTIONARY = 2
_VALUES_AND_ENCODING = {0: ((5, 1), (5, 2)), _DICTIONARY: ((7, 1), (7, 2)), 3: ((8, 1), (8, 4))}
"""Type of a page (3: data of version 2) -> fields of the PageHeader's header of this type."""
_TRUE, _FALSE, _BYTE = 1, 2, 3
_I32, _I64, _DOUBLE, _BINARY = 5, 6, 7, 8
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
        footer = _Reader(stream.read(length), _COLUMN, _I64)
    chunks = []
    try:
        footer.skip_struct(())
        for column in footer.structs:
            data_offset = column[_DATA_OFFSET]
            first = min(data_offset, column.get(_DICTIONARY_OFFSET) or data_offset)
            chunks.append(Chunk(column[_N_VALUES], first, column[_STORED_SIZE]))
    except IndexError as error:
        raise ValueError("its footer ends early") from error
    except KeyError as error:
        raise ValueError("a column of its footer has no number of values") from error
    return chunks


def read_pages(stream: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """The pages of a chunk in their order, as pyarrow reads them. Raises ValueError for a malformed
    header."""
    position = chunk.first
    n_values = 0
    while n_values < chunk.values and position < chunk.first + chunk.size:
        header, header_size = _page_header(stream, position)
        page_type = header.get(_PAGE_TYPE, -1)
        values, encoding = _VALUES_AND_ENCODING.get(page_type, ((), ()))
        size, stored_size = header.get(_PAGE_SIZE, -1), header.get(_STORED_PAGE_SIZE, -1)
        page = Page(header.get(values, 0), size, page_type == _DICTIONARY, header.get(encoding, 0))
        if min(size, stored_size, page.values, position) < 0:
            raise ValueError(f"a page header at byte {position} has a size below zero")
        yield page
        n_values += 0 if page.is_dictionary else page.values
        position += header_size + stored_size


def _page_header(stream: BinaryIO, position: int) -> tuple[dict[tuple[int, ...], int], int]:
    """The whole numbers of a page header, and its length."""
    for most in PAGE_HEADERS:
        stream.seek(max(position, 0))
        header = _Reader(stream.read(most), (), _I32)
        try:
            header.skip_struct(())
            return header.structs[0], header.position
        except IndexError:
            continue
    raise ValueError(f"the page header at byte {position} is malformed")


class _Reader:
    """A position in a struct, and the whole numbers of one kind before it in each struct that the
    path `root` leads to, by the path from there."""

    def __init__(self, data: bytes, root: tuple[int, ...], kind: int) -> None:
        self._data = data
        self._root = root
        self._kind = kind
        self.position = 0
        self.structs: list[dict[tuple[int, ...], int]] = []

    def skip_struct(self, path: tuple[int, ...]) -> None:
        """Skip a struct; `path` has the numbers of the fields that lead to it."""
        if len(path) > MAX_DEPTH:
            raise ValueError("its footer is nested too deep")
        if path == self._root:
            self.structs.append({})
        field = 0
        while header := self._byte():
            delta, kind = header >> 4, header & 15
            field = field + delta if delta else self._integer()
            inner = (*path, field)
            if kind == self._kind and inner[: len(self._root)] == self._root and self.structs:
                self.structs[-1][inner[len(self._root) :]] = self._integer()
            elif kind not in (_TRUE, _FALSE):  # the header has their value
                self._skip(kind, inner)

    def _skip(self, kind: int, path: tuple[int, ...]) -> None:
        if kind in (_TRUE, _FALSE, _BYTE):
            self.position += 1
        elif _BYTE < kind <= _I64:
            self._varint()
        elif kind == _DOUBLE:
            self.position += 8
        elif kind == _BINARY:
            length = self._varint()  # this moves the position, too
            self.position += length
        elif kind in (_LIST, _SET):
            self._skip_list(path)
        elif kind == _MAP:
            self._skip_map(path)
        elif kind == _STRUCT:
            self.skip_struct(path)
        else:
            raise ValueError(f"its footer has a value of type {kind}")
        if self.position > len(self._data):
            raise IndexError

    def _skip_list(self, path: tuple[int, ...]) -> None:
        header = self._byte()
        size = header >> 4
        # a list in a list has no field of its own, but counts as deeper
        inner = (*path, 0) if header & 15 in (_LIST, _SET, _MAP) else path
        if len(inner) > MAX_DEPTH:
            raise ValueError("its footer is nested too deep")
        for _ in range(self._varint() if size == 15 else size):
            self._skip(header & 15, inner)

    def _skip_map(self, path: tuple[int, ...]) -> None:
        size = self._varint()
        kinds = self._byte() if size else 0
        if len(path) >= MAX_DEPTH:
            raise ValueError("its footer is nested too deep")
        for _ in range(size):
            self._skip(kinds >> 4, (*path, 0))
            self._skip(kinds & 15, (*path, 0))

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
