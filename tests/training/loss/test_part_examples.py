from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from sidtool.base.errors import DataError, UsageError
from sidtool.examples import ExampleParts, Lineage
from sidtool.training.loss.part_examples import PartExamples, PartOrder


@dataclass(frozen=True)
class Numbered(ExampleParts):
    """Parts whose examples are pairs of part and number."""

    folder: Path = Path()
    lineage: Lineage = None  # type: ignore[assignment]
    lengths: Sequence[int] = ()
    opened: list[int] = field(default_factory=list)

    @property
    def sizes(self) -> Sequence[int]:
        return self.lengths

    def lines(self, part: int) -> list[bytes]:
        self.opened.append(part)
        return [b"%d" % number for number in range(self.lengths[part])]

    def example(self, part: int, line: bytes) -> Any:
        return part, int(line)


def epoch_of(
    sizes: Sequence[int], processes: int, batch_size: int, seed: int = 0, epoch: int = 0
) -> tuple[list[list[Any]], list[list[int]]]:
    """What each process sees in an epoch, and the parts that it opens, in order."""
    seen, opened = [], []
    for rank in range(processes):
        parts = Numbered(lengths=sizes)
        place = {"batch_size": batch_size, "rank": rank, "processes": processes}
        examples = PartExamples(parts, cast("Any", list), seed=seed, **place)
        order = PartOrder(examples)
        order.vary(epoch, 3)
        batches = list(BatchSampler(order, batch_size, drop_last=False))
        assert processes == 1 or all(len(batch) == batch_size for batch in batches)
        # accelerate gives the batches to the processes in turn
        seen.append([examples[index] for batch in batches[rank::processes] for index in batch])
        opened.append(parts.opened)
    return seen, opened


sizes_of_parts = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)


@given(sizes_of_parts, st.integers(1, 5), st.integers(1, 4), st.integers(0, 99), st.integers(0, 2))
def test_each_example_is_seen_once_in_an_epoch(
    sizes: list[int], processes: int, batch_size: int, seed: int, epoch: int
) -> None:
    seen, opened = epoch_of(sizes, processes, batch_size, seed, epoch)
    total = sum(sizes)
    assert {len(pairs) for pairs in seen} == {len(seen[0])}  # as many steps
    assert len(seen[0]) < total / processes + 1 + batch_size
    ends = [rank * total // processes for rank in range(processes + 1)]
    shares = [stop - start for start, stop in pairwise(ends)]
    once = [pair for pairs, share in zip(seen, shares, strict=True) for pair in pairs[:share]]
    assert sorted(once) == [(part, n) for part, size in enumerate(sizes) for n in range(size)]
    for pairs, parts in zip(seen, opened, strict=True):
        # one part behind the other, each read once
        assert len(parts) <= len([part for part, _ in groupby(pairs, lambda pair: pair[0])]) + 3
    assert epoch_of(sizes, processes, batch_size, seed, epoch) == (seen, opened)


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = [epoch_of([30] * 8, 2, 5, *at)[0] for at in ((0, 0), (0, 1), (1, 0))]
    firsts = [order[0] for order in orders]
    assert firsts[0] != firsts[1]
    assert firsts[0] != firsts[2]
    in_part = [number for part, number in firsts[0] if part == firsts[0][0][0]]
    assert in_part != sorted(in_part)


def test_a_process_opens_its_parts_alone() -> None:
    seen, opened = epoch_of([100] * 64, processes=16, batch_size=10)
    for pairs, parts in zip(seen, opened, strict=True):
        assert len(pairs) == 400
        assert (len(parts), len(set(parts))) == (4, 4)
    assert sorted(part for parts in opened for part in parts) == list(range(64))
    # more processes than parts: a part is shared
    _, opened = epoch_of([100, 100], processes=4, batch_size=10)
    assert [len(parts) for parts in opened] == [1, 1, 1, 1]


def test_the_index_of_another_process_is_refused() -> None:
    examples = PartExamples(Numbered(lengths=[4]), cast("Any", list), seed=0, rank=1, processes=2)
    with pytest.raises(UsageError, match="process 1 is asked for an example of process 0"):
        examples[0]


def test_examples_that_are_left_out_are_replaced_by_others_of_the_part() -> None:
    def even(pairs: Any) -> Any:
        return [pair for pair in pairs if pair[1] % 2 == 0]

    for rank in range(5):
        parts = Numbered(lengths=[10])
        examples = PartExamples(parts, cast("Any", even), seed=0, rank=rank, processes=5)
        first = rank * examples.per_process
        assert all(examples[first + n][1] % 2 == 0 for n in range(examples.per_process))
    none = PartExamples(Numbered(lengths=[10]), cast("Any", lambda pairs: []), seed=0)
    with pytest.raises(DataError, match="has no training example with a target"):
        none[0]
