"""What a queue before one model adds to the time of a call, without network or other processes.

`batch_costs` measures the CPU seconds of batches by their size; `simulate` lets calls arrive at
random and answers them in such batches, as the service's batcher does. The result is what a free
machine can give: what `serve.py latency` measures beyond it is the machine's or the service's
doing."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 80)
"""Requests in a batch."""
REPEATS = 3
N_CALLS = 20_000
"""Simulated calls."""


@dataclass(frozen=True)
class BatchCosts:
    """CPU seconds of batches by the number of their requests."""

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def of(self, n: int) -> float:
        """Seconds of a batch of n requests; one beyond the largest size costs as much for each."""
        return float(np.interp(n, self.sizes, self.seconds)) * max(n / self.sizes[-1], 1)

    def saturated_rate(self, n: int) -> float:
        """Requests per second in batches of n requests."""
        return n / self.of(n)


def batch_costs(run: Callable[[int], object], sizes: Sequence[int] = SIZES) -> BatchCosts:
    """The least costs of REPEATS batches of each size, in turns; `run` answers a batch of n
    requests in this thread."""
    run(1)
    seconds = {size: float("inf") for size in sizes}
    for _ in range(REPEATS):
        for size in sizes:
            start = time.thread_time()
            run(size)
            seconds[size] = min(seconds[size], time.thread_time() - start)
    return BatchCosts(tuple(sizes), tuple(seconds.values()))


def simulate(
    costs: BatchCosts, rate: float, *, wait: float, largest: int, n_calls: int = N_CALLS
) -> list[float]:
    """Seconds from arrival to answer of calls that arrive at random, `rate` per second. A batch is
    what waits when the model is free, at most `largest` requests; the first call of an idle model
    waits `wait` seconds for others."""
    draw = random.Random(0)
    arrivals = np.cumsum([draw.expovariate(rate) for _ in range(n_calls)]).tolist()
    cost = [costs.of(n) for n in range(largest + 1)]
    seconds: list[float] = []
    now = 0.0
    while len(seconds) < n_calls:
        first = len(seconds)
        now = max(now, arrivals[first] + wait)
        last = first + 1
        while last < n_calls and last - first < largest and arrivals[last] <= now:
            last += 1
        now += cost[last - first]
        seconds += [now - arrived for arrived in arrivals[first:last]]
    return seconds
