"""The three protocols that split events into training, validation and test.

    leave-one-out   a user's last event is test, the one before it validation, the rest training
    temporal        two moments divide the events of all users into training, validation and test
    given           three files of windows that another system has split

With a condition of what is a target (`--target`), other events stay in histories: leave-one-out
holds out the last two targets of a user, and what lies between them or behind them is in no
training event."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.data.digests import digest_strings
from sidtool.data.interactions import Interactions
from sidtool.errors import DataError, UsageError
from sidtool.splits.field_columns import FieldTable
from sidtool.splits.fields import NO_FIELDS, Fields, FieldTypes
from sidtool.splits.record import Cuts
from sidtool.splits.split import (
    MIN_LENGTH,
    Example,
    Split,
    SplitOrigin,
    UserSequence,
    window_events,
    window_sequences,
)
from sidtool.splits.windows import Window, positions, read_windows

TRAIN_SHARE = 0.8
"""Under temporal without cuts: share of the events before the first cut."""
VALID_SHARE = 0.1
"""Under temporal without cuts: share of the events between the two cuts."""


def leave_one_out(interactions: Interactions, table: FieldTable | None = None) -> Split:
    """Split off the last target of each user for test and the one before it for validation.

    Users with fewer than MIN_LENGTH targets are trained on and not evaluated. Every event is a
    target, unless `table` says otherwise; it holds the fields of the events. Raises DataError if a
    part is empty."""
    train: list[UserSequence] = []
    valid: list[Example] = []
    test: list[Example] = []
    left_out = 0
    for log in _user_logs(interactions, table):
        trained = len(log.items)
        if len(log.targets) >= MIN_LENGTH:
            *_, first, last = log.targets
            trained = first
            valid.append(log.example(first))
            test.append(log.example(last))
            left_out += len(log.items) - last - 1
        train.append(log.sequence(trained))
    origin = _origin(interactions, table, None, left_out)
    return _checked(Split("leave-one-out", tuple(train), tuple(valid), tuple(test), None, origin))


def temporal(
    interactions: Interactions, cuts: Cuts | None = None, table: FieldTable | None = None
) -> Split:
    """Divide the events of all users at two moments: `cuts.valid_from` and `cuts.test_from`.

    Without cuts, they are placed so that 80%, 10% and 10% of all events are training, validation
    and test; events of one moment stay together. The history of an example is everything of the
    user before its target; `table` is as in `leave_one_out`. A target without a history is in no
    part, and is counted (`SplitCounts.left_out`). Raises UsageError if validation would start after
    test, DataError if a part is empty."""
    cuts = cuts or _default_cuts(interactions)
    if cuts.valid_from > cuts.test_from:
        raise UsageError(
            f"validation starts at {cuts.valid_from}, after test, which starts at {cuts.test_from}"
        )
    train: list[UserSequence] = []
    valid: list[Example] = []
    test: list[Example] = []
    left_out = 0
    for log in _user_logs(interactions, table):
        first_valid = int(np.searchsorted(log.order, cuts.valid_from))
        first_test = int(np.searchsorted(log.order, cuts.test_from))
        if first_valid > 0:
            train.append(log.sequence(first_valid))
        else:
            left_out += 1
        # position 0 is skipped: an example needs a history
        held_out = [position for position in log.targets if position >= max(first_valid, 1)]
        valid += [log.example(position) for position in held_out if position < first_test]
        test += [log.example(position) for position in held_out if position >= first_test]
    origin = _origin(interactions, table, cuts, left_out)
    return _checked(Split("temporal", tuple(train), tuple(valid), tuple(test), None, origin))


@dataclass(frozen=True, eq=False)
class _UserLog:
    """All events of one user."""

    user: str
    items: tuple[str, ...]
    order: NDArray[np.float64]
    targets: Sequence[int]
    """Positions of the events that may be held out"""
    fields: Fields
    types: FieldTypes

    def sequence(self, stop: int) -> UserSequence:
        """The events before `stop`, as training events."""
        fields = self.fields.until(stop)
        return UserSequence(self.user, self.items[:stop], tuple(range(stop)), fields)

    def example(self, position: int) -> Example:
        """The event at a position, after all events before it."""
        fields = self.fields.before(position, tuple(self.types.context))
        feedback = {name: self.fields.event[name][position] for name in self.types.feedback}
        history = self.items[:position]
        return Example(self.user, history, self.items[position], position, fields, feedback)


def _user_logs(interactions: Interactions, table: FieldTable | None) -> Iterator[_UserLog]:
    for user, start, stop in user_spans(interactions):
        items = tuple(interactions.items[start:stop].tolist())
        order = interactions.order[start:stop]
        if table is None:
            yield _UserLog(user, items, order, range(len(items)), NO_FIELDS, FieldTypes())
            continue
        targets = np.flatnonzero(table.is_target[start:stop]).tolist()
        fields = table.of_user(user, start, stop)
        yield _UserLog(user, items, order, targets, fields, table.types)


def _origin(
    interactions: Interactions, table: FieldTable | None, cuts: Cuts | None, left_out: int
) -> SplitOrigin:
    fields = None if table is None else table.types
    return SplitOrigin(interactions.digest, interactions.columns, cuts, left_out, fields=fields)


def given(train: Path, valid: Path, test: Path) -> Split:
    """Read a split from three files of windows, such as MiniOneRec's train, valid and test CSV.

    Training windows that show an event which is a target of validation or test are left out and
    counted (`SplitCounts.left_out`). A user's training events are all that the remaining windows
    show; `windows.positions` says which position each of them gets. Raises DataError if a part is
    empty, and what `read_windows` raises."""
    parts = [read_windows(path) for path in (train, valid, test)]
    every_window = [window for part in parts for window in part]
    target_positions = iter(positions(every_window))
    train_windows, valid_examples, test_examples = (
        tuple(Example(w.user, w.history, w.item, next(target_positions)) for w in part)
        for part in parts
    )
    targets = (*valid_examples, *test_examples)
    held_out = {(target.user, target.item, target.position) for target in targets}
    windows = tuple(w for w in train_windows if held_out.isdisjoint(window_events(w)))
    origin = SplitOrigin(_windows_digest(parts), left_out=len(train_windows) - len(windows))
    sequences = window_sequences(windows)
    return _checked(Split("given", sequences, valid_examples, test_examples, windows, origin))


def _checked(split: Split) -> Split:
    if not (split.train and split.valid and split.test):
        counts = split.counts
        raise DataError(
            f"{split.protocol} leaves {counts.train_events} training events, {counts.valid} valid "
            f"and {counts.test} test examples: no part may be empty",
            hint="try another protocol, or other cuts",
        )
    return split


def user_spans(interactions: Interactions) -> Iterator[tuple[str, int, int]]:
    """Each user with the start and the stop of the user's events."""
    users = interactions.users
    starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
    stops = np.append(starts[1:], len(users))
    spans = zip(starts.tolist(), stops.tolist(), strict=True)
    return ((users[start], start, stop) for start, stop in spans)


def _default_cuts(interactions: Interactions) -> Cuts:
    moments = np.sort(interactions.order)
    n = len(moments)
    # rounded before the floor, or 0.8 + 0.1 of ten events would be 8.999...
    first_valid = int(round(TRAIN_SHARE * n, 6))
    first_test = int(round((TRAIN_SHARE + VALID_SHARE) * n, 6))
    return Cuts(float(moments[first_valid]), float(moments[first_test]))


def _windows_digest(parts: Sequence[tuple[Window, ...]]) -> str:
    columns: list[list[str]] = []
    for part in parts:
        columns.append([window.user for window in part])
        columns.append([window.item for window in part])
        columns.append(["\t".join(window.history) for window in part])
    return digest_strings(*columns)
