"""The digests of a split: over values, so that equal parts have equal ones, wherever they lie.

Users fall into buckets by a hash of their id. The digest of a bucket needs no other one, so any
number of workers can compute that of all."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.base.ranges import bounds_of, consecutive, ranges
from sidtool.base.records import Digest, JsonRecord
from sidtool.base.threads import arrow_thread_count, in_threads
from sidtool.data.coded import Coded, Texts, arrow_numbers
from sidtool.data.fields.fields import EventStore
from sidtool.data.split.packed import BUCKETS, PackedExamples, PackedSequences, user_buckets

COLUMN_FORMAT = 4
"""The first format of a split whose digests are made of buckets."""
RUN_EVENTS = 1 << 20
"""Events whose texts are in memory at once, about."""


def part_digests(
    train: PackedSequences, valid: PackedExamples, test: PackedExamples, split_format: int
) -> tuple[str, str]:
    """SHA-256 (hex) over the training events, and over the targets of validation and of test, by
    the rules of a format. The order of users has no effect."""
    if split_format >= COLUMN_FORMAT:
        digests = BucketDigests.of(train, valid, test)
        return digests.train_digest, digests.held_out_digest
    texts = [part.sorted_texts() for part in _UserEvents.of_parts(train, valid, test)]
    return digest_strings(*texts[0]), digest_strings(*texts[1], *texts[2])


@dataclass(frozen=True)
class BucketDigests(JsonRecord):
    """The digests of consecutive buckets of users, for each part of a split."""

    train: tuple[Digest, ...]
    valid: tuple[Digest, ...]
    test: tuple[Digest, ...]

    @classmethod
    def of(
        cls,
        train: PackedSequences,
        valid: PackedExamples,
        test: PackedExamples,
        buckets: range = range(BUCKETS),
    ) -> "BucketDigests":
        """The digests of all buckets of a split, or of some. Arrow's number of threads share
        them."""
        store = train.store
        parts = _UserEvents.of_parts(train, valid, test)
        # users by bucket, then by id
        user_bucket, by_id = user_buckets(store.users), store.users.order
        order = by_id[np.argsort(user_bucket[by_id], kind="stable")]
        numbers = np.arange(buckets.start, buckets.stop + 1)
        bounds = np.searchsorted(user_bucket[order], numbers)
        # so many buckets at once that the texts of their events are no large part of the memory
        n_events = sum(int(part.lengths.sum()) for part in parts)
        n_users = RUN_EVENTS * len(order) // max(n_events, 1) + 1

        def digests(run: tuple[int, int]) -> list[list[str]]:
            """Those of the consecutive buckets of a run, for each part."""
            first, stop = run
            run_bounds = bounds[first : stop + 1]
            users = order[run_bounds[0] : run_bounds[-1]]
            run_bounds = run_bounds - run_bounds[0]
            states = _Utf8.of(store.users, arrow_numbers(users)).states(run_bounds)
            run_digests = []
            for part in parts:
                rows = users if part.user_rows is None else part.user_rows[users]
                has_events = rows >= 0
                if has_events.all():  # parts that have the same users begin with the same bytes
                    copies = [state.copy() for state in states]
                    run_digests.append(part.digests(rows, run_bounds, copies))
                    continue
                part_bounds = bounds_of(has_events)[run_bounds]
                selected = arrow_numbers(users[has_events])
                part_states = _Utf8.of(store.users, selected).states(part_bounds)
                run_digests.append(part.digests(rows[has_events], part_bounds, part_states))
            return run_digests

        runs = in_threads(digests, ranges(np.diff(bounds), n_users), arrow_thread_count())
        return cls(*(tuple(chain.from_iterable(part)) for part in zip(*runs, strict=True)))

    @classmethod
    def joined(cls, ranges: Sequence["BucketDigests"]) -> "BucketDigests":
        """Those of all buckets, given as consecutive ranges."""
        columns = [(digests.train, digests.valid, digests.test) for digests in ranges]
        return cls(*(tuple(chain.from_iterable(part)) for part in zip(*columns, strict=True)))

    @property
    def train_digest(self) -> str:
        """As `part_digests`, if these are all buckets."""
        return _joined(self.train)

    @property
    def held_out_digest(self) -> str:
        """As `part_digests`, if these are all buckets."""
        return pair_digest(_joined(self.valid), _joined(self.test))


def _joined(digests: Iterable[str]) -> str:
    """SHA-256 over the digests of all buckets."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def pair_digest(first: str, second: str) -> str:
    """SHA-256 over two digests: that of a split over those of its training and its held-out
    events, which is itself over those of validation and test."""
    return hashlib.sha256(f"{first}:{second}".encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class _UserEvents:
    """Events of k users, one user after the other."""

    store: EventStore
    users: NDArray[np.integer[Any]]
    """(k,) distinct user codes"""
    starts: NDArray[np.int64]
    """(k,): where the events of each begin in the arrays below"""
    lengths: NDArray[np.uint32]
    """(k,) little-endian: how many these are"""
    items: NDArray[np.integer[Any]]
    """Item codes"""
    positions: NDArray[np.integer[Any]] | None
    """None: 0, 1, 2 ... of every user"""

    @classmethod
    def of_parts(
        cls, train: PackedSequences, valid: PackedExamples, test: PackedExamples
    ) -> list["_UserEvents"]:
        """Those of training, validation and test."""
        return [cls.of_sequences(train), cls.of_targets(valid), cls.of_targets(test)]

    @classmethod
    def of_sequences(cls, train: PackedSequences) -> "_UserEvents":
        """The training events of each user by position."""
        starts, lengths = train.items.starts, train.items.lengths.astype("<u4")
        if train.positions is None:
            return cls(train.store, train.user_codes, starts, lengths, train.store.items, None)
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        items, positions = train.items.joined, train.positions.joined
        return cls(train.store, train.user_codes, starts, lengths, items, positions)

    @classmethod
    def of_targets(cls, part: PackedExamples) -> "_UserEvents":
        """The targets of each user by position, then by item."""
        items, positions, event_users = part.event_items, part.event_positions, part.event_users
        if (event_users[1:] > event_users[:-1]).all():  # in order, one target per user
            starts = np.arange(len(event_users))
            lengths = np.broadcast_to(np.ones(1, dtype="<u4"), event_users.shape)
            return cls(part.store, event_users, starts, lengths, items, positions)
        # by item too: windows may disagree on the item of a position
        order = np.lexsort((part.names.ranks[items], positions, event_users))
        users, counts = np.unique(event_users, return_counts=True)
        starts, lengths = np.cumsum(counts) - counts, counts.astype("<u4")
        return cls(part.store, users, starts, lengths, items[order], positions[order])

    @cached_property
    def user_rows(self) -> NDArray[np.integer[Any]] | None:
        """(users of the store,): the index of each user above, -1 for one who is not there; None if
        these are all users by code."""
        codes = np.arange(len(self.store.users), dtype=np.int32)
        if np.array_equal(self.users, codes):
            return None
        user_rows = np.full_like(codes, -1)
        user_rows[self.users] = codes[: len(self.users)]
        return user_rows

    def digests(
        self, rows: NDArray[np.integer[Any]], bounds: NDArray[np.int64], states: Iterable[Any]
    ) -> list[str]:
        """The digests of consecutive buckets. `rows` are the users of all of them; those of bucket
        b are from bounds[b] to bounds[b + 1]. `states` are hashes of the users' names, one per
        bucket, which are updated."""
        lengths = self.lengths[rows]
        events, positions = self._events(rows, lengths)
        # arrow gathers codes from all over the memory in half of numpy's time
        items = _Utf8.of(self.store.names, arrow_numbers(self.items).take(arrow_numbers(events)))
        positions = positions.astype("<u4", copy=False)
        event_bounds = bounds_of(lengths)[bounds]
        digests = []
        spans = zip(pairwise(bounds.tolist()), pairwise(event_bounds.tolist()), states, strict=True)
        for user_span, event_span, state in spans:
            state.update(lengths[slice(*user_span)].data)
            items.update(state, *event_span)
            state.update(positions[slice(*event_span)].data)
            digests.append(state.hexdigest())
        return digests

    def sorted_texts(self) -> list[Iterable[str]]:
        """The columns of the digests of formats 1 to 3: users, items and positions as texts, sorted
        by user."""
        rows = np.argsort(self.store.users.ranks[self.users])
        lengths = self.lengths[rows]
        events, positions = self._events(rows, lengths)
        users = Coded[str](self.store.users, np.repeat(self.users[rows], lengths))
        items = Coded[str](self.store.names, self.items[events])
        return [users, items, map(str, positions.data)]

    def _events(
        self, rows: NDArray[Any], lengths: NDArray[np.uint32]
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """The events of some users as indexes, and their positions."""
        events = consecutive(self.starts[rows], lengths)
        if self.positions is None:
            return events, consecutive(np.zeros(len(rows), dtype="<u4"), lengths)
        return events, self.positions[events]


@dataclass(frozen=True, eq=False)
class _Utf8:
    """Texts in UTF-8, one behind the other."""

    offsets: NDArray[np.int32]
    """(texts + 1,)"""
    sizes: NDArray[np.uint32]
    """(texts,)"""
    data: memoryview

    @classmethod
    def of(cls, texts: Texts, codes: Any) -> "_Utf8":
        """Some of the texts, by an arrow array of their codes."""
        taken = texts.arrow.take(codes)
        _, buffer, data = taken.buffers()
        offsets = np.frombuffer(buffer, dtype=np.int32)[: len(taken) + 1]
        return cls(offsets, np.diff(offsets).astype("<u4"), memoryview(data or b""))

    def update(self, state: Any, start: int, stop: int) -> None:
        """Hash the number of some texts, their lengths in bytes, and their bytes."""
        state.update((stop - start).to_bytes(8, "little"))
        state.update(self.sizes[start:stop].data)
        state.update(self.data[self.offsets[start] : self.offsets[stop]])

    def states(self, bounds: NDArray[np.int64]) -> list[Any]:
        """A hash of each range of the texts."""
        states = []
        for start, stop in pairwise(bounds.tolist()):
            states.append(hashlib.sha256())
            self.update(states[-1], start, stop)
        return states
