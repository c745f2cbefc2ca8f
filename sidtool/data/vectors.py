"""Vectors that are read in parts, as many at once as a memory budget allows."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError, raised_as
from sidtool.base.jobs import RunJob, run_here

Vectors = NDArray[np.float32]
"""(n, dim): one embedding per row."""

BLOCK = 1 << 16
"""Rows that a pass over a source reads at once, if memory allows."""
COPIES = 8
"""Copies of the rows that fit into the memory budget: working on rows makes several."""
MIN_ROWS = 1 << 10
"""Rows that a memory budget must allow at once."""
GATHERED = 1 << 12
"""Rows that are gathered from one mapping of a file: mapped pages count as memory until the mapping
is closed."""


class Stored(Protocol):
    """A stored matrix, of which rows are read by indexing."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: Any, /) -> Any: ...


Opened = tuple[Stored, Callable[[], Sequence[str] | None], int]
"""A stored matrix, what reads the ids of its rows, and the rows that can only be read together."""


@dataclass(frozen=True, eq=False)
class VectorSource:
    """n vectors that are read in parts, as float32. Reading raises DataError for a vector that is
    not finite."""

    stored: Stored
    limit: int
    """Rows that may be in memory at once."""
    name: str = "the array"
    stored_rows: NDArray[np.int64] | None = None
    """(n,) the stored row of each vector; None if vector i is row i."""
    ids: Sequence[str] | None = None
    chunk: int = 0
    """Rows that can only be read together; 0 if each can be read alone."""
    stamp: str = field(default="", repr=False)
    """What identifies this source, so that a resumed run does not use another one's work."""
    run: RunJob = field(default=run_here, repr=False)
    """Runs what reads a file from one end to the other; spans are the shards."""

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs, which gives vectors numbers and no ids, and opens the file anew."""
        state = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return state | {"ids": None, "run": run_here}

    @staticmethod
    def as_array(vectors: Any) -> NDArray[Any]:
        """Vectors as an array of numbers: those of a list of rows, a table or a column of vectors
        of pandas, or a tensor, too. Raises DataError for what has no numbers that NumPy can
        read."""
        problem = "the vectors are no numbers that NumPy can read"
        hint = "like tensor.detach().cpu().float(), or matrix.toarray() of a sparse one"
        with raised_as(DataError, problem, hint, errors=(TypeError, ValueError, RuntimeError)):
            array = np.asarray(vectors)
            if array.dtype.kind not in "fiu":  # rows in a column, nullable numbers
                array = np.array(array.tolist(), dtype=np.float32)
        return array

    @classmethod
    def of(cls, vectors: "Vectors | VectorSource") -> "VectorSource":
        """A source of an array; a source is returned as it is. Raises DataError unless it is a
        matrix of numbers."""
        if isinstance(vectors, VectorSource):
            return vectors
        array = cls.as_array(vectors).astype(np.float32, copy=False)
        require_matrix("the array", array)
        return cls(array, max(len(array), 1))

    def __len__(self) -> int:
        return self.stored.shape[0] if self.stored_rows is None else len(self.stored_rows)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, dim)."""
        return len(self), self.stored.shape[1]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Start and stop of the stored rows that each step of a pass reads."""
        size = min(BLOCK, self.limit)
        if size > MIN_ROWS:
            size -= size % MIN_ROWS
        if self.chunk:
            whole_chunks = -(-size // self.chunk) * self.chunk  # rounded up
            size = max(min(whole_chunks, self.limit), 1)
        rows = self.stored.shape[0]
        return [(first, min(first + size, rows)) for first in range(0, rows, size)]

    def rows(self, span: tuple[int, int]) -> NDArray[np.int64]:
        """(m,) the indices of the vectors in a span of stored rows, in the order of `read`."""
        indexes = (
            np.arange(*span) if self.stored_rows is None else self._vector_of_row[span[0] : span[1]]
        )
        return indexes[indexes >= 0].astype(np.int64)

    def read(self, span: tuple[int, int]) -> Vectors:
        """(m, dim) float32: the vectors in a span of stored rows."""
        vectors = np.ascontiguousarray(self.stored[span[0] : span[1]], dtype=np.float32)
        if self.stored_rows is not None:
            vectors = vectors[self._vector_of_row[span[0] : span[1]] >= 0]
        self._check(self.rows(span), vectors)
        return vectors

    def take(self, rows: NDArray[np.integer[Any]]) -> Vectors:
        """(m,) indices of vectors -> (m, dim) float32 in that order."""
        stored_rows = rows if self.stored_rows is None else self.stored_rows[rows]
        order = np.argsort(stored_rows, kind="stable")
        ascending = stored_rows[order]  # so that a file is read forwards
        vectors = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        if not self.chunk:
            for first in range(0, len(ascending), GATHERED):
                places = slice(first, first + GATHERED)
                vectors[order[places]] = self.stored[ascending[places]]
        else:
            spans = self.spans
            places_of_spans = [slice(*np.searchsorted(ascending, span)) for span in spans]
            needed = [n for n, places in enumerate(places_of_spans) if places.start < places.stop]
            parts = [(spans[n], ascending[places_of_spans[n]]) for n in needed]
            for index, part in self.run(partial(_open_gathering, self.stored), parts):
                places = places_of_spans[needed[index]]
                vectors[order[places]] = part
        self._check(rows, vectors)
        return vectors

    def all(self) -> Vectors:
        """(n, dim) float32; those of an array of this type may be the array itself."""
        if self.stored_rows is None:
            return self.read((0, len(self)))
        return self.take(np.arange(len(self)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what determines the vectors: file, size and modification time, or the
        values of an array."""
        state = hashlib.sha256(f"{self.stamp}{self.shape}{self.chunk}{self.limit}".encode())
        if self.stored_rows is not None:
            state.update(self.stored_rows.data)
        if isinstance(self.stored, np.ndarray):
            state.update(np.ascontiguousarray(self.stored).data)
        return state.hexdigest()

    @cached_property
    def _vector_of_row(self) -> NDArray[Any]:
        """(stored rows,) the index of the vector in each row, -1 for a row that is not used. Only
        for a source with `stored_rows`."""
        dtype = np.int32 if len(self) < 1 << 31 else np.int64
        indexes: NDArray[Any] = np.full(self.stored.shape[0], -1, dtype=dtype)
        indexes[self.stored_rows] = np.arange(len(self))
        return indexes

    def _check(self, rows: NDArray[Any], vectors: Vectors) -> None:
        def describe(at: int) -> str:
            row = int(rows[at])
            return f"row {row}" if self.ids is None else f"item {self.ids[row]!r} (row {row})"

        check_finite(vectors, self.name, describe)


def _open_gathering(stored: Stored) -> Callable[[tuple[tuple[int, int], NDArray[np.int64]]], Any]:
    """Reads the rows of a span, of which some are taken."""

    def gather(part: tuple[tuple[int, int], NDArray[np.int64]]) -> Any:
        (start, stop), rows = part
        return stored[start:stop][rows - start]

    return gather


def check_finite(vectors: Vectors, source: str, describe: Callable[[int], str]) -> None:
    """Raise DataError if a row is not finite; `describe` names a row for the message. The rows may
    be a sample in random order."""
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise DataError(
            f"{source}: {len(wrong)} of {len(vectors)} vectors are not finite, like "
            f"{describe(int(wrong[0]))}",
            hint="half precision overflows in some encoders: --dtype float32",
        )


def require_matrix(name: str, stored: Stored) -> None:
    """Raise DataError unless it is a matrix of numbers with at least one column."""
    if len(stored.shape) != 2 or not stored.shape[1] or np.dtype(stored.dtype).kind not in "fiu":
        raise DataError(
            f"{name} holds an array of shape {stored.shape} and type {stored.dtype}, not a "
            "matrix of numbers"
        )


def rows_within(stored: Stored, memory_limit: int | None) -> int:
    """Rows of vectors that a memory budget in bytes allows at once. Raises UsageError if that is
    too few."""
    if memory_limit is None:
        return max(stored.shape[0], 1)
    row = COPIES * 4 * max(stored.shape[1], 1)
    if memory_limit < MIN_ROWS * row:
        message = (
            f"{memory_limit} bytes of memory are not enough for vectors of {stored.shape[1]} "
            "dimensions"
        )
        raise UsageError(message, hint=f"give at least {MIN_ROWS * row} bytes")
    return memory_limit // row
