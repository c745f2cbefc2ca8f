"""The logs of a split: the events that its parts have of each user, in one list by position."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.base.ranges import consecutive
from sidtool.data.fields.fields import EventStore
from sidtool.data.split.packed import Ragged
from sidtool.data.split.split import Split

PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class UserLogs:
    """The events of k users by code and position: a list of the store, and the targets behind it.
    A user of the store whom no part has is one of them, without events."""

    store: EventStore
    starts: NDArray[np.int64]
    """(k,): where the longest list of each user begins in the store, with positions 0, 1, 2 ..."""
    lengths: NDArray[np.int64]
    """(k,): of that list"""
    later: Ragged
    """k lists of the store's events behind it"""
    later_positions: NDArray[np.int64]
    """(`later.values`,)"""
    n_train: NDArray[np.int64]
    """(k,): how many of each user's events are training events: the first ones"""
    n_valid: NDArray[np.int64]
    """(k,): how many follow these until the last validation target; the rest is of test"""

    @property
    def totals(self) -> NDArray[np.int64]:
        """(k,): the number of each user's events"""
        return self.lengths + self.later.lengths

    @property
    def last_positions(self) -> NDArray[np.int64]:
        """(k,): the position of each user's last event"""
        last = self.lengths - 1
        has_later = self.later.lengths > 0
        last[has_later] = self.later_positions[self.later.stops[has_later] - 1]
        return last

    def events_of(self, part: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(k,) the number of each user's first event in a part of PARTS, and (k,) how many it
        has."""
        if part == 0:
            return np.zeros_like(self.n_train), self.n_train
        if part == 1:
            return self.n_train, self.n_valid
        before = self.n_train + self.n_valid
        return before, self.totals - before

    def events(
        self, users: NDArray[Any], first: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The store's events, and their positions, of `counts` events from the number `first` on,
        for each of some users."""
        positions = consecutive(first, counts).copy()
        event_users = np.repeat(users, counts)
        behind = positions - self.lengths[event_users]
        events = self.starts[event_users] + positions
        is_later = np.flatnonzero(behind >= 0)
        places = self.later.starts[event_users[is_later]] + behind[is_later]
        events[is_later] = self.later.values[places]
        positions[is_later] = self.later_positions[places]
        return events, positions


def user_logs(split: Split) -> UserLogs:
    """The logs of a split by a protocol that orders events.

    Raises IntegrityError if two parts disagree about an event."""
    train, valid = split.train, split.valid
    n_users = len(train.store.users)
    lists = [(train.user_codes, train.items)]
    lists += [(part.user_codes, part.histories) for part in (valid, split.test)]
    n_train = np.zeros(n_users, dtype=np.int64)
    n_train[train.user_codes] = train.items.lengths
    # how long the longest list of each user is, and where it begins in the store
    lengths = n_train.copy()
    for users, items in lists[1:]:
        np.maximum.at(lengths, users, items.lengths)
    starts = np.zeros(n_users, dtype=np.int64)
    for users, items in lists:
        is_longest = items.lengths == lengths[users]
        starts[users[is_longest]] = items.starts[is_longest]
    for name, (users, items) in zip(PARTS, lists, strict=True):
        _compare(split, name, users, items, starts[users])
    users, positions, events = _later_targets(split, starts, lengths)
    later = Ragged.of_lengths(events, np.bincount(users, minlength=n_users))
    # the position behind the last validation target, or the last training event
    stops = n_train.copy()
    np.maximum.at(stops, valid.event_users, valid.event_positions.astype(np.int64) + 1)
    n_valid = np.minimum(stops, lengths) - n_train
    n_valid += np.bincount(users[positions < stops[users]], minlength=n_users)
    return UserLogs(train.store, starts, lengths, later, positions, n_train, n_valid)


def _compare(
    split: Split, name: str, users: NDArray[Any], items: Ragged, starts: NDArray[np.int64]
) -> None:
    """Raise IntegrityError unless each list of items is the beginning of the longest one of its
    user, which begins at `starts` in the store."""
    store = split.train.store
    rows = np.flatnonzero(items.starts != starts)  # the others begin at the same event
    lists = items.take(rows)
    events = lists.places
    longest_events = consecutive(starts[rows], lists.lengths)
    differing = np.flatnonzero(store.items[events] != store.items[longest_events])
    if not len(differing):
        return
    first = differing[0]
    row = rows[np.searchsorted(np.cumsum(lists.lengths), first, side="right")]
    position = events[first] - items.starts[row]
    item = store.names[store.items[events[first]]]
    other_item = store.names[store.items[longest_events[first]]]
    raise IntegrityError(
        f"{name}: user {store.users[users[row]]!r} has item {item!r} at position "
        f"{position}, another part has item {other_item!r}"
    )


def _later_targets(
    split: Split, starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """User codes, positions and store events of the targets behind their users' longest lists, by
    user and position. Raises IntegrityError if another target contradicts its user's list."""
    store = split.train.store
    part_targets = []
    for part in (split.valid, split.test):
        users, positions, events = part.event_users, part.event_positions, part.targets.joined
        is_later = positions >= lengths[users]
        within = np.flatnonzero(~is_later)
        listed = store.items[starts[users[within]] + positions[within]]
        wrong = within[listed != store.items[events[within]]]
        if len(wrong):
            raise IntegrityError(
                f"user {store.users[users[wrong[0]]]!r} has a target at position "
                f"{positions[wrong[0]]} that another part contradicts"
            )
        part_targets.append(
            (users[is_later], positions[is_later].astype(np.int64), events[is_later])
        )
    users, positions, events = map(np.concatenate, zip(*part_targets, strict=True))
    order = by_user(users, positions)
    return users[order], positions[order], events[order]


def by_user(users: NDArray[Any], positions: NDArray[Any]) -> Any:
    """What orders events by user and position: a slice of all if they are, as one event of each
    user is."""
    if (users[1:] > users[:-1]).all():
        return slice(None)
    return np.lexsort((positions, users))
