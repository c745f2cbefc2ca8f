"""The whole history of each user, as a split would order it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from sidtool.data.columns import EventColumns
from sidtool.data.fields.fields import NO_FIELDS, Fields
from sidtool.data.split.files import is_split_folder, read_split
from sidtool.data.split.logs import user_logs
from sidtool.data.split.make import make_split
from sidtool.data.split.split import Split

History = tuple[tuple[str, ...], Fields]
"""Item ids, oldest first, and the fields of these events and their user."""


def user_histories(source: Path, *, recorded: EventColumns | None = None) -> Mapping[str, History]:
    """User -> all events: of a split folder, held-out events included but none behind a user's
    last target (`SplitCounts.left_out`), or of a file of events with `recorded` or guessed columns,
    which has no fields.

    Order and duplicates are those of `sidtool split`. Raises as `read_split` or `make_split`."""
    if is_split_folder(source):
        split = read_split(source)
    else:
        # all events are in its parts, also where no user has enough of them to be held out
        split = make_split(source, recorded=recorded, of_some_users=True)
    return _EventHistories(split) if split.windows is None else _histories_of_windows(split)


class _EventHistories(Mapping[str, History]):
    """All events of each user, also those of no part: a first one that is held out, and events that
    are no targets. A history is made when it is asked for."""

    def __init__(self, split: Split) -> None:
        self._logs = user_logs(split)
        self._counts = self._logs.totals
        users = zip(self._logs.store.users, self._counts.tolist(), strict=True)
        self._code_of = {user: code for code, (user, count) in enumerate(users) if count}

    def __getitem__(self, user: str) -> History:
        code, store = self._code_of[user], self._logs.store
        count = self._counts[code : code + 1]
        events, _ = self._logs.events(np.array([code]), np.zeros_like(count), count)
        return tuple(store.names[store.items[events]].tolist()), store.of_events(code, events)

    def __iter__(self) -> Iterator[str]:
        return iter(self._code_of)

    def __len__(self) -> int:
        return len(self._code_of)


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
