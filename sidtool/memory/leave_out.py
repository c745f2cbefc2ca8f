"""A memory of which each user's own events are left out.

A memory that counts the events of a training example has seen its answers: two items that one user
interacted with co-occur because of that user. What the memory would say of a user that it never saw
is computed here from exact counts, which integers make possible: the counts of all users less those
of the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, IntegrityError
from sidtool.data.split import (
    ItemSequences,
    Split,
    count_pairs,
    item_sequences,
    pair_weights,
    ranges,
)
from sidtool.memory.content import content_rows
from sidtool.memory.distribution import ItemDistribution, MemoryIndex
from sidtool.memory.memory import Memory
from sidtool.memory.rows import SparseRows
from sidtool.memory.similarity import CountedPairs, similarity_rows
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows

CHUNK = 4096
"""Training events of the users whose rows are computed together: bounds the memory of a step."""


@dataclass(frozen=True, eq=False)
class LeaveOneOutMemory:
    """A memory as it would be without the events of the user who requests."""

    index: MemoryIndex
    """Has a row for each item of each user, and in it the item's neighbors without that user"""
    keys: NDArray[np.int64]
    """(rows,): user · items + item of each row, ascending"""
    items: int
    """Number of items of the bundle"""

    @classmethod
    def of(cls, memory: Memory, bundle: Bundle, split: Split) -> "LeaveOneOutMemory":
        """The rows of all users of a split, in the order of its training events.

        They take 8 bytes per neighbor, about `neighbors` of them for each item of each user. Raises
        CompatibilityError unless the memory was built from this bundle and this split,
        IntegrityError if it does not count the pairs of the split."""
        check_origin(memory, bundle, split)
        n = len(bundle.items)
        sequences = item_sequences(split, list(bundle.items.ids))
        sources = _Counts.of(memory)
        chunks = [
            sources.rows_without(first, sequences[first:stop])
            for first, stop in ranges(sequences.lengths, CHUNK)
        ]
        keys = np.concatenate([chunk_keys for chunk_keys, _ in chunks])
        rows = SparseRows.joined([chunk_rows for _, chunk_rows in chunks])
        return cls(MemoryIndex.of(memory, bundle).with_rows(rows, bundle), keys, n)

    def rows(self, user: int, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """(k,) the rows of a user's items by their rows in the bundle; -1 for one that is not among
        the user's training events."""
        keys = user * self.items + items
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[rows] == keys, rows, -1)

    def distributions(
        self, histories: Sequence[NDArray[np.int64]], power: float
    ) -> list[ItemDistribution]:
        """The distribution for each history of `rows`, as `MemoryIndex.distributions`."""
        # its index is requested by its own rows, in the place of a bundle's
        return self.index.distributions([ItemRows(rows) for rows in histories], power)


def check_origin(memory: Memory, bundle: Bundle, split: Split) -> None:
    """Raise CompatibilityError unless a memory was built from this bundle and this split."""
    memory.check_bundle(bundle)
    if memory.manifest.bundle.digest != bundle.identity.digest:
        raise CompatibilityError(
            "the memory was built for an earlier version of bundle "
            f"{bundle.manifest.name!r} than the training examples",
            hint="build the memory with the bundle of the training examples",
        )
    counted = memory.manifest.train_digest
    if counted != split.train_digest:
        raise CompatibilityError(
            f"the memory counts training events {counted[:12]}, the split has "
            f"{split.train_digest[:12]}",
            hint="give the split that the memory was built from",
        )


@dataclass(frozen=True, eq=False)
class _Counts:
    """What a memory counts of n items, and how it turns counts into similarities."""

    memory: Memory
    pairs: CountedPairs
    nearest: Any
    """(n, n) CSR float32: powers of cosines as `Memory.content`, symmetric, or None"""

    @classmethod
    def of(cls, memory: Memory) -> "_Counts":
        nearest = None
        if memory.content is not None:
            nearest = memory.content.to_scipy()
            nearest = (nearest + nearest.T).tocsr()
        return cls(memory, CountedPairs.of(memory.pairs), nearest)

    def rows_without(
        self, first_user: int, sequences: ItemSequences
    ) -> tuple[NDArray[np.int64], SparseRows]:
        """The keys of the items of these users, and the (m, n) neighbors of each, without the
        events of the user."""
        n = len(self.pairs.later)
        settings = self.memory.manifest.settings
        # no two users share a number, so their pairs are counted apart, all at once
        numbers = np.repeat(first_user + np.arange(len(sequences)), sequences.lengths)
        keys, local = np.unique(numbers * n + sequences.items, return_inverse=True)
        users, items = np.divmod(keys, n)
        user_sequences = ItemSequences(local, sequences.offsets)
        user_pairs = count_pairs(user_sequences, len(keys), settings.distance)
        user_events = np.bincount(local, minlength=len(keys))
        later = _less(self.pairs.later.take(items), user_pairs, items)
        earlier = _less(self.pairs.earlier.take(items), user_pairs.T.tocsr(), items)
        counts = pair_weights(later, earlier, settings.reverse)
        row_events = self.memory.events[items] - user_events

        def column_events(rows: Any) -> NDArray[np.int64]:
            """(entries,): the events of each column, less those of the row's user."""
            entry_keys = np.repeat(users, np.diff(rows.indptr)) * n + rows.indices
            return self.memory.events[rows.indices] - _events_at(keys, user_events, entry_keys)

        content = None
        compared = self.memory.manifest.content
        if compared is not None:
            nearest = self.nearest[items]
            content = content_rows(nearest, compared.weight, row_events, column_events(nearest))
        similarity = similarity_rows(counts, row_events, column_events(counts), settings, content)
        return keys, SparseRows.of(similarity, np.float32)


def _less(rows: Any, user_pairs: Any, items: NDArray[np.int64]) -> Any:
    """(m, n) CSR int64: counts less those of (m, m) `user_pairs`, whose columns are items."""
    from scipy import sparse

    columns = sparse.csr_matrix(
        (user_pairs.data, items[user_pairs.indices], user_pairs.indptr), shape=rows.shape
    )
    less = (rows - columns).tocsr()
    if (less.data < 0).any():
        raise IntegrityError(
            "the memory counts other pairs than the split has", hint="build the memory anew"
        )
    return less


def _events_at(
    keys: NDArray[np.int64], events: NDArray[np.int64], entry_keys: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(entries,) the events of each entry's user with its item, 0 without any."""
    nearest = np.minimum(np.searchsorted(keys, entry_keys), len(keys) - 1)
    return np.where(keys[nearest] == entry_keys, events[nearest], 0)
