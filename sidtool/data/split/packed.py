"""Parts of a split as arrays: users and items are codes, and a sequence or an example becomes an
object when it is read.

A training event takes 4 bytes, an item of a stored history too. The parts that a protocol makes
have no histories of their own: they refer to the sorted events."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sidtool.data.coded import Coded, object_array
from sidtool.data.fields.fields import NO_FIELDS, Fields, Value, Values
from sidtool.data.split.split import Example, FurtherTarget, UserSequence

T = TypeVar("T")
BLOCK = 1 << 20
"""Codes that are written to a file at once."""


@dataclass(frozen=True, eq=False)
class Ragged:
    """n lists of numbers: list i is `values[starts[i]:stops[i]]`."""

    values: NDArray[np.integer[Any]]
    starts: NDArray[np.int64]
    """(n,)"""
    stops: NDArray[np.int64]
    """(n,)"""

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> NDArray[np.integer[Any]]:
        return self.values[self.starts[index] : self.stops[index]]


class _Packed(Sequence[T], Generic[T]):
    """n values that are made when they are read; equal to any sequence of equal values."""

    def _value(self, index: int) -> T:
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        places = range(len(self))[index]
        return tuple(map(self._value, places)) if isinstance(index, slice) else self._value(places)

    def __iter__(self) -> Iterator[T]:
        return map(self._value, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        pairs = zip(self, other, strict=False)
        return len(self) == len(other) and all(mine == theirs for mine, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class PackedSequences(_Packed[UserSequence]):
    """The training events of n users."""

    users: Coded[str]
    """(n,)"""
    names: NDArray[np.object_]
    """The item id of each code"""
    items: Ragged
    """n lists of item codes"""
    positions: Ragged | None = None
    """n lists of positions; None: 0, 1, 2 ... of every user"""
    fields: Callable[[int], Fields] | None = None
    """The fields of the user at an index"""
    sessions: Callable[[int], tuple[int, ...]] | None = None
    """The starts of sessions of the user at an index"""

    def __len__(self) -> int:
        return len(self.users)

    def _value(self, index: int) -> UserSequence:
        items = tuple(self.names[self.items[index]].tolist())
        positions = tuple(range(len(items)))
        if self.positions is not None:
            positions = tuple(self.positions[index].tolist())
        fields = NO_FIELDS if self.fields is None else self.fields(index)
        sessions = () if self.sessions is None else self.sessions(index)
        return UserSequence(self.users[index], items, positions, fields, sessions)


@dataclass(frozen=True, eq=False)
class PackedExamples(_Packed[Example]):
    """n evaluation examples."""

    users: Coded[str]
    """(n,)"""
    names: NDArray[np.object_]
    """The item id of each code"""
    histories: Ragged
    """n lists of item codes"""
    items: NDArray[np.integer[Any]]
    """(n,) the code of each target"""
    positions: NDArray[np.integer[Any]]
    """(n,)"""
    fields: Callable[[int], tuple[Fields, Values]] | None = None
    """The fields and the feedback of the example at an index"""
    rest: Callable[[int], tuple[FurtherTarget, ...]] | None = None
    """The further targets of the example at an index"""

    def __len__(self) -> int:
        return len(self.users)

    def _value(self, index: int) -> Example:
        history = tuple(self.names[self.histories[index]].tolist())
        item = self.names[self.items[index]]
        position = int(self.positions[index])
        fields, feedback = (NO_FIELDS, {}) if self.fields is None else self.fields(index)
        rest = () if self.rest is None else self.rest(index)
        return Example(self.users[index], history, item, position, fields, feedback, rest)


@dataclass
class Packer:
    """Packs the parts of one split, which share the codes of users and items."""

    folder: Path | None = None
    """An existing folder: the arrays of events are put in files there, and mapped"""
    _users: dict[str, int] = field(default_factory=dict)
    _items: dict[str, int] = field(default_factory=dict)
    _values: dict[tuple[type, Value], Value] = field(default_factory=dict)
    _files: int = 0

    def names(self) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
        """The ids of users and of items by code, of what was packed until now."""
        return object_array(self._users), object_array(self._items)

    def sequences(self, sequences: Iterable[UserSequence]) -> Callable[[], PackedSequences]:
        """Pack sequences, read once. The result is made when all parts are packed."""
        users = array("i")
        items = self._rows()
        positions = self._rows()
        sessions = self._rows()
        fields: list[Fields] = []
        is_counted = True
        has_sessions = False
        for sequence in sequences:
            users.append(self._code(self._users, sequence.user))
            items.append([self._code(self._items, item) for item in sequence.items])
            positions.append(sequence.positions)
            is_counted &= sequence.positions == tuple(range(len(sequence.items)))
            fields.append(self._shared(sequence.fields))
            sessions.append(sequence.sessions)
            has_sessions |= bool(sequence.sessions)
        rows = items.finish()
        places = None if is_counted else positions.finish()
        of_index = None if _none(fields) else fields.__getitem__
        session_starts = sessions.finish()

        def sessions_of(index: int) -> tuple[int, ...]:
            return tuple(session_starts[index].tolist())

        def packed() -> PackedSequences:
            user_names, item_names = self.names()
            coded = Coded[str](user_names, np.frombuffer(users, dtype=np.int32))
            starts = sessions_of if has_sessions else None
            return PackedSequences(coded, item_names, rows, places, of_index, starts)

        return packed

    def examples(self, examples: Iterable[Example]) -> Callable[[], PackedExamples]:
        """Pack examples, as `sequences`."""
        users = array("i")
        histories = self._rows()
        targets = array("i")
        positions = array("i")
        fields: list[tuple[Fields, Values]] = []
        rest: list[tuple[FurtherTarget, ...]] = []
        for example in examples:
            users.append(self._code(self._users, example.user))
            histories.append([self._code(self._items, item) for item in example.history])
            targets.append(self._code(self._items, example.item))
            positions.append(example.position)
            fields.append((self._shared(example.fields), example.feedback))
            rest.append(example.rest)
        rows = histories.finish()
        has_fields = any(shown is not NO_FIELDS or feedback for shown, feedback in fields)
        of_index = fields.__getitem__ if has_fields else None
        rest_of = rest.__getitem__ if any(rest) else None

        def packed() -> PackedExamples:
            user_names, item_names = self.names()
            coded = Coded[str](user_names, np.frombuffer(users, dtype=np.int32))
            items = np.frombuffer(targets, dtype=np.int32)
            places = np.frombuffer(positions, dtype=np.int32)
            return PackedExamples(coded, item_names, rows, items, places, of_index, rest_of)

        return packed

    @staticmethod
    def _code(code_of: dict[str, int], name: str) -> int:
        return code_of.setdefault(name, len(code_of))

    def _rows(self) -> "_Rows":
        self._files += 1
        return _Rows(None if self.folder is None else self.folder / f"rows-{self._files}")

    def _shared(self, fields: Fields) -> Fields:
        """The fields with one object for equal values of events."""
        if fields is NO_FIELDS:
            return fields
        event = {
            name: tuple(self._values.setdefault((type(each), each), each) for each in values)  # type: ignore[arg-type]
            for name, values in fields.event.items()
        }
        return replace(fields, event=event)


def _none(fields: Iterable[Fields]) -> bool:
    return all(each is NO_FIELDS for each in fields)


class _Rows:
    """Lists of numbers that are appended, in memory or in a file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._values = array("i")
        self._written = 0
        self._ends = array("q", [0])

    def append(self, row: Iterable[int]) -> None:
        """Add a list."""
        self._values.extend(row)
        self._ends.append(self._written + len(self._values))
        if self._path is not None and len(self._values) >= BLOCK:
            self._flush(self._path)

    def _flush(self, path: Path) -> None:
        with path.open("ab") as stream:
            self._values.tofile(stream)
        self._written += len(self._values)
        self._values = array("i")

    def finish(self) -> Ragged:
        """All lists."""
        ends = np.frombuffer(self._ends, dtype=np.int64)
        values: NDArray[np.integer[Any]] = np.frombuffer(self._values, dtype=np.int32)
        if self._path is not None and ends[-1]:
            self._flush(self._path)
            values = np.memmap(self._path, np.int32, mode="r")
        return Ragged(values, ends[:-1], ends[1:])
