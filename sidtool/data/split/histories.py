"""The whole history of each user, as a split would order it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidtool.data.columns import EventColumns
from sidtool.data.fields.fields import NO_FIELDS, Fields
from sidtool.data.interactions import read_interactions
from sidtool.data.split.files import is_split_folder, read_split
from sidtool.data.split.logs import user_logs
from sidtool.data.split.split import Split

History = tuple[tuple[str, ...], Fields]
"""Item ids, oldest first, and the fields of these events and their user."""


@dataclass(frozen=True, eq=False)
class UserHistories(Mapping[str, History]):
    """User -> history, which is made when it is asked for."""

    row_of: Mapping[str, int]
    history: Callable[[int], History]

    def __getitem__(self, user: str) -> History:
        return self.history(self.row_of[user])

    def __iter__(self) -> Iterator[str]:
        return iter(self.row_of)

    def __len__(self) -> int:
        return len(self.row_of)


def user_histories(source: Path, *, recorded: EventColumns | None = None) -> Mapping[str, History]:
    """User -> all events: of a split folder, held-out events included but none behind a user's
    last target (`SplitCounts.left_out`), or of a file of events with `recorded` or guessed columns,
    which has no fields.

    Order and duplicates are those of `sidtool split`. Raises as `read_split` or
    `read_interactions`."""
    if is_split_folder(source):
        split = read_split(source)
        return (
            _histories_of_events(split) if split.windows is None else _histories_of_windows(split)
        )
    interactions = read_interactions(source, recorded=recorded)

    def history(row: int) -> History:
        start, stop = int(interactions.starts[row]), int(interactions.stops[row])
        return tuple(interactions.items[start:stop].tolist()), NO_FIELDS

    return UserHistories({user: row for row, user in enumerate(interactions.users.names)}, history)


def _histories_of_events(split: Split) -> Mapping[str, History]:
    """All events, also those of no part: a first one that is held out, and events that are no
    targets."""
    logs = user_logs(split)

    def history(user: int) -> History:
        counts = logs.totals[user : user + 1]
        events, _ = logs.events(np.array([user]), np.zeros(1, dtype=np.int64), counts)
        items = tuple(logs.store.names[logs.store.items[events]].tolist())
        return items, logs.store.of_events(user, events)

    users = zip(logs.store.users, logs.totals.tolist(), strict=True)
    return UserHistories({user: code for code, (user, n) in enumerate(users) if n}, history)


def _histories_of_windows(split: Split) -> Mapping[str, History]:
    """Windows may show events that no window has as its target."""
    events: dict[str, dict[int, str]] = {}  # user -> position -> item
    for sequence in split.train:
        events[sequence.user] = dict(zip(sequence.positions, sequence.items, strict=True))
    for example in (*split.valid, *split.test):
        of_user = events.setdefault(example.user, {})
        of_user.update(enumerate(example.history, example.position - len(example.history)))
        of_user[example.position] = example.item
    return {
        user: (tuple(item for _, item in sorted(of_user.items())), NO_FIELDS)
        for user, of_user in events.items()
    }
