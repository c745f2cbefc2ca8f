"""Counts of the items that co-occur in users' training events.

Memory grows with the pairs that occur, not with the square of the number of items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, RefusedError
from sidtool.base.ranges import bounds_of, ranges
from sidtool.base.threads import in_threads
from sidtool.data.split.packed import PackedSequences, Ragged
from sidtool.data.split.packing import pack_parts
from sidtool.data.split.record import Protocol, SplitReference
from sidtool.data.split.split import Split
from sidtool.data.split.values import UserSequence

WINDOW = 50
"""Events of a user that lie further apart do not co-occur: the cost stays linear in the events."""
UNIT = 2.0**-40
"""Weights of pairs are counted in this unit, as integers."""
LARGEST = 2**63 - 1
"""The largest weight of a pair in that unit, of an int64."""
BLOCK_PAIRS = 1 << 21
"""Pairs of events that are counted together."""
BLOCK_EVENTS = 1 << 22
"""Training events that are read together."""


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
    split: SplitReference
    """The split whose training events these are."""


def count_cooccurrence(
    split: Split, ids: Sequence[str], *, window: int, decay: float
) -> Cooccurrence:
    """Count the pairs of items `ids` within `window` training events of a user, as `count_pairs`.

    Training events of other items are left out first. Raises RefusedError if a held-out event is
    among the training events, DataError if no two of the items co-occur."""
    sequences = item_sequences(split, ids)
    n_events = split.train.n_events
    pairs = count_pairs(sequences, len(ids), decay, window)
    counts = pair_weights(pairs, pairs.T.tocsr())
    if not counts.nnz:
        raise DataError(
            f"no two of the {len(ids)} items co-occur in {n_events} training events",
            hint="do the item ids of --interactions match the catalog's?",
        )
    events = np.bincount(sequences.joined, minlength=len(ids))
    record = CooccurrenceRecord(split.protocol, n_events, split.train_digest, window, decay)
    return Cooccurrence(counts, events, record, split.reference)


def packed_sequences(users: Sequence[UserSequence]) -> PackedSequences:
    """Training events as arrays."""
    return users if isinstance(users, PackedSequences) else pack_parts(users, (), ()).train


def item_sequences(split: Split, ids: Sequence[str], threads: int = 1) -> Ragged:
    """The training events of each user as indexes into `ids`; events of other items are left out.

    Raises RefusedError if a held-out event is among the training events."""
    if split.leaked_events:
        raise RefusedError(
            f"{split.leaked_events} held-out events are among the training events, not 0"
        )
    return numbered_sequences(split.train, ids, threads)


def numbered_sequences(
    users: Sequence[UserSequence], ids: Sequence[str], threads: int = 1
) -> Ragged:
    """As `item_sequences`, of any training events."""
    packed = packed_sequences(users)
    numbers = packed.names.places_in(ids)

    def numbered(block: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        lists = packed.items.take(slice(*block))
        items = numbers[lists.joined]
        has_number = items >= 0
        if has_number.all():
            return items, lists.lengths
        return items[has_number], np.diff(bounds_of(has_number)[bounds_of(lists.lengths)])

    blocks = ranges(packed.items.lengths, BLOCK_EVENTS)
    parts = [(numbers[:0], bounds_of([])[:0]), *in_threads(numbered, blocks, threads)]
    items, lengths = zip(*parts, strict=True)
    return Ragged.of_lengths(np.concatenate(items), np.concatenate(lengths))


def count_pairs(
    sequences: Sequence[NDArray[np.integer[Any]]], n_items: int, decay: float, window: int = WINDOW
) -> Any:
    """(n_items, n_items) CSR int64: the weights of all pairs of different items in users'
    sequences, in units of UNIT; the row is the earlier item, the column the later one.

    Two events of a user that are `gap` positions apart (1: adjacent, at most `window`) add
    `decay ** (gap - 1)` to the weight of their items. Sums of integers are exact: neither the order
    of users nor the order of updates changes them. Raises DataError for one above LARGEST."""
    limit = max(BLOCK_PAIRS, 4 * n_items)  # each block has offsets of all items
    return sum_pairs(list(count_blocks(sequences, n_items, decay, window, limit)))


def count_blocks(
    sequences: Sequence[NDArray[np.integer[Any]]],
    n_items: int,
    decay: float,
    window: int = WINDOW,
    limit: int = BLOCK_PAIRS,
    threads: int = 1,
) -> Iterator[Any]:
    """Matrices as `count_pairs` whose sum is that of all pairs: each counts about `limit` pairs of
    events, whose sums cannot overflow. Only a matrix that is the only one may be empty."""
    from scipy import sparse

    count = partial(_count_block, n_items=n_items, decay=decay)
    blocks = _event_blocks(sequences, window, limit)
    matrices = (counts for counts in in_threads(count, blocks, threads) if counts.nnz)
    yield next(matrices, sparse.csr_matrix((n_items, n_items), dtype=np.int64))
    yield from matrices


class _EventBlock(NamedTuple):
    """e consecutive events, each of which makes a pair with each later one of its user within the
    window."""

    items: NDArray[np.integer[Any]]
    """of these events and of others before and behind them"""
    n_later: NDArray[np.int64]
    """(e,): the pairs of each event"""
    first: int
    """the place of the first of the events in `items`"""


def _event_blocks(
    sequences: Sequence[NDArray[np.integer[Any]]], window: int, limit: int
) -> Iterator[_EventBlock]:
    """All events, in blocks of about `limit` pairs."""
    all_users = Ragged.of_lists(sequences)
    for first_user, last_user in ranges(all_users.lengths, BLOCK_EVENTS):
        users = all_users[first_user:last_user]
        # (events,): where its user's events end
        ends = np.repeat(np.cumsum(users.lengths), users.lengths)
        n_later = np.minimum(ends - np.arange(1, len(ends) + 1), window)
        # each pair weighs at most 1 / UNIT; a range may be one event larger
        max_pairs = int(LARGEST * UNIT) - int(n_later.max(initial=0))
        items = users.joined
        for start, stop in ranges(n_later, min(limit, max_pairs)):
            yield _EventBlock(items, n_later[start:stop], start)


def _count_block(block: _EventBlock, n_items: int, decay: float) -> Any:
    """As `count_pairs`, of the pairs of a block."""
    from scipy import sparse

    items, n_later, first = block
    gaps = range(1, int(n_later.max(initial=0)) + 1)
    units = [round(decay ** (gap - 1) / UNIT) for gap in gaps]
    earlier = np.flatnonzero(n_later)
    rows, columns, weights = [], [], []
    for gap, unit in zip(gaps, units, strict=True):
        if not unit:
            break  # pairs further apart weigh too little
        earlier = earlier[n_later[earlier] >= gap]
        row = items[first + earlier]
        column = items[first + earlier + gap]
        differs = row != column
        rows.append(row[differs])
        columns.append(column[differs])
        weights.append(np.full(len(rows[-1]), unit, dtype=np.int64))
    if not rows:
        return sparse.csr_matrix((n_items, n_items), dtype=np.int64)
    coordinates = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_matrix((np.concatenate(weights), coordinates), shape=(n_items, n_items))


def sum_pairs(parts: Sequence[Any]) -> Any:
    """(rows, items) CSR int64: the sum of matrices of counted pairs, two by two. Raises DataError
    for a weight above LARGEST."""
    while len(parts) > 1:
        sums = [one + other for one, other in zip(parts[::2], parts[1::2], strict=False)]
        # two numbers from 0 to LARGEST wrap to a negative one
        if any(total.data.min(initial=0) < 0 for total in sums):
            largest = f"{LARGEST * UNIT:,.0f}"
            raise DataError(
                f"two items co-occur too often: the weight of a pair is below {largest}",
                hint="count a sample of the users, or give distant events a smaller weight",
            )
        parts = [*sums, *parts[2 * len(sums) :]]
    return parts[0]


def pair_weights(later: Any, earlier: Any, reverse: float = 1.0) -> Any:
    """Counted pairs as a CSR matrix of float64 weights: those of each item with later items, plus
    `reverse` times those with earlier ones, which the transpose has. With 1 it is symmetric."""
    both = later * UNIT + reverse * (earlier * UNIT)
    both.eliminate_zeros()  # with reverse 0
    return both
