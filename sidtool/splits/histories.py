"""The whole history of each user, as a split would order it."""

from pathlib import Path

from sidtool.data.columns import EventColumns
from sidtool.data.interactions import read_interactions
from sidtool.splits.files import is_split_folder, read_split
from sidtool.splits.protocols import user_spans
from sidtool.splits.split import Split


def user_histories(
    source: Path, *, recorded: EventColumns | None = None
) -> dict[str, tuple[str, ...]]:
    """User -> item ids of all events, oldest first: of a split folder, held-out events included, or
    of a file of events with `recorded` or guessed columns.

    Order and duplicates are those of `sidtool split`. Raises as `read_split` or
    `read_interactions`."""
    if is_split_folder(source):
        return _histories_of_split(read_split(source))
    interactions = read_interactions(source, recorded=recorded)
    return {
        user: tuple(interactions.items[start:stop].tolist())
        for user, start, stop in user_spans(interactions)
    }


def _histories_of_split(split: Split) -> dict[str, tuple[str, ...]]:
    events: dict[str, set[tuple[int, str]]] = {}
    for sequence in split.train:
        events[sequence.user] = set(zip(sequence.positions, sequence.items, strict=True))
    for example in (*split.valid, *split.test):
        of_user = events.setdefault(example.user, set())
        # some events are in histories only: a first one that is held out, or no targets
        if not of_user or split.fields.target:
            first = example.position - len(example.history)
            of_user.update(enumerate(example.history, first))
        of_user.add((example.position, example.item))
    return {user: tuple(item for _, item in sorted(of_user)) for user, of_user in events.items()}
