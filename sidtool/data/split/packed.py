"""Parts of a split in columns: users and items are codes, and a sequence or an example becomes an
object when it is read.

The parts of a split refer to one store of events, so a history takes 16 bytes, whatever its
length."""

import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from sidtool.base.ranges import bounds_of, consecutive, ranges
from sidtool.data.coded import Coded, Texts
from sidtool.data.fields.fields import NO_FIELDS, EventStore
from sidtool.data.split.values import Example, FurtherTarget, UserSequence

T = TypeVar("T")
BUCKETS = 1024
"""Buckets of users, each of which is digested on its own."""
COMPARED = 1 << 18
"""Events of histories that are compared with targets at once."""
Indexes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ragged(Sequence[NDArray[np.integer[Any]]]):
    """n lists of numbers: list i is `values[starts[i]:stops[i]]`."""

    values: NDArray[np.integer[Any]]
    starts: Indexes
    """(n,)"""
    stops: Indexes
    """(n,)"""

    @classmethod
    def of_lengths(cls, values: NDArray[np.integer[Any]], lengths: NDArray[Any]) -> Self:
        """Lists of these lengths that lie behind one another."""
        bounds = bounds_of(lengths)
        return cls(values, bounds[:-1], bounds[1:])

    @classmethod
    def of_lists(cls, lists: Sequence[NDArray[np.integer[Any]]]) -> "Ragged":
        """Lists, copied behind one another unless they are ragged."""
        if isinstance(lists, Ragged):
            return lists
        values = np.concatenate([np.zeros(0, dtype=np.int64), *lists])
        return cls.of_lengths(values, np.array([len(numbers) for numbers in lists], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(index)
        return self.values[self.starts[index] : self.stops[index]]

    @property
    def lengths(self) -> Indexes:
        """(n,)"""
        return self.stops - self.starts

    @classmethod
    def single(cls, values: NDArray[np.integer[Any]]) -> Self:
        """Lists of one value each."""
        bounds = np.arange(len(values) + 1)
        return cls(values, bounds[:-1], bounds[1:])

    def take(self, rows: Any) -> "Ragged":
        """The lists at some rows, or of a slice of them."""
        return replace(self, starts=self.starts[rows], stops=self.stops[rows])

    @property
    def places(self) -> Indexes:
        """(values of all lists,): their indexes in `values`, list by list."""
        return consecutive(self.starts, self.lengths)

    @property
    def joined(self) -> NDArray[np.integer[Any]]:
        """The values of all lists, list by list."""
        return self.of(self.values)

    def of(self, column: NDArray[Any]) -> NDArray[Any]:
        """What a column has at the values of all lists, list by list."""
        if len(self) and np.array_equal(self.stops[:-1], self.starts[1:]):
            return column[self.starts[0] : self.stops[-1]]
        return column[self.places]


def user_buckets(ids: Texts) -> NDArray[np.int16]:
    """(n,): the bucket of each of n users."""
    utf8: Any = Texts(ids.arrow.cast("binary"))
    hashes = map(zlib.crc32, utf8)
    return (np.fromiter(hashes, np.uint32, len(ids)) % BUCKETS).astype(np.int16)


@dataclass(frozen=True, eq=False)
class _Packed(Sequence[T], Generic[T]):
    """n values that are made when they are read; equal to any sequence of equal values."""

    store: EventStore
    user_codes: NDArray[np.integer[Any]]
    """(n,): indexes into the store's users"""

    @property
    def users(self) -> Coded[str]:
        """(n,) ids"""
        return Coded(self.store.users, self.user_codes)

    @property
    def names(self) -> Texts:
        """The item id of each code"""
        return self.store.names

    def __len__(self) -> int:
        return len(self.user_codes)

    def __repr__(self) -> str:
        """What they are and how many; reads no array."""
        return f"<{type(self).__name__}: {len(self)}>"

    @abstractmethod
    def _value(self, index: int) -> T:
        """The value at an index from 0."""

    @abstractmethod
    def take(self, rows: Any) -> Self:
        """The values at some rows, or of a slice of them, packed too."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(index)
        return self._value(range(len(self))[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._value, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        pairs = zip(self, other, strict=False)
        return len(self) == len(other) and all(mine == theirs for mine, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False, repr=False)
class PackedSequences(_Packed[UserSequence]):
    """The training events of n users."""

    items: Ragged
    """n lists of item codes: the store's"""
    positions: Ragged | None = None
    """n lists of positions; None: 0, 1, 2 ... of every user"""
    sessions: Ragged | None = None
    """n lists of the indexes, counted from the user's first event, at which sessions start"""

    @property
    def n_events(self) -> int:
        """The number of training events."""
        return int(self.items.lengths.sum())

    @property
    def event_positions(self) -> NDArray[np.integer[Any]]:
        """(events,): the position of each training event, user by user."""
        if self.positions is not None:
            return self.positions.joined
        lengths = self.items.lengths
        return consecutive(np.zeros(len(lengths), dtype=np.int64), lengths)

    @property
    def stop_positions(self) -> Indexes:
        """(n,): one more than the position of each user's last event."""
        if self.positions is None:
            return self.items.lengths
        stops = np.zeros(len(self), dtype=np.int64)
        has_any = self.positions.lengths > 0
        stops[has_any] = self.positions.values[self.positions.stops[has_any] - 1] + 1
        return stops

    @property
    def target_marks(self) -> NDArray[np.bool_]:
        """(events,): whether each training event may be a target, user by user."""
        return self.items.of(self.store.is_target)

    def take(self, rows: Any) -> "PackedSequences":
        """The sequences at some rows, or of a slice of them."""
        positions = None if self.positions is None else self.positions.take(rows)
        sessions = None if self.sessions is None else self.sessions.take(rows)
        items = self.items.take(rows)
        return PackedSequences(self.store, self.user_codes[rows], items, positions, sessions)

    def _value(self, index: int) -> UserSequence:
        items = tuple(self.names[self.items[index]].tolist())
        positions = tuple(range(len(items)))
        if self.positions is not None:
            positions = tuple(self.positions[index].tolist())
        start, stop = int(self.items.starts[index]), int(self.items.stops[index])
        fields = self.store.of_events(int(self.user_codes[index]), slice(start, stop))
        sessions = () if self.sessions is None else tuple(self.sessions[index].tolist())
        return UserSequence(self.users[index], items, positions, fields, sessions)


@dataclass(frozen=True, eq=False, repr=False)
class PackedExamples(_Packed[Example]):
    """n evaluation examples."""

    histories: Ragged
    """n lists of item codes: the store's"""
    targets: Ragged
    """n lists of the store's events: the targets of each example, at least one"""
    target_positions: NDArray[np.integer[Any]]
    """(`targets.values`,): the position of each of these in its user's whole sequence"""

    @property
    def items(self) -> NDArray[np.integer[Any]]:
        """(n,): the code of the first target"""
        return self.store.items[self.targets.values[self.targets.starts]]

    @property
    def positions(self) -> NDArray[np.integer[Any]]:
        """(n,): the position of the first target"""
        return self.target_positions[self.targets.starts]

    @property
    def event_users(self) -> NDArray[np.integer[Any]]:
        """(events,): the user code of each target, example by example."""
        return np.repeat(self.user_codes, self.targets.lengths)

    @property
    def event_items(self) -> NDArray[np.integer[Any]]:
        """(events,): the item code of each target, example by example."""
        return self.store.items[self.targets.joined]

    @property
    def event_positions(self) -> NDArray[np.integer[Any]]:
        """(events,): the position of each target, example by example."""
        return self.targets.of(self.target_positions)

    @property
    def repeated_targets(self) -> int:
        """How many targets are items of their own history."""
        # (targets,): the history and the item of each
        histories = self.histories.take(np.repeat(np.arange(len(self)), self.targets.lengths))
        items = self.event_items
        n_repeated = 0
        for start, stop in ranges(histories.lengths, COMPARED):
            block = histories.take(slice(start, stop))
            is_target = block.joined == np.repeat(items[start:stop], block.lengths)
            ends = np.cumsum(block.lengths)
            owners = np.searchsorted(ends, np.flatnonzero(is_target), "right")
            n_repeated += len(np.unique(owners))  # a history may have its target several times
        return n_repeated

    def take(self, rows: Any) -> "PackedExamples":
        """The examples at some rows, or of a slice of them."""
        users = self.user_codes[rows]
        parts = (self.histories.take(rows), self.targets.take(rows))
        return PackedExamples(self.store, users, *parts, self.target_positions)

    def _value(self, index: int) -> Example:
        store = self.store
        history = tuple(self.names[self.histories[index]].tolist())
        places = range(int(self.targets.starts[index]), int(self.targets.stops[index]))
        first, *further_targets = (
            FurtherTarget(
                self.names[store.items[event]],
                int(self.target_positions[place]),
                store.at(event, store.types.feedback),
                store.at(event, store.types.context),
                store.time(event),
            )
            for place, event in zip(places, self.targets[index].tolist(), strict=True)
        )
        fields = NO_FIELDS
        if store.has_fields:
            start, stop = int(self.histories.starts[index]), int(self.histories.stops[index])
            fields = store.of_events(int(self.user_codes[index]), slice(start, stop))
            fields = replace(fields, context=first.context, time=first.time)
        user, further = self.users[index], tuple(further_targets)
        return Example(user, history, first.item, first.position, fields, first.feedback, further)
