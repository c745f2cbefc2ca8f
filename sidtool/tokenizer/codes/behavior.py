"""What training events say about codes: whether items that follow each other share prefixes, and
how prefixes divide among frequent and rare items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data.split import UserSequence, packed_sequences
from sidtool.tokenizer.codes.measure import level_use
from sidtool.tokenizer.sid import Codes, Levels

Shares = list[float | None]


@dataclass(frozen=True)
class Behavior:
    """Training events of n items, by index."""

    steps: NDArray[np.int64]
    """(m, 2): an item and the next item of the same user"""
    events: NDArray[np.int64]
    """(n,): training events of each item"""

    @classmethod
    def of(cls, users: Sequence[UserSequence], ids: Sequence[str]) -> "Behavior":
        """The training events of items `ids`. Raises DataError if no two of them are
        consecutive."""
        packed = packed_sequences(users)
        number_of = {item: number for number, item in enumerate(ids)}
        numbers = np.array([number_of.get(name, -1) for name in packed.names], dtype=np.int64)
        items = numbers[packed.items.joined]
        positions = packed.event_positions
        user = np.repeat(np.arange(len(packed)), packed.items.lengths)
        follows = (np.diff(user) == 0) & (np.diff(positions) == 1)
        follows &= (items[:-1] >= 0) & (items[1:] >= 0)
        if not follows.any():
            raise DataError("no user has two consecutive training events with items of the bundles")
        steps = np.stack([items[:-1], items[1:]], axis=1)[follows]
        return cls(steps, np.bincount(items[items >= 0], minlength=len(ids)))


def prefix_groups(codes: Codes, sizes: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Per depth from 1: (n,) the number of the prefix of each of n items."""
    for depth in range(1, len(sizes) + 1):
        keys = Levels(tuple(sizes[:depth])).pack(codes[:, :depth])
        yield np.unique(keys, return_inverse=True)[1]


def prefix_alignment(
    codes: Codes, sizes: Sequence[int], steps: NDArray[np.int64]
) -> tuple[Shares, Shares]:
    """Per depth: the share of the steps from an item to another one whose prefixes are equal; and
    the share by chance.

    By chance an item is followed by any item, as often as that is the second one of a step. None if
    every step is from an item to itself."""
    steps = steps[steps[:, 0] != steps[:, 1]]
    if not len(steps):
        return [None] * len(sizes), [None] * len(sizes)
    n_items = len(codes)
    # (items,): how often an item is the first and the second one of a step
    first, second = (np.bincount(column, minlength=n_items) / len(steps) for column in steps.T)
    same_item = first @ second
    shares: Shares = []
    by_chance: Shares = []
    for group in prefix_groups(codes, sizes):
        shares.append(float((group[steps[:, 0]] == group[steps[:, 1]]).mean()))
        same_group = np.bincount(group, first) @ np.bincount(group, second)
        other_item = same_group - same_item
        # where every item has a prefix of its own, only the rounding of the sums is left
        by_chance.append(float(other_item / (1 - same_item)) if other_item > 1e-12 else 0.0)
    return shares, by_chance


def prefix_spread(
    codes: Codes, sizes: Sequence[int], events: NDArray[np.int64]
) -> tuple[Shares, Shares]:
    """Per depth: distinct prefixes per item among the head, and among the tail.

    The head is the most frequent items that together have half of the (n,) events, the tail all
    others. 1: every item has a prefix of its own. None without an item."""
    order = np.argsort(-events, kind="stable")
    earlier = np.cumsum(events[order]) - events[order]
    in_head = earlier * 2 < events.sum()
    parts = (order[in_head], order[~in_head])
    head: Shares = []
    tail: Shares = []
    for group in prefix_groups(codes, sizes):
        for rows, spread in zip(parts, (head, tail), strict=True):
            spread.append(len(np.unique(group[rows])) / len(rows) if len(rows) else None)
    return head, tail


def mutual_information(
    codes: Codes, steps: NDArray[np.int64], *, seed: int = 0
) -> tuple[list[float], list[float]]:
    """Per level: mutual information, in bits, of an item's code and the next item's; and by chance.

    The estimate from a finite sample is above 0 even for independent codes. The value by chance
    measures this: next items are shuffled with the seed. Only the difference is meaningful. If a
    codebook is chosen by this figure, `steps` must be training events only."""
    shuffled = np.random.default_rng(seed).permutation(steps[:, 1])
    information = []
    by_chance = []
    for column in codes.T:
        current = column[steps[:, 0]]
        information.append(_mutual_information(current, column[steps[:, 1]]))
        by_chance.append(_mutual_information(current, column[shuffled]))
    return information, by_chance


def _mutual_information(left: NDArray[np.uint16], right: NDArray[np.uint16]) -> float:
    _, pair = np.unique(left.astype(np.int64) << 16 | right, return_inverse=True)
    return _entropy(left) + _entropy(right) - _entropy(pair)


def _entropy(values: NDArray[Any]) -> float:
    return level_use(values[:, None], (int(values.max()) + 1,))[0].entropy
