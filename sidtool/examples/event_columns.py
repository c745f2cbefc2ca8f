"""The training events of a split as columns, and which of them are held out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split import PackedSequences, Split, ranges

BLOCK = 1 << 18
"""Items that are shown in a block, unless those of a single user are more."""


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
        names = self._train.names.tolist()
        self._row_of_code = np.array([row_of.get(item, -1) for item in names], dtype=np.int64)
        counts = np.zeros(len(names), dtype=np.int64)
        for train in self._parts(range(len(self)), BLOCK):
            counts += np.bincount(train.items.joined, minlength=len(names))
        in_bundle = self._row_of_code >= 0
        self.n_events = int(counts.sum())
        """All events, those whose items the bundle lacks too"""
        self.n_dropped = int(counts[~in_bundle].sum())
        """Events whose items the bundle lacks"""
        self.used_rows = np.sort(self._row_of_code[in_bundle & (counts > 0)])
        """The rows of the items that users have, ascending"""
        self.longest = int(self._train.items.lengths.max(initial=0))
        """The events of the user who has most"""
        self.user_ids = self._train.users.names
        """The ids of users by code"""

    def __len__(self) -> int:
        return len(self._train)

    @property
    def unknown_items(self) -> Sequence[str]:
        """The items of the split, its held-out ones too, that the bundle lacks."""
        return [str(item) for item in self._train.names[self._row_of_code < 0]]

    def blocks(self, users: range, n_shown: int = 1) -> Iterator[EventBlock]:
        """The events of consecutive users, each of which is shown up to `n_shown` times."""
        for train in self._parts(users, max(1, BLOCK // n_shown)):
            codes = train.items.joined
            owners = np.repeat(np.arange(len(train)), train.items.lengths)
            user_codes = train.user_codes[owners]
            is_held_out = self._held_out.are_held_out(user_codes, codes, train.event_positions)
            rows = self._row_of_code[codes]
            in_bundle = rows >= 0
            n_events = np.bincount(owners[in_bundle], minlength=len(train))
            starts = np.concatenate([[0], np.cumsum(n_events)])
            yield EventBlock(train.user_codes, starts, rows[in_bundle], is_held_out[in_bundle])

    def _parts(self, users: range, n_events: int) -> Iterator[PackedSequences]:
        """The events of consecutive users, about `n_events` at once."""
        lengths = self._train.items.lengths[users.start : users.stop]
        for start, stop in ranges(lengths, n_events):
            yield self._train.take(slice(users.start + start, users.start + stop))
