"""The training events of a split as columns, and which of them are held out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split import Split, consecutive

BLOCK = 1 << 15
"""Training events of a block, unless a single user has more."""


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
        self._train = split.train
        self._held_out = split.held_out
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

    def blocks(self, users: range) -> Iterator[EventBlock]:
        """The events of consecutive users."""
        for first, stop in self._spans(users):
            codes = self._codes(first, stop)
            sizes = np.diff(self.ends[first : stop + 1])
            positions = self._train.positions
            places: NDArray[np.integer[Any]] = consecutive(np.zeros_like(sizes), sizes)
            if positions is not None:
                places = positions.values[consecutive(positions.starts[first:stop], sizes)]
            users_of_block = self._train.users.codes[first:stop]
            owners = np.repeat(np.arange(stop - first), sizes)
            rows = self._row_of_code[codes]
            in_bundle = rows >= 0
            is_held_out = self._held_out.are_held_out(users_of_block[owners], codes, places)
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
        return items.values[consecutive(items.starts[first:stop], sizes)]
