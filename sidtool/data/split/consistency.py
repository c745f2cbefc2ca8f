"""What the protocol of a split implies about its parts.

The digest of a split covers training events and targets. Histories follow from them: without this
check, a changed history in a folder whose file digests were recomputed would be read."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from sidtool.base.errors import IntegrityError
from sidtool.data.coded import Coded
from sidtool.data.split.session_consistency import check_held_out_sessions, check_recorded_sessions
from sidtool.data.split.split import MIN_LENGTH, Example, Split, window_sequences


def check_parts(split: Split) -> None:
    """Raise IntegrityError unless the parts of a split could have been made by its protocol, and
    have the fields that it records."""
    if not (split.train and split.valid and split.test):
        raise IntegrityError("a part of the split is empty")
    repeated = _repeated(sequence.user for sequence in split.train)
    if repeated is not None:
        raise IntegrityError(f"train.jsonl has user {repeated!r} twice")
    _check_fields(split)
    check_recorded_sessions(split)
    if split.windows is not None:
        _check_windows(split, split.windows)
        return
    _check_positions(split)
    if split.protocol == "last-session":
        _check_examples_of_users(split)
        check_held_out_sessions(split)
        return
    _check_events(split)
    if split.protocol == "leave-one-out":
        _check_left_out(split)


def _check_fields(split: Split) -> None:
    """Check that every line has the fields of the split, no more and no fewer."""
    types = split.fields
    for name, lines in (
        ("train.jsonl", split.train),
        ("valid.jsonl", split.valid),
        ("test.jsonl", split.test),
    ):
        for line in lines:
            fields = line.fields
            parts = [(fields.user, types.user), (fields.event, types.event)]
            if isinstance(line, Example):
                parts += [(fields.context, types.context), (line.feedback, types.feedback)]
            same = all(part.keys() == expected.keys() for part, expected in parts)
            if not same or (fields.times is not None) != types.times:
                raise IntegrityError(
                    f"{name}: user {line.user!r} has other fields than the split records"
                )


def _check_positions(split: Split) -> None:
    """Check that the training events of each user are the first ones."""
    for user_events in split.train:
        if not user_events.items or user_events.positions != tuple(range(len(user_events.items))):
            raise IntegrityError(
                f"train.jsonl: user {user_events.user!r} has positions "
                f"{user_events.positions[:5]}, not 0, 1, 2 ... of each event"
            )


def _check_events(split: Split) -> None:
    """Check that a user's training events, validation and test targets are one sequence, and that
    each history has the events before its target."""
    trained = {user_events.user: row for row, user_events in enumerate(split.train)}
    parts = (("valid.jsonl", split.valid), ("test.jsonl", split.test))
    for user, of_user in _examples_by_user(parts):
        events: tuple[str, ...] = ()
        if user in trained:
            events = split.train[trained[user]].items
        for name, example in of_user:
            if not events and split.protocol == "temporal":
                events = example.history[:1]  # an event without a history is in no part
            if split.fields.target:
                # events that are no targets are in no part, only in the histories of later ones
                events += example.history[len(events) :]
            if example.position != len(events) or not events:
                raise IntegrityError(
                    f"{name}: user {example.user!r} has an example at position "
                    f"{example.position}, after {len(events)} events"
                )
            if example.history != events:
                raise IntegrityError(_difference(name, example, events))
            events = (*events, example.item)


def _examples_by_user(
    parts: Sequence[tuple[str, Sequence[Example]]],
) -> Iterator[tuple[str, Iterator[tuple[str, Example]]]]:
    """Each user with examples: those of the first part by position, then those of the next, each
    with the name of its part."""
    sizes = [len(part) for _, part in parts]
    users = Coded[str].of(example.user for _, part in parts for example in part)
    positions = np.array(
        [example.position for _, part in parts for example in part], dtype=np.int64
    )
    # the examples of all parts behind one another: the part of each, and its index there
    part_of = np.repeat(np.arange(len(parts)), sizes)
    index_of = np.concatenate([np.arange(size) for size in sizes])

    def example_at(row: int) -> tuple[str, Example]:
        name, part = parts[part_of[row]]
        return name, part[int(index_of[row])]

    order = np.lexsort((positions, part_of, users.codes))
    stops = np.cumsum(np.bincount(users.codes, minlength=len(users.names))).tolist()
    for user, start, stop in zip(users.names, [0, *stops[:-1]], stops, strict=True):
        yield user, map(example_at, order[start:stop].tolist())


def _check_examples_of_users(split: Split) -> None:
    """Check that a user has one validation and one test example, or none."""
    held_out = [example.user for example in split.valid]
    repeated = _repeated(held_out)
    if repeated is not None:
        raise IntegrityError(f"valid.jsonl has two examples of user {repeated!r}")
    if sorted(held_out) != sorted(example.user for example in split.test):
        raise IntegrityError("valid.jsonl and test.jsonl do not have one example of each user")


def _check_left_out(split: Split) -> None:
    """Check that each user has one validation and one test example, or too few events for them."""
    _check_examples_of_users(split)
    users = {example.user for example in split.valid}
    for sequence in split.train:
        n_targets = len(sequence.target_indexes)
        if sequence.user not in users and n_targets >= MIN_LENGTH:
            raise IntegrityError(f"user {sequence.user!r} has {n_targets} targets and no example")


def _check_windows(split: Split, windows: tuple[Example, ...]) -> None:
    """Check that the training events are those of the windows, and that none is held out."""
    for name, examples in (
        ("windows.jsonl", windows),
        ("valid.jsonl", split.valid),
        ("test.jsonl", split.test),
    ):
        for example in examples:
            if example.position < len(example.history):
                raise IntegrityError(
                    f"{name}: user {example.user!r} has {len(example.history)} events before "
                    f"position {example.position}"
                )
    implied = {sequence.user: sequence for sequence in window_sequences(windows)}
    stored = {sequence.user: sequence for sequence in split.train}
    for user in implied.keys() | stored.keys():
        if implied.get(user) != stored.get(user):
            raise IntegrityError(
                f"windows.jsonl shows other events of user {user!r} than train.jsonl has"
            )
    for sequence in split.train:
        for item, position in zip(sequence.items, sequence.positions, strict=True):
            if (sequence.user, item, position) in split.held_out:
                raise IntegrityError(
                    f"train.jsonl: user {sequence.user!r} has item {item!r} at position "
                    f"{position}, which is held out"
                )


def _difference(name: str, example: Example, events: tuple[str, ...]) -> str:
    where = f"{name}: the history of user {example.user!r} at position {example.position}"
    if len(example.history) != len(events):
        return f"{where} has {len(example.history)} items, not {len(events)}"
    pairs = zip(example.history, events, strict=True)
    index = next(i for i, (item, event) in enumerate(pairs) if item != event)
    return f"{where} has item {example.history[index]!r} at index {index}, not {events[index]!r}"


def _repeated(users: Iterable[str]) -> str | None:
    """A user that occurs twice."""
    seen: set[str] = set()
    for user in users:
        if user in seen:
            return user
        seen.add(user)
    return None
