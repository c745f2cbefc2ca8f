"""The logs of a split: the events that its parts have of each user, in one list by position."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.data.split.packed import EventStore, Ragged, consecutive
from sidtool.data.split.split import Split

PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class UserLogs:
    """The events of k users, by position: a list of the store, and the targets behind it."""

    store: EventStore
    users: NDArray[np.integer[Any]]
    """(k,) user codes, ascending"""
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

    def events(
        self, rows: NDArray[np.int64], first: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The store's events, and their positions, of `counts` events from the number `first` on,
        for each of some of the k users."""
        numbers = consecutive(first, counts)
        row_of = np.repeat(rows, counts)
        behind = numbers - self.lengths[row_of]
        events = self.starts[row_of] + numbers
        positions = numbers
        is_later = np.flatnonzero(behind >= 0)
        places = self.later.starts[row_of[is_later]] + behind[is_later]
        events[is_later] = self.later.values[places]
        positions[is_later] = self.later_positions[places]
        return events, positions


def user_logs(split: Split) -> UserLogs:
    """The logs of a split by a protocol that orders events.

    Raises IntegrityError if two parts disagree about an event."""
    lists = _part_lists(split)
    part_of = np.repeat(np.arange(3), [len(part_users) for part_users, _ in lists])
    list_users = np.concatenate([part_users for part_users, _ in lists])
    starts = np.concatenate([items.starts for _, items in lists])
    lengths = np.concatenate([items.lengths for _, items in lists])
    by_length = np.lexsort((lengths, list_users))
    is_longest = np.append(np.diff(list_users[by_length]) > 0, True)
    longest = by_length[is_longest]  # (k,): the longest list of each user
    users = list_users[longest]
    longest_of = longest[np.searchsorted(users, list_users)]
    _compare(split, list_users, part_of, starts, lengths, longest_of)
    later_users, later_positions, later_events = _later_targets(
        split, users, starts[longest], lengths[longest]
    )
    n_later = np.bincount(np.searchsorted(users, later_users), minlength=len(users))
    n_train = np.zeros(len(users), dtype=np.int64)
    n_train[np.searchsorted(users, split.train.user_codes)] = split.train.items.lengths
    stops = n_train.copy()  # the position behind the last validation target
    valid_rows = np.searchsorted(users, split.valid.event_users)
    np.maximum.at(stops, valid_rows, split.valid.event_positions.astype(np.int64) + 1)
    is_before = later_positions < np.repeat(stops, n_later)
    later_rows = np.repeat(np.arange(len(users)), n_later)
    n_before = np.minimum(stops, lengths[longest])
    n_before += np.bincount(later_rows[is_before], minlength=len(users))
    return UserLogs(
        split.train.store,
        users,
        starts[longest],
        lengths[longest],
        Ragged.of_lengths(later_events, n_later),
        later_positions,
        n_train,
        n_before - n_train,
    )


def _part_lists(split: Split) -> list[tuple[NDArray[np.integer[Any]], Ragged]]:
    """The users and the lists of items that each part has: training events, and histories."""
    return [
        (split.train.user_codes, split.train.items),
        (split.valid.user_codes, split.valid.histories),
        (split.test.user_codes, split.test.histories),
    ]


def _compare(
    split: Split,
    users: NDArray[Any],
    part_of: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    longest_of: NDArray[np.int64],
) -> None:
    """Raise IntegrityError unless each list begins as the longest one of its user does."""
    others = np.flatnonzero(starts != starts[longest_of])
    if not len(others):
        return
    store = split.train.store
    places = consecutive(starts[others], lengths[others])
    longest_places = consecutive(starts[longest_of[others]], lengths[others])
    wrong = np.flatnonzero(store.items[places] != store.items[longest_places])
    if not len(wrong):
        return
    ends = np.cumsum(lengths[others])
    row = int(np.searchsorted(ends, wrong[0], side="right"))
    this, other = others[row], longest_of[others[row]]
    items = [store.names[store.items[events[wrong[0]]]] for events in (places, longest_places)]
    raise IntegrityError(
        f"{PARTS[part_of[this]]} and {PARTS[part_of[other]]}: user {store.users[users[this]]!r} "
        f"has item {items[0]!r} and item {items[1]!r} at position {places[wrong[0]] - starts[this]}"
    )


def _later_targets(
    split: Split, users: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """User codes, positions and store events of the targets behind their users' longest lists, by
    user and position. Raises IntegrityError if another target contradicts its user's list."""
    parts = (split.valid, split.test)
    target_users = np.concatenate([part.event_users for part in parts])
    positions = np.concatenate([part.event_positions for part in parts]).astype(np.int64)
    events = np.concatenate([part.targets.joined for part in parts]).astype(np.int64)
    rows = np.searchsorted(users, target_users)
    is_later = positions >= lengths[rows]
    store = split.train.store
    within = np.flatnonzero(~is_later)
    listed = store.items[starts[rows[within]] + positions[within]]
    wrong = within[listed != store.items[events[within]]]
    if len(wrong):
        raise IntegrityError(
            f"user {store.users[target_users[wrong[0]]]!r} has a target at position "
            f"{positions[wrong[0]]} that another part contradicts"
        )
    later = np.flatnonzero(is_later)
    order = later[np.lexsort((positions[later], target_users[later]))]
    return target_users[order], positions[order], events[order]
