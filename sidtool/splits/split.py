"""Splits of user events into training, validation and test, as values; `protocols` makes them.

An event is (user, item, position), where the position is the index in the user's whole sequence: a
repeated item is another event, and repeats are kept."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from sidtool.data.columns import EventColumns
from sidtool.data.digests import digest_strings
from sidtool.splits.fields import NO_FIELDS, TARGET, TARGET_VALUES, Fields, FieldTypes, Values
from sidtool.splits.record import (
    Cuts,
    Protocol,
    SplitCounts,
    SplitManifest,
    SplitReference,
    split_format,
)

T = TypeVar("T")
Event = tuple[str, str, int]
"""User, item, position."""
MIN_LENGTH = 3
"""Under leave-one-out, all events of users with fewer targets are training events."""


@dataclass(frozen=True)
class UserSequence:
    """A user's training events in time order."""

    user: str
    items: tuple[str, ...]
    positions: tuple[int, ...]
    fields: Fields = field(default=NO_FIELDS, hash=False)
    """The fields of the user and of these events."""

    @property
    def target_indexes(self) -> Sequence[int]:
        """Indexes of the events that may be targets: all, unless the split marks them."""
        marks = self.fields.event.get(TARGET)
        if marks is None:
            return range(len(self.items))
        return [index for index, mark in enumerate(marks) if mark == TARGET_VALUES[True]]


@dataclass(frozen=True)
class Example:
    """An evaluation example: a user's history and the item that follows it."""

    user: str
    history: tuple[str, ...]
    item: str
    position: int
    """Index of the item in the user's whole sequence."""
    fields: Fields = field(default=NO_FIELDS, hash=False)
    """What is known before the event: the fields of the user and of the history, its context."""
    feedback: Values = field(default_factory=dict, hash=False)
    """The feedback of the event, known only after it."""

    @property
    def all_fields(self) -> Fields:
        """The fields of the history and of the event itself behind it, as events."""
        before = self.fields
        if before is NO_FIELDS:
            return NO_FIELDS
        of_event = {**self.feedback, **before.context, TARGET: TARGET_VALUES[True]}
        event = {name: (*values, of_event[name]) for name, values in before.event.items()}
        if before.times is None or before.time is None:
            return Fields(before.user, event)
        return Fields(before.user, event, times=(*before.times, before.time))


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
    fields: FieldTypes | None = None
    """The fields of events and users, None for a split without any."""


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
    def fields(self) -> FieldTypes:
        """The fields of events and users by name."""
        return self.origin.fields or FieldTypes()

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
            fields=self.origin.fields,
            format=split_format(self.origin.fields),
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


def window_events(window: Example) -> Iterator[Event]:
    """Every event of an example: its history and its target."""
    items = (*window.history, window.item)
    first = window.position - len(window.history)
    return ((window.user, item, first + offset) for offset, item in enumerate(items))


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
