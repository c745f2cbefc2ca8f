"""Training examples in parts as one sequence, of which a process holds one part, and the order in
which several processes see them."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from sidtool.base.errors import DataError, UsageError
from sidtool.examples import ExampleParts, TokenizedExample, TokenizedExamples


@dataclass(frozen=True)
class Slice:
    """Consecutive examples of a shuffled part."""

    start: int
    """the number of the first one among those of a process"""
    part: int
    first: int
    stop: int


class PartExamples(Sequence[TokenizedExample]):
    """The examples of parts, of which each of several processes sees consecutive ones in the order
    of an epoch: `per_process`, of several processes whole batches. So that all have as many, the
    last ones are also among those of the next process.

    An index stands for an epoch, a process and a place among its examples (`PartOrder`). An example
    becomes tokens when it is read, so that workers of a data loader divide this work. `tokenize`
    may leave it out; another one of the part is then in its place. The order follows from `seed`,
    epoch and number of processes."""

    def __init__(
        self,
        parts: ExampleParts,
        tokenize: Callable[[Sequence[Mapping[str, Any]]], TokenizedExamples],
        *,
        seed: int,
        batch_size: int = 1,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._parts = parts
        self._tokenize = tokenize
        self._seed = seed
        self._rank = rank
        self.processes = processes
        self.batch_size = batch_size
        total = sum(parts.sizes)
        self._first = rank * total // processes
        self.per_process = total
        if processes > 1:
            self.per_process = -(-total // (processes * batch_size)) * batch_size
        self._epoch = -1
        self._slices: list[Slice] = []
        self._held: tuple[Slice, list[bytes]] | None = None

    def __len__(self) -> int:
        return self.per_process * self.processes

    def __getitem__(self, index: Any) -> Any:
        epoch, place = divmod(index, len(self))
        rank, place = divmod(place, self.per_process)
        if rank != self._rank:
            raise UsageError(
                f"process {self._rank} is asked for an example of process {rank}",
                hint="examples in parts need the default of accelerator_config",
            )
        if epoch != self._epoch:
            self._epoch, self._held = epoch, None
            self._slices = self._slices_of(epoch)
        at = bisect_right(self._slices, place, key=lambda piece: piece.start) - 1
        piece = self._slices[at]
        if self._held is None or self._held[0] != piece:
            self._held = None  # one part is in memory at a time
            lines = self._parts.lines(piece.part)
            order = np.random.default_rng([self._seed, epoch, piece.part]).permutation(len(lines))
            self._held = piece, [lines[number] for number in order]
        lines = self._held[1]
        first = piece.first + place - piece.start
        for number in range(first, first + len(lines)):
            example = self._parts.example(piece.part, lines[number % len(lines)])
            if len(made := self._tokenize([example])):
                return made[0]
        raise DataError(f"part {piece.part} of {self._parts} has no training example with a target")

    def _slices_of(self, epoch: int) -> list[Slice]:
        """Where the examples of this process are in the order of an epoch: parts in a drawn order,
        each shuffled. The order begins again at its end."""
        sizes = np.array(self._parts.sizes)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(sizes))
        stops = np.cumsum(sizes[order])  # where the first part of the order stops, the second ...
        slices: list[Slice] = []
        done = 0
        while done < self.per_process:
            first = (self._first + done) % int(stops[-1])
            place = int(np.searchsorted(stops, first, side="right"))
            part = int(order[place])
            part_start = int(stops[place] - sizes[part])
            stop = min(int(stops[place]), first + self.per_process - done)
            slices.append(Slice(done, part, first - part_start, stop - part_start))
            done += stop - first
        return slices


class PartOrder(Sampler[int]):
    """The order of an epoch: a batch of the first process, one of the second and so on, which is
    how accelerate deals batches out."""

    def __init__(self, examples: PartExamples) -> None:
        self._examples = examples
        self._epoch = 0

    def vary(self, epoch: int, epochs: int) -> None:
        """Take the order of an epoch, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[int]:
        batch_size, per_process = self._examples.batch_size, self._examples.per_process
        first_of_epoch = self._epoch * len(self)
        for start in range(0, per_process, batch_size):
            stop = min(start + batch_size, per_process)
            for rank in range(self._examples.processes):
                first_of_process = first_of_epoch + rank * per_process
                yield from range(first_of_process + start, first_of_process + stop)
