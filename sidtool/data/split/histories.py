"""The whole history of each user, as a split would order it."""

from pathlib import Path

from sidtool.data.columns import EventColumns
from sidtool.data.fields.fields import NO_FIELDS, Fields
from sidtool.data.interactions import read_interactions
from sidtool.data.split.files import is_split_folder, read_split
from sidtool.data.split.split import Split

History = tuple[tuple[str, ...], Fields]
"""Item ids, oldest first, and the fields of these events and their user."""


def user_histories(source: Path, *, recorded: EventColumns | None = None) -> dict[str, History]:
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
    spans = zip(interactions.starts.tolist(), interactions.stops.tolist(), strict=True)
    return {
        interactions.users[start]: (tuple(interactions.items[start:stop].tolist()), NO_FIELDS)
        for start, stop in spans
    }


def _histories_of_events(split: Split) -> dict[str, History]:
    """A user's last example shows all events, also those of no part: a first one that is held out,
    and events that are no targets."""
    histories = {user.user: (user.items, user.fields) for user in split.train}
    last = {example.user: example for example in (*split.valid, *split.test)}  # in time order
    for user, example in last.items():
        histories[user] = ((*example.history, *example.items), example.all_fields)
    return histories


def _histories_of_windows(split: Split) -> dict[str, History]:
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
