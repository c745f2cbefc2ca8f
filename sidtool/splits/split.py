"""Splits of user events into training, validation and test, and the three protocols that make them.

    leave-one-out   a user's last event is test, the one before it validation, the rest training
    temporal        two moments divide the events of all users into training, validation and test
    given           three files of windows that another system has split

An event is (user, item, position), where the position is the index in the user's whole sequence: a
repeated item is another event, and repeats are kept."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from sidtool.data.columns import EventColumns
from sidtool.data.digests import digest_strings
from sidtool.data.interactions import Interactions
from sidtool.errors import DataError, UsageError
from sidtool.splits.record import Cuts, Protocol, SplitCounts, SplitManifest, SplitReference
from sidtool.splits.windows import Window, positions, read_windows

T = TypeVar("T")
Event = tuple[str, str, int]
"""User, item, position."""
MIN_LENGTH = 3
"""Under leave-one-out, all events of users with fewer events are training events."""
TRAIN_SHARE = 0.8
"""Under temporal without cuts: share of the events before the first cut."""
VALID_SHARE = 0.1
"""Under temporal without cuts: share of the events between the two cuts."""


@dataclass(frozen=True)
class UserSequence:
    """A user's training events in time order."""

    user: str
    items: tuple[str, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """An evaluation example: a user's history and the item that follows it."""

    user: str
    history: tuple[str, ...]
    item: str
    position: int
    """Index of the item in the user's whole sequence."""


@dataclass(frozen=True)
class SplitOrigin:
    """Where a split came from: the fields of its manifest that do not follow from its parts."""

    events_digest: str = ""
    columns: EventColumns | None = None
    cuts: Cuts | None = None
    left_out: int = 0
    """As `SplitCounts.left_out`."""
    extends: tuple[str, ...] = ()
    """As `SplitReference.extends`."""


@dataclass(frozen=True)
class Split:
    """The training events, validation examples and test examples of a data set."""

    protocol: Protocol
    train: tuple[UserSequence, ...]
    valid: tuple[Example, ...]
    test: tuple[Example, ...]
    windows: tuple[Example, ...] | None = None
    """Protocol `given`: the training windows of the files, of which training examples are made."""
    origin: SplitOrigin = field(default_factory=SplitOrigin)

    @cached_property
    def held_out(self) -> frozenset[Event]:
        """The targets of validation and test."""
        targets = (*self.valid, *self.test)
        return frozenset((target.user, target.item, target.position) for target in targets)

    @cached_property
    def train_digest(self) -> str:
        """SHA-256 over the training events. The order of users has no effect."""
        sequences = sorted(self.train, key=lambda sequence: sequence.user)
        users = [sequence.user for sequence in sequences for _ in sequence.items]
        items = [item for sequence in sequences for item in sequence.items]
        indexes = [str(position) for sequence in sequences for position in sequence.positions]
        return digest_strings(users, items, indexes)

    @cached_property
    def held_out_digest(self) -> str:
        """SHA-256 over the targets of validation and of test. Their order has no effect."""
        columns: list[list[str]] = []
        for part in (self.valid, self.test):
            targets = sorted(part, key=lambda target: (target.user, target.position, target.item))
            columns.append([target.user for target in targets])
            columns.append([target.item for target in targets])
            columns.append([str(target.position) for target in targets])
        return digest_strings(*columns)

    @cached_property
    def reference(self) -> SplitReference:
        """The reference that everything made from this split carries."""
        parts = f"{self.train_digest}:{self.held_out_digest}"
        digest = hashlib.sha256(parts.encode()).hexdigest()
        origin = self.origin
        return SplitReference(self.protocol, digest, origin.cuts, origin.extends, origin.columns)

    @property
    def counts(self) -> SplitCounts:
        """Sizes of the parts."""
        return SplitCounts(
            users=len(self.train),
            train_events=sum(len(sequence.items) for sequence in self.train),
            valid=len(self.valid),
            test=len(self.test),
            windows=len(self.windows or ()),
            left_out=self.origin.left_out,
        )

    def manifest(self, files: dict[str, str]) -> SplitManifest:
        """The manifest of this split, with the SHA-256 of the files that hold it."""
        return SplitManifest(
            protocol=self.protocol,
            digest=self.reference.digest,
            train_digest=self.train_digest,
            held_out_digest=self.held_out_digest,
            events_digest=self.origin.events_digest,
            counts=self.counts,
            cuts=self.origin.cuts,
            columns=self.origin.columns,
            files=files,
            extends=self.origin.extends,
        )


def evenly_spaced(examples: Sequence[T], count: int | None) -> Sequence[T]:
    """`count` of the examples, evenly spread, as the first users of a file may be the oldest; all
    if there are no more or `count` is None."""
    if count is None or count >= len(examples):
        return examples
    return tuple(examples[step * len(examples) // count] for step in range(count))


def count_leaks(split: Split, events: Iterable[Event]) -> int:
    """Number of held-out events among `events`, which are those that training uses: must be 0."""
    return sum(event in split.held_out for event in events)


def leave_one_out(interactions: Interactions) -> Split:
    """Split off the last event of each user for test and the one before it for validation.

    Users with fewer than MIN_LENGTH events are trained on and not evaluated. Raises DataError if a
    part is empty."""
    train: list[UserSequence] = []
    valid: list[Example] = []
    test: list[Example] = []
    for user, start, stop in user_spans(interactions):
        items = tuple(interactions.items[start:stop].tolist())
        length = len(items)
        trained = length if length < MIN_LENGTH else length - 2
        train.append(UserSequence(user, items[:trained], tuple(range(trained))))
        if length >= MIN_LENGTH:
            valid.append(Example(user, items[: length - 2], items[length - 2], length - 2))
            test.append(Example(user, items[: length - 1], items[length - 1], length - 1))
    origin = SplitOrigin(interactions.digest, interactions.columns)
    return _checked(Split("leave-one-out", tuple(train), tuple(valid), tuple(test), None, origin))


def temporal(interactions: Interactions, cuts: Cuts | None = None) -> Split:
    """Divide the events of all users at two moments: `cuts.valid_from` and `cuts.test_from`.

    Without cuts, they are placed so that 80%, 10% and 10% of all events are training, validation
    and test; events of one moment stay together. The history of an example is everything of the
    user before its target. A target without a history is in no part, and is counted
    (`SplitCounts.left_out`). Raises UsageError if validation would start after test, DataError if a
    part is empty."""
    cuts = cuts or _default_cuts(interactions)
    if cuts.valid_from > cuts.test_from:
        raise UsageError(
            f"validation starts at {cuts.valid_from}, after test, which starts at {cuts.test_from}"
        )
    train: list[UserSequence] = []
    valid: list[Example] = []
    test: list[Example] = []
    left_out = 0
    for user, start, stop in user_spans(interactions):
        items = tuple(interactions.items[start:stop].tolist())
        order = interactions.order[start:stop]
        first_valid = int(np.searchsorted(order, cuts.valid_from))
        first_test = int(np.searchsorted(order, cuts.test_from))
        if first_valid > 0:
            train_positions = tuple(range(first_valid))
            train.append(UserSequence(user, items[:first_valid], train_positions))
        else:
            left_out += 1
        # position 0 is skipped: an example needs a history
        for position in range(max(first_valid, 1), first_test):
            valid.append(Example(user, items[:position], items[position], position))
        for position in range(max(first_test, 1), len(items)):
            test.append(Example(user, items[:position], items[position], position))
    origin = SplitOrigin(interactions.digest, interactions.columns, cuts, left_out)
    return _checked(Split("temporal", tuple(train), tuple(valid), tuple(test), None, origin))


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


def window_events(window: Example) -> Iterator[Event]:
    """Every event of an example: its history and its target."""
    items = (*window.history, window.item)
    first = window.position - len(window.history)
    return ((window.user, item, first + offset) for offset, item in enumerate(items))


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


def window_sequences(windows: Iterable[Example]) -> tuple[UserSequence, ...]:
    """Each user's distinct events in windows, by position."""
    events_of: dict[str, set[tuple[int, str]]] = {}
    for window in windows:
        events = ((position, item) for _, item, position in window_events(window))
        events_of.setdefault(window.user, set()).update(events)
    sequences = []
    for user, events_of_user in events_of.items():
        indexes, items = zip(*sorted(events_of_user), strict=True)  # by position
        sequences.append(UserSequence(user, items, indexes))
    return tuple(sequences)


def _windows_digest(parts: Sequence[tuple[Window, ...]]) -> str:
    columns: list[list[str]] = []
    for part in parts:
        columns.append([window.user for window in part])
        columns.append([window.item for window in part])
        columns.append(["\t".join(window.history) for window in part])
    return digest_strings(*columns)
