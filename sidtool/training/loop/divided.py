"""Training examples of which every process holds its own share, and the order in which all of them
see theirs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from sidtool.base.errors import UsageError
from sidtool.examples import TokenizedExample


class DividedExamples(Sequence[TokenizedExample]):
    """The share of one process, as a part of n x processes examples: with p processes, example i is
    one of the process i % p. A share of fewer than n examples begins again."""

    def __init__(self, share: Any, rank: int, sizes: Sequence[int], batch_size: int) -> None:
        self._share = share
        self._rank = rank
        self.processes = len(sizes)
        self.batch_size = batch_size
        self.per_process = -(-max(sizes) // batch_size) * batch_size
        """whole batches, so that no batch has examples of two processes"""

    def __len__(self) -> int:
        return self.per_process * self.processes

    def __getitem__(self, number: Any) -> Any:
        place, rank = divmod(number, self.processes)
        if rank != self._rank:
            raise UsageError(
                f"process {self._rank} is asked for an example of process {rank}",
                hint="divide_examples needs the default of accelerator_config",
            )
        return self._share[place % len(self._share)]


class DividedOrder(Sampler[int]):
    """The order of an epoch: a batch of the first process, one of the second and so on, which is
    how accelerate deals batches out. Every process has an order of its own, which follows from seed
    and epoch."""

    def __init__(self, examples: DividedExamples, seed: int) -> None:
        self._examples = examples
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[int]:
        batches = []
        processes = self._examples.processes
        for rank in range(processes):
            rng = np.random.default_rng([self._seed, self._epoch, rank])
            places = rng.permutation(self._examples.per_process)
            batches.append((places * processes + rank).reshape(-1, self._examples.batch_size))
        # (batches of each, processes, batch size)
        yield from np.stack(batches, axis=1).reshape(-1).tolist()
