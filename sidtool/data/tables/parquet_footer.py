"""The numbers of values that the footer of a Parquet file claims.

pyarrow ends the process, and raises nothing, if it is asked for the metadata of a column whose
size statistics are damaged. So the footer is read here, in Thrift's compact protocol."""

from pathlib import Path

TRAILER = 8
"""Bytes behind the footer: its length, and PAR1."""
MAX_DEPTH = 32
_NUM_VALUES = (4, 1, 3, 5)
"""FileMetaData.row_groups, RowGroup.columns, ColumnChunk.meta_data, ColumnMetaData.num_values."""
_TRUE, _FALSE, _BYTE = 1, 2, 3
_I64, _DOUBLE, _BINARY = 6, 7, 8
_LIST, _SET, _MAP, _STRUCT = 9, 10, 11, 12


def claimed_values(path: Path) -> list[int]:
    """The number of values of each column chunk: row group by row group, column by column.

    Raises ValueError for a footer that is malformed."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - TRAILER, 0))
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(max(size - TRAILER - length, 0))
        footer = _Footer(stream.read(length))
    try:
        footer.skip_struct(())
    except IndexError as error:
        raise ValueError("its footer ends early") from error
    return footer.values


class _Footer:
    """A position in a footer, and the numbers of values before it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self.values: list[int] = []

    def skip_struct(self, path: tuple[int, ...]) -> None:
        """Skip a struct; `path` has the numbers of the fields that lead to it."""
        if len(path) > MAX_DEPTH:
            raise ValueError("its footer is nested too deep")
        field = 0
        while header := self._byte():
            delta, kind = header >> 4, header & 15
            field = field + delta if delta else self._integer()
            if (*path, field) == _NUM_VALUES and kind == _I64:
                self.values.append(self._integer())
            elif kind not in (_TRUE, _FALSE):  # the header has their value
                self._skip(kind, (*path, field))

    def _skip(self, kind: int, path: tuple[int, ...]) -> None:
        if kind in (_TRUE, _FALSE, _BYTE):
            self._position += 1
        elif _BYTE < kind <= _I64:
            self._varint()
        elif kind == _DOUBLE:
            self._position += 8
        elif kind == _BINARY:
            length = self._varint()  # this moves the position, too
            self._position += length
        elif kind in (_LIST, _SET):
            self._skip_list(path)
        elif kind == _MAP:
            self._skip_map(path)
        elif kind == _STRUCT:
            self.skip_struct(path)
        else:
            raise ValueError(f"its footer has a value of type {kind}")
        if self._position > len(self._data):
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
        self._position += 1
        return self._data[self._position - 1]

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
