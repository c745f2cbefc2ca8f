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
    """The events of k users, by position."""

    store: EventStore
    users: NDArray[np.integer[Any]]
    """(k,) user codes, ascending"""
    events: Ragged
    """k lists of the store's events, behind one another"""
    positions: NDArray[np.int64]
    """(events,): the position of each"""
    n_train: NDArray[np.int64]
    """(k,): how many of each user's events are training events: the first ones"""
    n_valid: NDArray[np.int64]
    """(k,): how many follow these until the last validation target; the rest is of test"""

    @property
    def n_test(self) -> NDArray[np.int64]:
        """(k,): how many events follow until the last test target."""
        return self.events.lengths - self.n_train - self.n_valid


def user_logs(split: Split) -> UserLogs:
    """The logs of a split by a protocol that orders events.

    Raises IntegrityError if two parts disagree about an event, or lack one before a target."""
    lists = _part_lists(split)
    store = split.train.store
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
    rows = np.searchsorted(users, later_users)
    n_later = np.bincount(rows, minlength=len(users))
    totals = lengths[longest] + n_later
    firsts = np.cumsum(totals) - totals
    events = np.empty(int(totals.sum()), dtype=np.int64)
    events[consecutive(firsts, lengths[longest])] = consecutive(starts[longest], lengths[longest])
    positions = consecutive(np.zeros_like(firsts), totals)
    later_places = consecutive(firsts + lengths[longest], n_later)
    events[later_places] = later_events
    positions[later_places] = later_positions
    n_train = np.zeros(len(users), dtype=np.int64)
    n_train[np.searchsorted(users, split.train.user_codes)] = split.train.items.lengths
    stops = n_train.copy()  # the position behind the last validation target
    valid_rows = np.searchsorted(users, split.valid.event_users)
    np.maximum.at(stops, valid_rows, split.valid.event_positions.astype(np.int64) + 1)
    is_before = positions < np.repeat(stops, totals)
    n_before = np.add.reduceat(is_before, firsts, dtype=np.int64)
    listed = Ragged.of_lengths(events, totals)
    return UserLogs(store, users, listed, positions, n_train, n_before - n_train)


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
    mine = consecutive(starts[others], lengths[others])
    theirs = consecutive(starts[longest_of[others]], lengths[others])
    wrong = np.flatnonzero(store.items[mine] != store.items[theirs])
    if not len(wrong):
        return
    ends = np.cumsum(lengths[others])
    row = int(np.searchsorted(ends, wrong[0], side="right"))
    this, other = others[row], longest_of[others[row]]
    items = [store.names[store.items[places[wrong[0]]]] for places in (mine, theirs)]
    raise IntegrityError(
        f"{PARTS[part_of[this]]} and {PARTS[part_of[other]]}: user {store.users[users[this]]!r} "
        f"has item {items[0]!r} and item {items[1]!r} at position {mine[wrong[0]] - starts[this]}"
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
