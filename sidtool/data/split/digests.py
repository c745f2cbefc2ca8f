"""The digests of a split: over values, so that equal parts have equal ones, wherever they lie.

Users fall into buckets by a hash of their id. The digest of a bucket needs no other one, so any
number of workers can compute that of all."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.base.records import Digest, JsonRecord
from sidtool.data.coded import Texts
from sidtool.data.split.packed import (
    BUCKETS,
    EventStore,
    PackedExamples,
    PackedSequences,
    consecutive,
    ranges,
)

COLUMN_FORMAT = 4
"""The first format of a split whose digests are made of buckets."""
BLOCK = 1 << 16
"""Events whose texts are made at once."""
RUN_EVENTS = 1 << 20
"""Events whose texts are in memory at once, about."""


def train_digest(train: PackedSequences, split_format: int) -> str:
    """SHA-256 (hex) over training events, by the rules of a format of the split. The order of users
    has no effect."""
    events = _UserEvents.of_sequences(train)
    if split_format >= COLUMN_FORMAT:
        return _joined(events.bucket_digests())
    return digest_strings(*events.sorted_texts())


def held_out_digest(valid: PackedExamples, test: PackedExamples, split_format: int) -> str:
    """SHA-256 (hex) over the targets of validation and of test. Their order has no effect."""
    parts = [_UserEvents.of_targets(part) for part in (valid, test)]
    if split_format >= COLUMN_FORMAT:
        return _pair(_joined(part.bucket_digests()) for part in parts)
    return digest_strings(*chain.from_iterable(part.sorted_texts() for part in parts))


@dataclass(frozen=True)
class BucketDigests(JsonRecord):
    """The digests of consecutive buckets of users, for each part of a split."""

    train: tuple[Digest, ...]
    valid: tuple[Digest, ...]
    test: tuple[Digest, ...]

    @classmethod
    def of(
        cls, train: PackedSequences, valid: PackedExamples, test: PackedExamples, buckets: range
    ) -> "BucketDigests":
        """The digests of some buckets of a split."""
        events = [_UserEvents.of_sequences(train)]
        events += [_UserEvents.of_targets(part) for part in (valid, test)]
        return cls(*(tuple(part.bucket_digests(buckets)) for part in events))

    @classmethod
    def joined(cls, ranges: Sequence["BucketDigests"]) -> "BucketDigests":
        """Those of all buckets, given as consecutive ranges."""
        parts = [[each.train for each in ranges], [each.valid for each in ranges]]
        parts.append([each.test for each in ranges])
        return cls(*(tuple(chain.from_iterable(part)) for part in parts))

    @property
    def train_digest(self) -> str:
        """As the function `train_digest`, if these are all buckets."""
        return _joined(self.train)

    @property
    def held_out_digest(self) -> str:
        """As the function `held_out_digest`, if these are all buckets."""
        return _pair((_joined(self.valid), _joined(self.test)))


def _joined(digests: Iterable[str]) -> str:
    """SHA-256 over the digests of all buckets."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _pair(digests: Iterable[str]) -> str:
    return hashlib.sha256(":".join(digests).encode()).hexdigest()


def split_digest(train: str, held_out: str) -> str:
    """The digest of a split, by those of its training and of its held-out events."""
    return _pair((train, held_out))


@dataclass(frozen=True, eq=False)
class _UserEvents:
    """Events of k users, one user after the other."""

    store: EventStore
    users: NDArray[np.integer[Any]]
    """(k,) distinct user codes"""
    starts: NDArray[np.int64]
    """(k,): where the events of each begin in the arrays below"""
    lengths: NDArray[np.int64]
    """(k,): how many these are"""
    items: NDArray[np.integer[Any]]
    """Item codes"""
    positions: NDArray[np.integer[Any]] | None
    """None: 0, 1, 2 ... of every user"""

    @classmethod
    def of_sequences(cls, train: PackedSequences) -> "_UserEvents":
        starts, lengths = train.items.starts, train.items.lengths
        if train.positions is None:
            return cls(train.store, train.user_codes, starts, lengths, train.store.items, None)
        joined = (np.cumsum(lengths) - lengths, lengths, train.items.joined)
        return cls(train.store, train.user_codes, *joined, train.positions.joined)

    @classmethod
    def of_targets(cls, part: PackedExamples) -> "_UserEvents":
        """The targets of each user by position, then by item."""
        items, positions, user_of = part.event_items, part.event_positions, part.event_users
        if (np.diff(user_of) > 0).all():
            ones = np.ones(len(user_of), dtype=np.int64)
            return cls(part.store, user_of, np.arange(len(user_of)), ones, items, positions)
        # windows may disagree on an item
        order = np.lexsort((part.names.ranks[items], positions, user_of))
        users, lengths = np.unique(user_of, return_counts=True)
        starts = np.cumsum(lengths) - lengths
        return cls(part.store, users, starts, lengths, items[order], positions[order])

    def bucket_digests(self, numbers: range = range(BUCKETS)) -> list[str]:
        """The digests (hex) of all buckets, or of some."""
        order, starts = self.store.user_order
        row_of = np.full(len(order), -1, dtype=np.int32)
        row_of[self.users] = np.arange(len(self.users))
        rows = row_of[order]
        # (BUCKETS + 1,): where the rows of each bucket start
        bounds = np.concatenate([[0], np.cumsum(rows >= 0)])[starts]
        rows = rows[rows >= 0]
        n_events = np.diff(np.concatenate([[0], np.cumsum(self.lengths[rows])])[bounds])

        # so many buckets at once that the texts of their events are no large part of the memory
        digests: list[str] = []
        for first, last in ranges(n_events[numbers.start : numbers.stop], RUN_EVENTS):
            ends = bounds[numbers.start + first : numbers.start + last + 1]
            digests += self._bucket_digests(rows[ends[0] : ends[-1]], ends)
        return digests

    def _bucket_digests(self, rows: NDArray[np.int32], bounds: NDArray[np.int64]) -> list[str]:
        """The digests of consecutive buckets, which have these rows; `bounds` are their ends."""
        events, places = self._events(rows)
        users = _Utf8.of(self.store.users, self.users[rows])
        items = _Utf8.of(self.store.names, self.items[events])
        lengths = self.lengths[rows].astype("<u4")
        positions = places.astype("<u4")
        row_bounds = (bounds - bounds[0]).tolist()
        event_bounds = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[
            row_bounds
        ].tolist()
        digests = []
        for bucket in range(len(row_bounds) - 1):
            of_users = slice(*row_bounds[bucket : bucket + 2])
            of_events = slice(*event_bounds[bucket : bucket + 2])
            state = hashlib.sha256()
            users.update(state, of_users)
            state.update(lengths[of_users].data)
            items.update(state, of_events)
            state.update(positions[of_events].data)
            digests.append(state.hexdigest())
        return digests

    def sorted_texts(self) -> list[Iterator[str]]:
        """The columns of the digests of formats 1 to 3: users, items and positions as texts, sorted
        by user."""
        rows = np.argsort(self.store.users.ranks[self.users])
        events, positions = self._events(rows)
        users = np.repeat(self.users[rows], self.lengths[rows])
        return [
            _names(self.store.users, users),
            _names(self.store.names, self.items[events]),
            map(str, positions.tolist()),
        ]

    def _events(self, rows: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The events of some users as indexes, and their positions."""
        lengths = self.lengths[rows]
        events = consecutive(self.starts[rows], lengths)
        if self.positions is None:
            return events, consecutive(np.zeros_like(lengths), lengths)
        return events, self.positions[events]


def _names(names: Texts, codes: NDArray[np.integer[Any]]) -> Iterator[str]:
    blocks = range(0, len(codes), BLOCK)
    return chain.from_iterable(names[codes[start : start + BLOCK]].tolist() for start in blocks)


@dataclass(frozen=True, eq=False)
class _Utf8:
    """Texts in UTF-8, one behind the other."""

    offsets: NDArray[np.int64]
    """(texts + 1,)"""
    data: memoryview

    @classmethod
    def of(cls, texts: Texts, codes: NDArray[np.integer[Any]]) -> "_Utf8":
        """Some of the texts."""
        import pyarrow as pa

        taken = texts.arrow.take(pa.array(codes)).cast(pa.large_string())
        _, offsets, data = taken.buffers()
        numbers = np.frombuffer(offsets, dtype=np.int64)[: len(taken) + 1]
        return cls(numbers, memoryview(data or b""))

    def update(self, state: Any, part: slice) -> None:
        """Hash the number of some texts, their lengths in bytes, and their bytes."""
        offsets = self.offsets[part.start : part.stop + 1]
        state.update((part.stop - part.start).to_bytes(8, "little"))
        state.update(np.diff(offsets).astype("<u4").data)
        state.update(self.data[offsets[0] : offsets[-1]])
