"""The digests of a split: over values, so that equal parts have equal ones, wherever they lie.

Users fall into buckets by a hash of their id. The digest of a bucket needs no other one, so any
number of workers can compute that of all."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.data.split.packed import (
    EventStore,
    PackedExamples,
    PackedSequences,
    consecutive,
    text_ranks,
)

BUCKETS = 1024
"""Buckets of users, by the CRC-32 of their id."""
COLUMN_FORMAT = 4
"""The first format of a split whose digests are made of buckets."""
BLOCK = 1 << 16
"""Events whose texts are made at once."""


def train_digest(train: PackedSequences, split_format: int) -> str:
    """SHA-256 (hex) over training events, by the rules of a format of the split. The order of users
    has no effect."""
    events = _UserEvents.of_sequences(train)
    if split_format >= COLUMN_FORMAT:
        return events.bucket_digest()
    return digest_strings(*events.sorted_texts())


def held_out_digest(valid: PackedExamples, test: PackedExamples, split_format: int) -> str:
    """SHA-256 (hex) over the targets of validation and of test. Their order has no effect."""
    parts = [_UserEvents.of_targets(part) for part in (valid, test)]
    if split_format >= COLUMN_FORMAT:
        return hashlib.sha256(":".join(part.bucket_digest() for part in parts).encode()).hexdigest()
    return digest_strings(*chain.from_iterable(part.sorted_texts() for part in parts))


@dataclass(frozen=True, eq=False)
class _UserEvents:
    """Events of k users, one user after the other."""

    store: EventStore
    users: NDArray[np.integer[Any]]
    """(k,) distinct user codes"""
    lengths: NDArray[np.int64]
    """(k,): the number of events of each"""
    items: NDArray[np.integer[Any]]
    """(events,) item codes"""
    positions: NDArray[np.integer[Any]]
    """(events,)"""

    @classmethod
    def of_sequences(cls, train: PackedSequences) -> "_UserEvents":
        lengths = train.items.lengths
        return cls(
            train.store, train.user_codes, lengths, train.items.joined, train.event_positions
        )

    @classmethod
    def of_targets(cls, part: PackedExamples) -> "_UserEvents":
        """The targets of each user by position, then by item."""
        items, positions, user_of = part.event_items, part.event_positions, part.event_users
        order = np.lexsort((positions, user_of))
        places = np.stack([user_of[order], positions[order]])
        if (places[:, 1:] == places[:, :-1]).all(axis=0).any():  # windows may disagree on an item
            order = np.lexsort((text_ranks(part.names)[items], positions, user_of))
        users, lengths = np.unique(user_of, return_counts=True)
        return cls(part.store, users, lengths, items[order], positions[order])

    def bucket_digest(self) -> str:
        """SHA-256 over the digests of all buckets."""
        import pyarrow as pa
        import pyarrow.compute as pc

        ids = pa.array(self.store.users[self.users], pa.string())
        names = pa.array(self.store.names, pa.string())
        bucket_of = np.array([zlib.crc32(user) for user in ids.cast(pa.binary()).to_pylist()])
        bucket_of = bucket_of.astype(np.int64) % BUCKETS
        by_id = pc.sort_indices(ids).to_numpy()
        by_bucket = by_id[np.argsort(bucket_of[by_id], kind="stable")]
        bounds = np.searchsorted(bucket_of[by_bucket], np.arange(BUCKETS + 1))
        starts = np.cumsum(self.lengths) - self.lengths
        digests = [_digest_of_lists(_no_ids(), _no_numbers(), _no_ids(), _no_numbers())] * BUCKETS
        for bucket in np.unique(bucket_of).tolist():
            rows = by_bucket[bounds[bucket] : bounds[bucket + 1]]
            lengths = self.lengths[rows]
            events = consecutive(starts[rows], lengths)
            digests[bucket] = _digest_of_lists(
                ids.take(pa.array(rows)),
                lengths,
                names.take(pa.array(self.items[events])),
                self.positions[events],
            )
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def sorted_texts(self) -> list[Iterator[str]]:
        """The columns of the digests of formats 1 to 3: users, items and positions as texts, sorted
        by user."""
        rows = np.argsort(self.store.users[self.users], kind="stable")
        starts = np.cumsum(self.lengths) - self.lengths
        events = consecutive(starts[rows], self.lengths[rows])
        users = np.repeat(self.users[rows], self.lengths[rows])
        return [
            _names(self.store.users, users),
            _names(self.store.names, self.items[events]),
            map(str, self.positions[events].tolist()),
        ]


def _names(names: NDArray[np.object_], codes: NDArray[np.integer[Any]]) -> Iterator[str]:
    blocks = range(0, len(codes), BLOCK)
    return chain.from_iterable(names[codes[start : start + BLOCK]].tolist() for start in blocks)


def _digest_of_lists(
    users: Any, lengths: NDArray[Any], items: Any, positions: NDArray[Any]
) -> bytes:
    """SHA-256 over arrow arrays of (k,) users and of the items of all their lists."""
    state = hashlib.sha256()
    _update_texts(state, users)
    state.update(lengths.astype("<u4").tobytes())
    _update_texts(state, items)
    state.update(positions.astype("<u4").tobytes())
    return state.digest()


def _update_texts(state: Any, texts: Any) -> None:
    """Hash the number of texts, their lengths in bytes, and their bytes."""
    import pyarrow.compute as pc

    lengths = pc.binary_length(texts).to_numpy()
    state.update(len(texts).to_bytes(8, "little"))
    state.update(lengths.astype("<u4").tobytes())
    values = texts.buffers()[2]  # of an array that `take` made: it begins with the first text
    if values is not None:
        state.update(memoryview(values)[: int(lengths.sum(dtype=np.int64))])


def _no_ids() -> Any:
    import pyarrow as pa

    return pa.array([], pa.string())


def _no_numbers() -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64)
