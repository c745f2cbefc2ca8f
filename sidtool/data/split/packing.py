"""Packs sequences and examples, given as objects, into columns."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sidtool.base.errors import IntegrityError
from sidtool.data.coded import Coded, Texts, object_array
from sidtool.data.fields.fields import TARGET, TARGET_VALUES, Fields, FieldTypes, Value, Values
from sidtool.data.split.packed import (
    EventStore,
    PackedExamples,
    PackedSequences,
    Ragged,
    consecutive,
)
from sidtool.data.split.values import Example, UserSequence


@dataclass(frozen=True)
class PackedParts:
    """The parts of one split, which share a store of events."""

    train: PackedSequences
    valid: PackedExamples
    test: PackedExamples
    windows: PackedExamples | None


def pack_parts(
    train: Iterable[UserSequence],
    valid: Iterable[Example],
    test: Iterable[Example],
    windows: Iterable[Example] | None = None,
    types: FieldTypes | None = None,
) -> PackedParts:
    """Pack the parts of a split, each read once, with the fields `types`; without them, none.

    Raises IntegrityError for a line with other fields, and for a user with two values of one."""
    packer = _Packer(types or FieldTypes())
    sequences = packer.sequences(train)
    parts = [packer.examples(part) for part in (valid, test, windows or ())]
    store = packer.store()
    packed = [rows.examples(store) for rows in parts]
    return PackedParts(
        sequences.sequences(store), packed[0], packed[1], None if windows is None else packed[2]
    )


def parts_of_windows(
    windows: PackedExamples, valid: PackedExamples, test: PackedExamples
) -> PackedParts:
    """The parts of a split by `given`: its training events are the distinct events that a user's
    windows show, by position and item."""
    store, shown = windows.store, windows.histories
    first = windows.positions.astype(np.int64) - shown.lengths
    users = np.concatenate([np.repeat(windows.user_codes, shown.lengths), windows.event_users])
    positions = np.concatenate([consecutive(first, shown.lengths), windows.event_positions])
    items = np.concatenate([shown.joined, windows.event_items])
    order = np.lexsort((store.names.ranks[items], positions, users))
    columns = np.stack([users[order], positions[order], items[order]])
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = (columns[:, 1:] != columns[:, :-1]).any(axis=0)
    distinct = order[is_new]
    codes, lengths = np.unique(users[distinct], return_counts=True)
    n_before = len(store.items)
    store = replace(store, items=np.concatenate([store.items, items[distinct]]))
    stops = n_before + np.cumsum(lengths)
    train = PackedSequences(
        store,
        codes,
        Ragged(store.items, stops - lengths, stops),
        Ragged.of_lengths(positions[distinct], lengths),
    )
    held_out = [
        replace(part, store=store, histories=replace(part.histories, values=store.items))
        for part in (valid, test, windows)
    ]
    return PackedParts(train, *held_out)


class _Lists:
    """Lists of numbers that are appended."""

    def __init__(self) -> None:
        self._values = array("i")
        self._lengths = array("i")

    def append(self, numbers: Iterable[int]) -> None:
        before = len(self._values)
        self._values.extend(numbers)
        self._lengths.append(len(self._values) - before)

    def finish(self) -> Ragged:
        return Ragged.of_lengths(numbers_of(self._values), numbers_of(self._lengths))


def numbers_of(values: "array[int]") -> Any:
    """(n,) int32, without a copy."""
    return np.frombuffer(values, dtype=np.int32)


@dataclass
class _Rows:
    """Sequences or examples: a user and a list of events of the store each, and positions: those of
    the list, or of the targets behind it."""

    users: "array[int]" = field(default_factory=lambda: array("i"))
    starts: "array[int]" = field(default_factory=lambda: array("q"))
    stops: "array[int]" = field(default_factory=lambda: array("q"))
    positions: _Lists = field(default_factory=_Lists)
    sessions: _Lists = field(default_factory=_Lists)
    is_counted: bool = True
    has_sessions: bool = False

    def lists(self, store: EventStore) -> Ragged:
        """The lists, as items of the store."""
        bounds = (np.frombuffer(ends, dtype=np.int64) for ends in (self.starts, self.stops))
        return Ragged(store.items, *bounds)

    def sequences(self, store: EventStore) -> PackedSequences:
        """The sequences, with what some of them have beside items."""
        return PackedSequences(
            store,
            numbers_of(self.users),
            self.lists(store),
            None if self.is_counted else self.positions.finish(),
            self.sessions.finish() if self.has_sessions else None,
        )

    def examples(self, store: EventStore) -> PackedExamples:
        """The examples; the targets of each lie behind its history in the store."""
        histories = self.lists(store)
        positions = self.positions.finish()
        events = consecutive(histories.stops, positions.lengths)
        targets = Ragged(events, positions.starts, positions.stops)
        return PackedExamples(store, numbers_of(self.users), histories, targets, positions.values)


class _Packer:
    def __init__(self, types: FieldTypes) -> None:
        self._types = types
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._events = array("i")
        self._columns: dict[str, tuple[dict[tuple[type, Any], int], array[int]]] = {
            name: ({}, array("i")) for name in types.event
        }
        self._times = array("d")
        self._user_fields: dict[int, Values] = {}

    def sequences(self, sequences: Iterable[UserSequence]) -> _Rows:
        rows = _Rows()
        for sequence in sequences:
            self._begin(rows, sequence.user, sequence.items, sequence.fields)
            rows.positions.append(sequence.positions)
            rows.is_counted &= sequence.positions == tuple(range(len(sequence.items)))
            rows.sessions.append(sequence.sessions)
            rows.has_sessions |= bool(sequence.sessions)
        return rows

    def examples(self, examples: Iterable[Example]) -> _Rows:
        rows = _Rows()
        for example in examples:
            self._begin(rows, example.user, example.history, example.fields)
            for target in example.targets:
                marked = {TARGET: TARGET_VALUES[True]} if TARGET in self._columns else {}
                values = {**target.feedback, **target.context, **marked}
                times = None if target.time is None else (target.time,)
                event = {name: (value,) for name, value in values.items()}
                self._append(example.user, (target.item,), Fields({}, event, times=times))
            rows.positions.append(target.position for target in example.targets)
        return rows

    def store(self) -> EventStore:
        columns = {
            name: Coded[Value | None](
                object_array(value for _, value in code_of), numbers_of(codes)
            )
            for name, (code_of, codes) in self._columns.items()
        }
        types = self._types
        user_fields = {
            name: Coded[Value | None].of(
                self._user_fields[code][name] for code in self._user_fields
            )
            for name in types.user
        }
        return EventStore(
            Texts(self._users),
            Texts(self._items),
            numbers_of(self._events),
            types,
            columns,
            np.frombuffer(self._times) if types.times else None,
            user_fields,
        )

    def _begin(self, rows: _Rows, user: str, items: Iterable[str], fields: Fields) -> None:
        """Add a user with a list of events."""
        code = self._users.setdefault(user, len(self._users))
        known = self._user_fields.setdefault(code, fields.user)
        if known != fields.user or known.keys() != self._types.user.keys():
            raise _other_fields(user)
        rows.users.append(code)
        rows.starts.append(len(self._events))
        self._append(user, items, fields)
        rows.stops.append(len(self._events))

    def _append(self, user: str, items: Iterable[str], fields: Fields) -> None:
        self._events.extend(self._items.setdefault(item, len(self._items)) for item in items)
        if fields.event.keys() != self._columns.keys():
            raise _other_fields(user)
        for name, values in fields.event.items():
            code_of, codes = self._columns[name]
            # 5 and 5.0 are equal, and stay what they are
            codes.extend(code_of.setdefault((type(value), value), len(code_of)) for value in values)
        if (fields.times is not None) != self._types.times:
            raise _other_fields(user)
        self._times.extend(fields.times or ())
        if fields.times is not None and len(self._times) != len(self._events):
            raise _other_fields(user)


def _other_fields(user: str) -> IntegrityError:
    return IntegrityError(f"user {user!r} has other fields than the split records")
