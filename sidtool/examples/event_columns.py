"""The training events of a split as columns, and which of them are held out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split import PackedExamples, PackedSequences, Packer, Split

BLOCK = 1 << 15
"""Training events of a block, unless a single user has more."""
POSITIONS = 1 << 31
"""More than any position."""


def ragged_indexes(starts: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.int64]:
    """(sum of sizes,): the numbers from each start on, as many as its size."""
    ends = np.cumsum(sizes, dtype=np.int64)
    first = np.repeat(starts - (ends - sizes), sizes)
    return first + np.arange(len(first))


@dataclass(frozen=True, eq=False)
class EventBlock:
    """The training events of consecutive users whose items the bundle has."""

    users: NDArray[np.integer[Any]]
    """(users,) codes of their ids in `TrainEvents.user_ids`"""
    starts: NDArray[np.int64]
    """(users + 1,): the events of user i are starts[i]:starts[i + 1]"""
    rows: NDArray[np.int64]
    """(events,) the row of each item in the bundle"""
    is_held_out: NDArray[np.bool_]
    """(events,)"""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(users,): events of each user."""
        return np.diff(self.starts)

    def count_held_out(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> int:
        """The held-out events within (n,) ranges of events."""
        before = np.concatenate([[0], np.cumsum(self.is_held_out)])
        return int((before[stops] - before[starts]).sum())


class TrainEvents:
    """The training events of a split, and their items as rows of a bundle. `row_of` maps the ids of
    its items to their rows."""

    def __init__(self, split: Split, row_of: Mapping[str, int]) -> None:
        train = split.train
        self._train = train if isinstance(train, PackedSequences) else Packer().sequences(train)()
        self._split = split
        items = self._train.items
        self._row_of_code = np.array([row_of.get(item, -1) for item in self._train.names], np.int64)
        self.ends = np.concatenate([[0], np.cumsum(items.stops - items.starts)])
        """(users + 1,): the training events of all users before each"""
        counts = np.zeros(len(row_of) + 1, dtype=np.int64)  # the last one is that of row -1
        for first, stop in self._spans(range(len(self))):
            rows = self._row_of_code[self._codes(first, stop)]
            counts += np.bincount(rows % len(counts), minlength=len(counts))
        self.n_dropped = int(counts[-1])
        """Events whose items the bundle lacks"""
        self.used_rows = np.flatnonzero(counts[:-1])
        """The rows of the items that users have, ascending"""

    def __len__(self) -> int:
        return len(self._train)

    @property
    def n_events(self) -> int:
        """All events, those whose items the bundle lacks too."""
        return int(self.ends[-1])

    @property
    def longest(self) -> int:
        """The events of the user who has most."""
        return int(np.diff(self.ends).max(initial=0))

    @property
    def user_ids(self) -> NDArray[np.object_]:
        """The ids of users by code."""
        return self._train.users.names

    @cached_property
    def _held_out(self) -> "_HeldOutEvents":
        return _HeldOutEvents(self._split, self._train)

    def blocks(self, users: range) -> Iterator[EventBlock]:
        """The events of consecutive users."""
        for first, stop in self._spans(users):
            codes = self._codes(first, stop)
            sizes = np.diff(self.ends[first : stop + 1])
            positions = self._train.positions
            places: NDArray[np.integer[Any]] = ragged_indexes(np.zeros_like(sizes), sizes)
            if positions is not None:
                places = positions.values[ragged_indexes(positions.starts[first:stop], sizes)]
            users_of_block = self._train.users.codes[first:stop]
            owners = np.repeat(np.arange(stop - first), sizes)
            rows = self._row_of_code[codes]
            in_bundle = rows >= 0
            is_held_out = self._held_out.contain(users_of_block[owners], codes, places)
            n_events = np.bincount(owners[in_bundle], minlength=stop - first)
            starts = np.concatenate([[0], np.cumsum(n_events)])
            yield EventBlock(users_of_block, starts, rows[in_bundle], is_held_out[in_bundle])

    def _spans(self, users: range) -> Iterator[tuple[int, int]]:
        """The first user of each block, and the one behind its last."""
        first = users.start
        while first < users.stop:
            stop = int(np.searchsorted(self.ends, self.ends[first] + BLOCK, side="right")) - 1
            stop = min(max(stop, first + 1), users.stop)
            yield first, stop
            first = stop

    def _codes(self, first: int, stop: int) -> NDArray[np.integer[Any]]:
        """(events,): the code of each item of some users."""
        items = self._train.items
        sizes = np.diff(self.ends[first : stop + 1])
        return items.values[ragged_indexes(items.starts[first:stop], sizes)]


class _HeldOutEvents:
    """The targets of validation and test, by the codes of the training events."""

    def __init__(self, split: Split, train: PackedSequences) -> None:
        self._names = train.names
        keys = [np.array([-1])]  # of no event, so that there is a key
        items = [np.array([""], dtype=object)]
        for part in (split.valid, split.test):
            examples = part if isinstance(part, PackedExamples) else Packer().examples(part)()
            users = _codes_among(train.users.names, examples.users.names)[examples.users.codes]
            keys.append(_keys(users, examples.positions))
            items.append(examples.names[examples.items])
            if examples.rest is None:
                continue
            further = [examples.rest(index) for index in range(len(examples))]
            users = np.repeat(users, [len(targets) for targets in further])
            targets = [target for targets in further for target in targets]
            keys.append(_keys(users, np.array([target.position for target in targets])))
            items.append(np.array([target.item for target in targets], dtype=object))
        by_event = np.concatenate(keys)
        order = np.argsort(by_event, kind="stable")
        self._keys = by_event[order]
        self._items = np.concatenate(items)[order]

    def contain(
        self, users: NDArray[Any], items: NDArray[Any], positions: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """(n,): which events, of users and items by code, are held out."""
        keys = _keys(users, positions)
        places = np.searchsorted(self._keys, keys)
        contained = np.zeros(len(keys), dtype=np.bool_)
        is_alike = self._keys[np.minimum(places, len(self._keys) - 1)] == keys
        # files of windows that disagree may have two items at one position of a user
        for event in np.flatnonzero(is_alike).tolist():
            stop = np.searchsorted(self._keys, keys[event], side="right")
            contained[event] = self._names[items[event]] in self._items[places[event] : stop]
        return contained


def _keys(users: Any, positions: NDArray[Any]) -> NDArray[np.int64]:
    """(n,): one number for a user and a position."""
    return users * np.int64(POSITIONS) + positions


def _codes_among(names: NDArray[np.object_], others: NDArray[np.object_]) -> NDArray[np.int64]:
    """(others,): the code of each of the others among names, -1 for none."""
    if others is names:
        return np.arange(len(names))
    code_of = {name: code for code, name in enumerate(names)}
    return np.array([code_of.get(name, -1) for name in others], dtype=np.int64)
