"""Splits of user events into training, validation and test, as values; `protocols` makes them.

An event is (user, item, position), where the position is the index in the user's whole sequence: a
repeated item is another event, and repeats are kept."""

import hashlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.data.coded import Coded
from sidtool.data.columns import EventColumns
from sidtool.data.fields.fields import NO_FIELDS, TARGET, TARGET_VALUES, Fields, FieldTypes, Values
from sidtool.data.split.record import (
    Cuts,
    Protocol,
    SplitCounts,
    SplitManifest,
    SplitReference,
    split_format,
)
from sidtool.data.split.sessions import SessionRule

T = TypeVar("T")
Event = tuple[str, str, int]
"""User, item, position."""
LEAK_BLOCK = 1 << 16
"""Events that are looked up at once."""
MIN_LENGTH = 3
"""Under leave-one-out, all events of users with fewer targets are training events; under
last-session, those of users with fewer sessions that have targets."""


@dataclass(frozen=True)
class UserSequence:
    """A user's training events in time order."""

    user: str
    items: tuple[str, ...]
    positions: tuple[int, ...]
    fields: Fields = field(default=NO_FIELDS, hash=False)
    """The fields of the user and of these events."""
    sessions: tuple[int, ...] = ()
    """The indexes of the events that begin a session; () where the split records no sessions."""

    @property
    def target_indexes(self) -> Sequence[int]:
        """Indexes of the events that may be targets: all, unless the split marks them."""
        marks = self.fields.event.get(TARGET)
        if marks is None:
            return range(len(self.items))
        return [index for index, mark in enumerate(marks) if mark == TARGET_VALUES[True]]


@dataclass(frozen=True)
class FurtherTarget:
    """A further target of the session whose first target an example has."""

    item: str
    position: int
    feedback: Values = field(default_factory=dict, hash=False)
    context: Values = field(default_factory=dict, hash=False)
    time: float | None = field(default=None, hash=False)
    """Seconds since 1970, None where the split has no times."""


@dataclass(frozen=True)
class Example:
    """An evaluation example: a user's history and the item that follows it.

    Where a whole session is held out, the history is everything before the session, and `rest` its
    targets after the first one."""

    user: str
    history: tuple[str, ...]
    item: str
    position: int
    """Index of the item in the user's whole sequence."""
    fields: Fields = field(default=NO_FIELDS, hash=False)
    """What is known before the event: the fields of the user and of the history, its context."""
    feedback: Values = field(default_factory=dict, hash=False)
    """The feedback of the event, known only after it."""
    rest: tuple[FurtherTarget, ...] = ()
    """The further targets of a held-out session, in its order."""

    @property
    def targets(self) -> tuple[FurtherTarget, ...]:
        """All targets: the item, and those of `rest`."""
        known = (self.fields.context, self.fields.time)
        return (FurtherTarget(self.item, self.position, self.feedback, *known), *self.rest)

    @property
    def items(self) -> tuple[str, ...]:
        """The items of all targets."""
        return (self.item, *(target.item for target in self.rest))

    @property
    def events(self) -> tuple[Event, ...]:
        """The held-out events: all targets."""
        rest = ((self.user, target.item, target.position) for target in self.rest)
        return ((self.user, self.item, self.position), *rest)

    @property
    def all_fields(self) -> Fields:
        """The fields of the history and of the targets behind it, as events."""
        before = self.fields
        if before is NO_FIELDS:
            return NO_FIELDS
        of_targets = [
            {**target.feedback, **target.context, TARGET: TARGET_VALUES[True]}
            for target in self.targets
        ]
        event = {
            name: (*values, *(of_target[name] for of_target in of_targets))
            for name, values in before.event.items()
        }
        if before.times is None:
            return Fields(before.user, event)
        times = [target.time for target in self.targets if target.time is not None]
        return Fields(before.user, event, times=(*before.times, *times))


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
    sessions: SessionRule | None = None
    """What a session is, None where the split records none."""
    drops_events: bool = False
    """Whether the split lacks events that the earlier split it extends was trained or validated
    on. What that one extends is then not known to be extended by later splits."""


@dataclass(frozen=True)
class Split:
    """The training events, validation examples and test examples of a data set."""

    protocol: Protocol
    train: Sequence[UserSequence]
    valid: Sequence[Example]
    test: Sequence[Example]
    windows: tuple[Example, ...] | None = None
    """Protocol `given`: the training windows of the files, of which training examples are made."""
    origin: SplitOrigin = field(default_factory=SplitOrigin)

    @cached_property
    def held_out(self) -> "HeldOutEvents":
        """The targets of validation and test."""
        return HeldOutEvents((self.valid, self.test))

    @cached_property
    def train_digest(self) -> str:
        """SHA-256 over the training events. The order of users has no effect."""
        users = [sequence.user for sequence in self.train]
        by_user = sorted(range(len(users)), key=users.__getitem__)

        def sequences() -> Iterator[UserSequence]:
            return (self.train[index] for index in by_user)

        return digest_strings(
            (sequence.user for sequence in sequences() for _ in sequence.items),
            (item for sequence in sequences() for item in sequence.items),
            (str(position) for sequence in sequences() for position in sequence.positions),
        )

    @cached_property
    def held_out_digest(self) -> str:
        """SHA-256 over the targets of validation and of test. Their order has no effect."""
        columns: list[Iterable[str]] = []
        for part in (self.valid, self.test):
            users = Coded[str].of(user for user, _, _ in _events(part))
            items = Coded[str].of(item for _, item, _ in _events(part))
            positions = np.array([place for _, _, place in _events(part)], dtype=np.int64)
            order = np.lexsort((_ranks(items), positions, _ranks(users)))
            columns.append(users.names[users.codes[order]])
            columns.append(items.names[items.codes[order]])
            columns.append(map(str, positions[order].tolist()))
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
            sessions=self.origin.sessions,
            drops_events=self.origin.drops_events,
            format=split_format(self.origin.fields, self.origin.sessions),
        )


def evenly_spaced(examples: Sequence[T], count: int | None) -> Sequence[T]:
    """`count` of the examples, evenly spread, as the first users of a file may be the oldest; all
    if there are no more or `count` is None."""
    if count is None or count >= len(examples):
        return examples
    return tuple(examples[step * len(examples) // count] for step in range(count))


class HeldOutEvents(Container[Event]):
    """A set of held-out events that takes 16 bytes for each; 24 where sessions are held out."""

    def __init__(self, parts: Sequence[Sequence[Example]]) -> None:
        self._parts = parts
        hashes = np.fromiter((hash(event) for part in parts for event in _events(part)), np.int64)
        self._ends: NDArray[np.int64] | None = None
        if len(hashes) > sum(map(len, parts)):
            sizes = [len(example.events) for part in parts for example in part]
            self._ends = np.cumsum(sizes)  # (examples,): one more than the last event of each
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, event: object) -> bool:
        return isinstance(event, tuple) and self.count([event]) == 1

    def count(self, events: Sequence[Any]) -> int:
        """How many of the events are held out."""
        if not len(self):
            return 0
        hashes = np.fromiter(map(hash, events), dtype=np.int64, count=len(events))
        places = np.searchsorted(self._hashes, hashes)
        places[places == len(self)] = 0
        # an equal hash is no proof
        alike = np.flatnonzero(self._hashes[places] == hashes).tolist()
        return sum(self._has(events[index], int(places[index])) for index in alike)

    def _has(self, event: Any, place: int) -> bool:
        """Whether an event is among those from a place on that have its hash."""
        while place < len(self) and self._hashes[place] == hash(event):
            if self._event(int(self._order[place])) == event:
                return True
            place += 1
        return False

    def _event(self, index: int) -> Event:
        if self._ends is None:
            return self._example(index).events[0]
        example = int(np.searchsorted(self._ends, index, side="right"))
        # counted from the example's last event
        return self._example(example).events[index - int(self._ends[example])]

    def _example(self, index: int) -> Example:
        for part in self._parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)


def _events(part: Iterable[Example]) -> Iterator[Event]:
    return (event for example in part for event in example.events)


def _ranks(values: Coded[str]) -> NDArray[np.int64]:
    """(n,): the rank of each value among the distinct ones."""
    ranks = np.empty(len(values.names), dtype=np.int64)
    ranks[np.argsort(values.names, kind="stable")] = np.arange(len(ranks))
    return ranks[values.codes]


def count_leaks(split: Split, events: Iterable[Event]) -> int:
    """Number of held-out events among `events`, which are those that training uses: must be 0."""
    stream = iter(events)
    leaked = 0
    while block := list(islice(stream, LEAK_BLOCK)):
        leaked += split.held_out.count(block)
    return leaked


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
