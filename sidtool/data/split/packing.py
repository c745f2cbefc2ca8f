"""Packs sequences and examples, given as objects, into columns."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.base.ranges import consecutive, run_starts
from sidtool.data.coded import Coded, Texts, object_array
from sidtool.data.fields.fields import (
    TARGET,
    TARGET_VALUES,
    EventStore,
    Fields,
    FieldTypes,
    Value,
    Values,
)
from sidtool.data.split.packed import PackedExamples, PackedSequences, Ragged
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
    train_rows, train_positions, sessions = [], [], []
    for sequence in train:
        train_rows.append(packer.add(sequence.user, sequence.items, sequence.fields))
        train_positions.append(sequence.positions)
        sessions.append(sequence.sessions)
    examples = [packer.examples(part) for part in (valid, test, windows or ())]
    store = packer.store()
    users, items = _lists(store, train_rows)
    count_from_zero = all(
        positions == tuple(range(length))
        for positions, length in zip(train_positions, items.lengths.tolist(), strict=True)
    )
    sequences = PackedSequences(
        store,
        users,
        items,
        positions=None if count_from_zero else _ragged(train_positions),
        sessions=_ragged(sessions) if any(sessions) else None,
    )
    parts = []
    for rows, target_positions in examples:
        users, histories = _lists(store, rows)
        positions = _ragged(target_positions)
        # the targets of an example lie behind its history
        target_events = consecutive(histories.stops, positions.lengths)
        targets = Ragged(target_events, positions.starts, positions.stops)
        parts.append(PackedExamples(store, users, histories, targets, positions.values))
    return PackedParts(sequences, parts[0], parts[1], None if windows is None else parts[2])


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
    distinct = order[run_starts(users[order], positions[order], items[order])]
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


Row = tuple[int, int, int]
"""The code of a user, and where a list of events of the user starts and stops in the store."""


def _lists(store: EventStore, rows: Sequence[Row]) -> tuple[NDArray[np.int32], Ragged]:
    """(n,) the users of n lists, and the lists, as items of the store."""
    users, starts, stops = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return users.astype(np.int32), Ragged(store.items, starts, stops)


def _ragged(lists: Sequence[Sequence[int]]) -> Ragged:
    """Lists of numbers, one behind the other."""
    numbers = np.fromiter(chain.from_iterable(lists), dtype=np.int32)
    return Ragged.of_lengths(numbers, np.array([len(members) for members in lists], dtype=np.int64))


class _Packer:
    """Appends events to the columns of one store, by codes of first appearance."""

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

    def examples(self, examples: Iterable[Example]) -> tuple[list[Row], list[list[int]]]:
        """Add examples -> the rows of their histories, and the positions of their targets, which
        lie behind these."""
        rows, positions = [], []
        for example in examples:
            rows.append(self.add(example.user, example.history, example.fields))
            for target in example.targets:
                marked = {TARGET: TARGET_VALUES[True]} if TARGET in self._columns else {}
                values = {**target.feedback, **target.context, **marked}
                times = None if target.time is None else (target.time,)
                event = {name: (value,) for name, value in values.items()}
                self._append(example.user, (target.item,), Fields({}, event, times=times))
            positions.append([target.position for target in example.targets])
        return rows, positions

    def store(self) -> EventStore:
        types = self._types
        columns = {
            name: Coded[Value | None](
                object_array(value for _, value in code_by_value), np.array(codes, dtype=np.int32)
            )
            for name, (code_by_value, codes) in self._columns.items()
        }
        user_fields = {
            name: Coded[Value | None].of(values[name] for values in self._user_fields.values())
            for name in types.user
        }
        return EventStore(
            Texts(self._users),
            Texts(self._items),
            np.array(self._events, dtype=np.int32),
            types,
            columns,
            np.array(self._times) if types.times else None,
            user_fields,
        )

    def add(self, user: str, items: Iterable[str], fields: Fields) -> Row:
        """Add a list of events of a user."""
        code = self._users.setdefault(user, len(self._users))
        user_fields = self._user_fields.setdefault(code, fields.user)
        if user_fields != fields.user or user_fields.keys() != self._types.user.keys():
            raise _other_fields(user)
        start = len(self._events)
        self._append(user, items, fields)
        return code, start, len(self._events)

    def _append(self, user: str, items: Iterable[str], fields: Fields) -> None:
        self._events.extend(self._items.setdefault(item, len(self._items)) for item in items)
        has_times = fields.times is not None
        if fields.event.keys() != self._columns.keys() or has_times != self._types.times:
            raise _other_fields(user)
        for name, values in fields.event.items():
            code_by_value, codes = self._columns[name]
            # 5 and 5.0 are equal, and stay what they are
            codes.extend(
                code_by_value.setdefault((type(value), value), len(code_by_value))
                for value in values
            )
        self._times.extend(fields.times or ())


def _other_fields(user: str) -> IntegrityError:
    return IntegrityError(f"user {user!r} has other fields than the split records")
