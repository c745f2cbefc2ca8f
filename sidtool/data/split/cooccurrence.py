"""Counts of the items that co-occur in users' training events.

Memory grows with the pairs that occur, not with the square of the number of items."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, RefusedError
from sidtool.data.split.record import Protocol
from sidtool.data.split.split import Split, count_leaks

WINDOW = 50
"""Events of a user that lie further apart do not co-occur: the cost stays linear in the events."""
UNIT = 2.0**-40
"""Weights of pairs are counted in this unit, as integers."""
LARGEST = 2**63 - 1
"""The largest weight of a pair in that unit, of an int64."""


@dataclass(frozen=True)
class CooccurrenceRecord:
    """What a bundle's recipe records. It depends on the training events alone, so that no held-out
    event can change the bundle's identity."""

    protocol: Protocol
    train_events: int
    train_digest: str
    """As `Split.train_digest`."""
    window: int
    decay: float


@dataclass(frozen=True)
class Cooccurrence:
    """Co-occurrence of n items, in the order of a catalog."""

    counts: Any
    """(n, n) scipy CSR float64, symmetric, with an empty diagonal: the weight of each pair."""
    events: NDArray[np.int64]
    """(n,): training events of each item."""
    record: CooccurrenceRecord


def count_cooccurrence(
    split: Split, ids: Sequence[str], *, window: int, decay: float
) -> Cooccurrence:
    """Count the pairs of items `ids` within `window` training events of a user, with weights as in
    `weigh_pairs`.

    Training events of other items are left out first. Raises RefusedError if a held-out event is
    among the training events, DataError if no two of the items co-occur."""
    sequences = item_sequences(split, ids)
    n_events = sum(len(sequence.items) for sequence in split.train)
    counts = weigh_pairs(sequences, len(ids), decay, window)
    if not counts.nnz:
        raise DataError(
            f"no two of the {len(ids)} items co-occur in {n_events} training events",
            hint="do the item ids of --interactions match the catalog's?",
        )
    events = np.bincount(sequences.items, minlength=len(ids))
    record = CooccurrenceRecord(split.protocol, n_events, split.train_digest, window, decay)
    return Cooccurrence(counts, events, record)


class ItemSequences(Sequence[NDArray[np.int64]]):
    """The items of n users as numbers, in one array."""

    def __init__(self, items: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        self.items = items
        """(events,) of all users, one user after the other"""
        self.offsets = offsets
        """(n + 1,): where each user's items start in `items`"""

    @classmethod
    def of(cls, sequences: Iterable[Iterable[int]]) -> "ItemSequences":
        """Join sequences of numbers."""
        if isinstance(sequences, ItemSequences):
            return sequences
        items = array("q")
        offsets = array("q", [0])
        for sequence in sequences:
            items.extend(sequence)
            offsets.append(len(items))
        return cls(np.frombuffer(items, np.int64), np.frombuffer(offsets, np.int64))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,)"""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            offsets = self.offsets[start : max(start, stop) + 1]
            return ItemSequences(self.items[offsets[0] : offsets[-1]], offsets - offsets[0])
        place = range(len(self))[index]
        return self.items[self.offsets[place] : self.offsets[place + 1]]


def item_sequences(split: Split, ids: Sequence[str]) -> ItemSequences:
    """The training events of each user as indexes into `ids`; events of other items are left out.

    Raises RefusedError if a held-out event is among the training events."""
    events = (
        (sequence.user, item, position)
        for sequence in split.train
        for item, position in zip(sequence.items, sequence.positions, strict=True)
    )
    leaked = count_leaks(split, events)
    if leaked:
        raise RefusedError(f"{leaked} held-out events are among the training events, not 0")
    row_of = {item: row for row, item in enumerate(ids)}
    return ItemSequences.of(
        [row_of[item] for item in sequence.items if item in row_of] for sequence in split.train
    )


def count_pairs(
    sequences: Sequence[NDArray[np.int64]], n_items: int, decay: float, window: int = WINDOW
) -> Any:
    """(n_items, n_items) CSR int64: the weights of all pairs of different items in users'
    sequences, in units of UNIT; the row is the earlier item, the column the later one.

    Two events of a user that are `gap` positions apart (1: adjacent, at most `window`) add
    `decay ** (gap - 1)` to the weight of their items. Sums of integers are exact: neither the order
    of users nor the order of updates changes them. Raises DataError for one above LARGEST."""
    from scipy import sparse

    joined = ItemSequences.of(sequences)
    items = joined.items
    users = np.repeat(np.arange(len(joined)), joined.lengths)
    largest_gap = min(window, int(joined.lengths.max(initial=1)))
    total = sparse.csr_matrix((n_items, n_items), dtype=np.int64)
    for gap in range(1, largest_gap + 1):
        earlier = items[:-gap]
        later = items[gap:]
        pairs = (users[:-gap] == users[gap:]) & (earlier != later)
        coordinates = (earlier[pairs], later[pairs])
        ones = np.ones(int(pairs.sum()), dtype=np.int64)
        counts = sparse.csr_matrix((ones, coordinates), shape=(n_items, n_items))
        weight = round(decay ** (gap - 1) / UNIT)
        if int(counts.data.max(initial=0)) * weight > LARGEST:
            raise _overflow()
        counts.data *= weight
        total = add_pairs(total, counts)
    return total


def add_pairs(pairs: Any, more: Any) -> Any:
    """The sum of two CSR matrices of counted pairs. Raises DataError for one above LARGEST."""
    total = pairs + more
    # two numbers from 0 to LARGEST wrap to a negative one
    if total.data.min(initial=0) < 0:
        raise _overflow()
    return total


def _overflow() -> DataError:
    return DataError(
        f"two items co-occur too often: the weight of a pair is below {LARGEST * UNIT:,.0f}",
        hint="count a sample of the users, or give distant events a smaller weight",
    )


def weigh_pairs(
    sequences: Sequence[NDArray[np.int64]], n_items: int, decay: float, window: int = WINDOW
) -> Any:
    """(n_items, n_items) CSR float64: the symmetric weights of the pairs that `count_pairs`
    counts."""
    return pair_weights(count_pairs(sequences, n_items, decay, window))


def pair_weights(pairs: Any, reverse: float = 1.0, transposed: Any = None) -> Any:
    """Counted pairs as a CSR matrix of float64 weights: those of each item with later items, plus
    `reverse` times those with earlier ones. With 1 it is symmetric. Of some rows, if these rows of
    the pairs and of their transpose are given."""
    earlier = pairs.T if transposed is None else transposed
    both = (pairs * UNIT + reverse * (earlier * UNIT)).tocsr()
    both.eliminate_zeros()  # with reverse 0
    return both
