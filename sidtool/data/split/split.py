"""Splits of user events into training, validation and test, as values; `protocols` makes them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sidtool.data.columns import EventColumns
from sidtool.data.fields.fields import FieldTypes
from sidtool.data.split.digests import COLUMN_FORMAT, pair_digest, part_digests
from sidtool.data.split.packed import PackedExamples, PackedSequences
from sidtool.data.split.packing import pack_parts
from sidtool.data.split.record import (
    Cuts,
    Protocol,
    SessionRule,
    SplitCounts,
    SplitManifest,
    SplitReference,
)
from sidtool.data.split.values import MAX_POSITION, Event, Example, UserSequence

T = TypeVar("T")
COUNTED = 1 << 16
"""Events that are looked up at once."""
MIN_LENGTH = 3
"""Under leave-one-out, all events of users with fewer targets are training events; under
last-session, those of users with fewer sessions that have targets."""


@dataclass(frozen=True)
class SplitOrigin:
    """Where a split came from: the fields of its manifest, and of the counts there, that do not
    follow from its parts."""

    events_digest: str = ""
    columns: EventColumns | None = None
    cuts: Cuts | None = None
    left_out: int = 0
    repeated_targets: int | None = None
    tied_targets: int | None = None
    extends: tuple[str, ...] = ()
    fields: FieldTypes | None = None
    sessions: SessionRule | None = None
    drops_events: bool = False
    """Whether the split lacks events that the earlier split it extends was trained or validated
    on. What that one extends is then not known to be extended by later splits."""
    format: int = COLUMN_FORMAT
    """The format by whose rules the split is digested."""
    whole: SplitReference | None = None
    """The split that this is a part of, some of the users; None for a whole one."""


@dataclass(frozen=True)
class Split:
    """The training events, validation examples and test examples of a data set.

    Parts that are given as objects are packed into columns. Raises IntegrityError if these have
    other fields than the origin records."""

    protocol: Protocol
    train: PackedSequences
    valid: PackedExamples
    test: PackedExamples
    windows: PackedExamples | None = None
    """Protocol `given`: the training windows of the files, of which training examples are made."""
    origin: SplitOrigin = field(default_factory=SplitOrigin)

    def __post_init__(self) -> None:
        """Pack the parts, unless they are packed and refer to one store of events."""
        parts = (self.train, self.valid, self.test, self.windows)
        store_ids = {id(getattr(part, "store", None)) for part in parts if part is not None}
        if len(store_ids) == 1 and isinstance(self.train, PackedSequences):
            return
        packed = pack_parts(self.train, self.valid, self.test, self.windows, self.origin.fields)
        for name in ("train", "valid", "test", "windows"):
            object.__setattr__(self, name, getattr(packed, name))

    def __repr__(self) -> str:
        """Protocol and sizes; reads no array."""
        return (
            f"<Split by {self.protocol}: {len(self.train)} users to train on, {len(self.valid)} "
            f"validation and {len(self.test)} test examples>"
        )

    @classmethod
    def of(
        cls,
        protocol: Protocol,
        train: Sequence[UserSequence],
        valid: Sequence[Example] = (),
        test: Sequence[Example] = (),
        windows: Sequence[Example] | None = None,
        fields: FieldTypes | None = None,
    ) -> "Split":
        """A split of objects with these fields."""
        origin = SplitOrigin(fields=fields)
        packed = pack_parts(train, valid, test, windows, fields)
        return cls(protocol, packed.train, packed.valid, packed.test, packed.windows, origin)

    @cached_property
    def held_out(self) -> "HeldOutEvents":
        """The targets of validation and test."""
        return HeldOutEvents((self.valid, self.test))

    @property
    def tied_share(self) -> float | None:
        """The share of the targets of validation and test that are tied, as
        `SplitCounts.tied_targets`."""
        tied = self.origin.tied_targets
        n_targets = sum(int(part.targets.lengths.sum()) for part in (self.valid, self.test))
        return None if tied is None else tied / max(1, n_targets)

    @cached_property
    def leaked_events(self) -> int:
        """The number of training events that are held out: must be 0."""
        first_held_out = np.full(len(self.train.store.users), MAX_POSITION)
        for part in (self.valid, self.test):
            np.minimum.at(first_held_out, part.event_users, part.event_positions)
        # only events from a user's first held-out position on can be held out
        suspects = self.train.take(
            np.flatnonzero(self.train.stop_positions > first_held_out[self.train.user_codes])
        )
        if not len(suspects):
            return 0
        users = np.repeat(suspects.user_codes, suspects.items.lengths)
        items, positions = suspects.items.joined, suspects.event_positions
        return int(self.held_out.are_held_out(users, items, positions).sum())

    @cached_property
    def digests(self) -> tuple[str, str]:
        """As `part_digests`."""
        return part_digests(self.train, self.valid, self.test, self.origin.format)

    @property
    def train_digest(self) -> str:
        """SHA-256 over the training events. The order of users has no effect."""
        return self.digests[0]

    @cached_property
    def reference(self) -> SplitReference:
        """The reference that everything made from this split carries."""
        return self.origin.whole or self.manifest({}).reference

    @property
    def fields(self) -> FieldTypes:
        """The fields of events and users by name."""
        return self.origin.fields or FieldTypes()

    @property
    def counts(self) -> SplitCounts:
        """Sizes of the parts."""
        return SplitCounts(
            users=len(self.train),
            train_events=self.train.n_events,
            valid=len(self.valid),
            test=len(self.test),
            windows=0 if self.windows is None else len(self.windows),
            left_out=self.origin.left_out,
            repeated_targets=self.origin.repeated_targets,
            tied_targets=self.origin.tied_targets,
        )

    def manifest(self, files: dict[str, str]) -> SplitManifest:
        """The manifest of this split, with the SHA-256 of the files that hold it."""
        train_digest, held_out_digest = self.digests
        return SplitManifest(
            protocol=self.protocol,
            digest=pair_digest(train_digest, held_out_digest),
            train_digest=train_digest,
            held_out_digest=held_out_digest,
            events_digest=self.origin.events_digest,
            counts=self.counts,
            cuts=self.origin.cuts,
            columns=self.origin.columns,
            files=files,
            extends=self.origin.extends,
            fields=self.origin.fields,
            sessions=self.origin.sessions,
            drops_events=self.origin.drops_events,
            format=self.origin.format,
        )


def evenly_spaced(examples: Sequence[T], count: int | None) -> Sequence[T]:
    """`count` of the examples, evenly spread, as the first users of a file may be the oldest; all
    if there are no more or `count` is None."""
    if count is None or count >= len(examples):
        return examples
    return tuple(examples[step * len(examples) // count] for step in range(count))


class HeldOutEvents:
    """A set of held-out events that takes 12 bytes for each."""

    def __init__(self, parts: Sequence[PackedExamples]) -> None:
        self._store = parts[0].store
        keys = np.concatenate([_keys(part.event_users, part.event_positions) for part in parts])
        items = np.concatenate([part.event_items for part in parts])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._items = items[order]
        # windows may disagree on the item at a position
        starts = np.flatnonzero(np.diff(self._keys, prepend=-1))
        self._most_at_position = int(np.diff(starts, append=len(keys)).max(initial=0))

    def __len__(self) -> int:
        return len(self._keys)

    def are_held_out(
        self, users: NDArray[Any], items: NDArray[Any], positions: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """(n,): whether each of n events is held out, given by the split's codes of user and
        item."""
        keys = _keys(users, positions)
        first = np.searchsorted(self._keys, keys)
        is_held_out = np.zeros(len(keys), dtype=np.bool_)
        for offset in range(self._most_at_position):  # equal keys lie behind one another
            places = np.minimum(first + offset, len(self) - 1)
            is_held_out |= (self._keys[places] == keys) & (self._items[places] == items)
        return is_held_out

    def count(self, events: Iterable[Event]) -> int:
        """How many of the events are held out; they are read once, some at a time."""
        user_code_by_id = {user: code for code, user in enumerate(self._store.users.tolist())}
        item_code_by_id = {item: code for code, item in enumerate(self._store.names.tolist())}
        stream = iter(events)
        n_held_out = 0
        while block := list(islice(stream, COUNTED)):
            users, items, positions = zip(*block, strict=True)
            user_codes = [user_code_by_id.get(user, -1) for user in users]
            item_codes = [item_code_by_id.get(item, -1) for item in items]
            columns = (np.array(column) for column in (user_codes, item_codes, positions))
            n_held_out += int(self.are_held_out(*columns).sum())
        return n_held_out


def _keys(users: NDArray[Any], positions: NDArray[Any]) -> NDArray[np.int64]:
    """(n,): one number for each user and position; positions take 31 bits."""
    return users.astype(np.int64) << 31 | positions.astype(np.int64)
