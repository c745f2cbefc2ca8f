"""Columns of values that repeat, as codes: four bytes per value and each distinct value once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Coded(Generic[T], Sequence[T]):
    """n values: value i is `names[codes[i]]`. A slice is coded too."""

    names: NDArray[np.object_]
    """(distinct,) values"""
    codes: NDArray[np.integer[Any]]
    """(n,), in memory or mapped from a file"""

    @classmethod
    def of(cls, values: Iterable[T]) -> Self:
        """Code values by their first appearance."""
        code_of: dict[T, int] = {}
        codes = [code_of.setdefault(value, len(code_of)) for value in values]
        return cls(object_array(code_of), np.array(codes, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: Any) -> Any:
        codes = self.codes[index]
        return Coded(self.names, codes) if isinstance(index, slice) else self.names[codes]

    def __iter__(self) -> Iterator[T]:
        return iter(self.tolist())

    def tolist(self) -> list[T]:
        """The values."""
        return self.names[self.codes].tolist()


class TextCodes:
    """The distinct texts of a column that is read in runs, by first appearance."""

    def __init__(self) -> None:
        import pyarrow as pa

        self._texts = pa.array([], pa.string())

    @property
    def names(self) -> NDArray[np.object_]:
        """(distinct,) texts by code."""
        names: NDArray[np.object_] = self._texts.to_numpy(zero_copy_only=False)
        return names

    def add(self, column: Any) -> NDArray[np.int32]:
        """(n,) the codes of a chunked array of n > 0 texts, none of them null; a new text gets
        the next code."""
        import pyarrow as pa
        import pyarrow.compute as pc

        coded = column.dictionary_encode()  # all chunks have the dictionary of the last one
        distinct = coded.chunk(coded.num_chunks - 1).dictionary
        known = pc.index_in(distinct, value_set=self._texts)
        is_new = pc.is_null(known)
        codes = pc.fill_null(known, 0).to_numpy().copy()
        new = distinct.filter(is_new)
        codes[is_new.to_numpy(zero_copy_only=False)] = len(self._texts) + np.arange(len(new))
        self._texts = pa.concat_arrays([self._texts, new])
        return codes[np.concatenate([chunk.indices.to_numpy() for chunk in coded.chunks])]


def object_array(values: Iterable[Any]) -> NDArray[np.object_]:
    """(n,) object: values of any kind; lists are not made to rows."""
    members = list(values)
    array = np.empty(len(members), dtype=object)
    array[:] = members
    return array
