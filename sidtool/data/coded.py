"""Columns of values that repeat, as codes: four bytes per value and each distinct value once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import accumulate, chain, islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
BLOCK = 1 << 12
"""Values that are objects at once while all are read."""
LOOKED_UP = 1 << 22
"""Texts that are looked up at once, or more."""
Column = Any
"""A pyarrow ChunkedArray of strings. pyarrow is imported where it is used, so its types are not
named here."""


@dataclass(frozen=True, eq=False)
class Coded(Generic[T], Sequence[T]):
    """n values: value i is `names[codes[i]]`. A slice is coded too."""

    names: Any
    """(distinct,) values, as an array of objects or Texts"""
    codes: NDArray[np.integer[Any]]
    """(n,), in memory or mapped from a file"""

    @classmethod
    def of(cls, values: Iterable[T]) -> Self:
        """Code values by their first appearance."""
        code_by_value: dict[T, int] = {}
        codes = [code_by_value.setdefault(value, len(code_by_value)) for value in values]
        return cls(object_array(code_by_value), np.array(codes, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: Any) -> Any:
        codes = self.codes[index]
        return Coded(self.names, codes) if isinstance(index, slice) else self.names[codes]

    def __iter__(self) -> Iterator[T]:
        blocks = (self.codes[at : at + BLOCK] for at in range(0, len(self), BLOCK))
        return chain.from_iterable(self.names[codes].tolist() for codes in blocks)

    def tolist(self) -> list[T]:
        """The values."""
        return self.names[self.codes].tolist()

    def texts(self) -> Iterator[str]:
        """As `iter`, of names that are Texts: a block of the values are objects at a time."""
        names: Texts = self.names
        return names.take(self.codes)


class Texts(Sequence[str]):
    """n texts as one arrow array, which takes a fifth of the memory of objects; these are made when
    several are asked for."""

    def __init__(self, texts: Any) -> None:
        import pyarrow as pa

        is_arrow = isinstance(texts, pa.Array)
        self.arrow = texts if is_arrow else pa.array(list(texts), pa.string())
        """(n,) of the type string, or large_string"""

    @classmethod
    def packed(cls, texts: Iterable[str], folder: Path | None = None) -> "Texts":
        """Texts of any length together, packed by `pack_texts`."""
        return cls.of_utf8(*pack_texts(texts, folder))

    @classmethod
    def of_utf8(cls, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> "Texts":
        """The n texts whose bytes lie between (n + 1,) offsets, as large strings, without a
        copy."""
        import pyarrow as pa

        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        return cls(pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers))

    @staticmethod
    def write_columns(path: Path, columns: "Mapping[str, Texts]") -> None:
        """Write columns of n texts each to a file, for `map_columns`."""
        import pyarrow as pa

        batch = pa.record_batch({name: texts.arrow for name, texts in columns.items()})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
            file.write_batch(batch)

    @staticmethod
    def map_columns(path: Path) -> "dict[str, Texts]":
        """The columns of a file, whose texts stay there: processes that map it share them."""
        import pyarrow as pa

        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        return {name: Texts(batch.column(name)) for name in batch.schema.names}

    @cached_property
    def objects(self) -> NDArray[np.object_]:
        """(n,) the texts."""
        return np.fromiter(self, np.object_, len(self))

    @cached_property
    def order(self) -> NDArray[np.int32]:
        """(n,) the indexes of the texts by code points."""
        import pyarrow.compute as pc

        return numpy_numbers(pc.sort_indices(self.arrow)).astype(np.int32)

    @cached_property
    def ranks(self) -> NDArray[np.int32]:
        """(n,) the rank of each text by code points; the texts differ."""
        ranks = np.empty(len(self), dtype=np.int32)
        ranks[self.order] = np.arange(len(self), dtype=np.int32)
        return ranks

    @property
    def are_distinct(self) -> bool:
        """Whether no text occurs twice."""
        import pyarrow.compute as pc

        ordered = self.arrow.take(arrow_numbers(self.order))
        return not pc.any(pc.equal(ordered[1:], ordered[:-1])).as_py()

    def take(self, rows: NDArray[np.integer[Any]]) -> Iterator[str]:
        """The texts at several indexes, a block of which are objects at a time."""
        blocks = (arrow_numbers(rows[at : at + BLOCK]) for at in range(0, len(rows), BLOCK))
        return chain.from_iterable(self.arrow.take(block).to_pylist() for block in blocks)

    def places_in(self, others: Sequence[str]) -> NDArray[np.int32]:
        """(n,): the index of each text among distinct others, -1 without one. These are looked up
        in spans: memory grows with n alone if they are Texts."""
        import pyarrow as pa
        import pyarrow.compute as pc

        searched = others.arrow if isinstance(others, Texts) else pa.array(others, self.arrow.type)
        table = self.arrow.cast(searched.type)
        places = np.full(len(self), -1, dtype=np.int32)
        span = max(LOOKED_UP, len(self))  # each makes the table anew, which takes as long as n
        for start in range(0, len(searched), span):
            matches = pc.index_in(searched.slice(start, span), value_set=table)
            other_indexes = numpy_numbers(pc.indices_nonzero(matches.is_valid()))
            places[numpy_numbers(matches.drop_null())] = start + other_indexes
        return places

    def __len__(self) -> int:
        return len(self.arrow)

    def __getitem__(self, index: Any) -> Any:
        """A text, or those at several indexes as objects."""
        if isinstance(index, int | np.integer):
            return self.arrow[int(index)].as_py()
        return self.objects[index]

    def __iter__(self) -> Iterator[str]:
        return arrow_values(self.arrow)

    def tolist(self) -> list[str]:
        """The texts."""
        texts: list[str] = self.arrow.to_pylist()
        return texts


def pack_texts(
    texts: Iterable[str], folder: Path | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of n texts and their (n + 1,) offsets, in memory or in unnamed files of a folder,
    whose mapped pages are no memory of the process. A block of the texts are encoded at a time.
    Raises UnicodeEncodeError for a lone surrogate, and TypeError for what is no string."""
    with ExitStack() as files:
        data, offsets = (
            BytesIO() if folder is None else files.enter_context(TemporaryFile(dir=folder))
            for _ in range(2)
        )
        remaining = iter(texts)
        while block := list(islice(remaining, BLOCK)):
            joined = "".join(block)
            encoded = block if joined.isascii() else [text.encode("utf-8") for text in block]
            starts = accumulate(map(len, encoded), initial=data.tell())
            offsets.write(np.fromiter(starts, np.int64, len(block)).data)
            data.write(joined.encode("utf-8"))
        offsets.write(np.int64(data.tell()).tobytes())
        return read_back(data, np.uint8), read_back(offsets, np.int64)


def read_back(file: Any, dtype: Any) -> NDArray[Any]:
    """(n,) the values that were written to a BytesIO, or to a file, which is mapped."""
    if isinstance(file, BytesIO):
        return np.frombuffer(file.getbuffer(), dtype)
    file.flush()
    if not file.tell():  # an empty file cannot be mapped
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(file, dtype, "r"))


class ArrowCodes:
    """The distinct values of a column that is read in parts, by first appearance."""

    def __init__(self) -> None:
        import pyarrow as pa

        self.values = pa.nulls(0, pa.string())
        """(distinct,) by code"""

    def add(self, columns: Sequence[Any]) -> list[NDArray[np.int32]]:
        """The codes of the values of arrays that are not empty, (n,) for one of n; a new value gets
        the next code. Values that are known are hashed again: many columns at once take less time
        than one after the other."""
        import pyarrow as pa

        # one table of hashes for all: the values that are known keep their codes
        coded = pa.chunked_array([self.values, *columns]).dictionary_encode()
        self.values = coded.chunk(coded.num_chunks - 1).dictionary
        return [numpy_numbers(chunk.indices) for chunk in coded.chunks[-len(columns) :]]


def coded_texts(column: Column) -> Coded[str]:
    """The n texts of a column by first appearance; the names are Texts."""
    # large strings: the distinct texts of a column may have more than 2 GiB
    coded = column.cast("large_string").dictionary_encode().combine_chunks()
    return Coded(Texts(coded.dictionary), numpy_numbers(coded.indices))


def arrow_values(array: Any) -> Iterator[Any]:
    """The values of an arrow array, a block of which are objects at a time."""
    blocks = range(0, len(array), BLOCK)
    return chain.from_iterable(array.slice(at, BLOCK).to_pylist() for at in blocks)


def arrow_numbers(values: NDArray[Any]) -> Any:
    """n numbers as an arrow array. As `pyarrow.array`, which would import pandas: half a second."""
    import pyarrow as pa

    values = np.ascontiguousarray(values)
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def numpy_numbers(array: Any) -> NDArray[Any]:
    """(n,) the numbers of an arrow array that lacks none. As its `to_numpy`, which would import
    pandas."""
    dtype = array.type.to_pandas_dtype()
    stop = array.offset + len(array)
    numbers = np.frombuffer(array.buffers()[1] or b"", dtype, count=stop)
    return numbers[array.offset :]


def numpy_codes(array: Any) -> NDArray[np.int32]:
    """(n,) the codes of an arrow array of int32, -1 for a missing one."""
    import pyarrow.compute as pc

    if array.null_count:
        array = pc.fill_null(array, arrow_numbers(np.array([-1], dtype=np.int32))[0])
    return numpy_numbers(array)


def object_array(values: Iterable[Any]) -> NDArray[np.object_]:
    """(n,) object: values of any kind; lists are not made to rows."""
    members = list(values)
    array = np.empty(len(members), dtype=object)
    array[:] = members
    return array
