"""Work on shards, wherever it is done."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Shard = TypeVar("Shard")
Result = TypeVar("Result")

Job = Callable[[], Callable[[Shard], Result]]
"""Called once by each worker: loads what the work needs, and returns the work on one shard. Jobs
travel to the workers, so they hold settings and no models."""

RunJob = Callable[[Job[Any, Any], Sequence[Any]], Iterator[tuple[int, Any]]]
"""Runs a job over shards: the index of each shard and the result of the work on it, in the order in
which they are done."""


def run_here(job: Job[Shard, Result], shards: Sequence[Shard]) -> Iterator[tuple[int, Result]]:
    """Run a job in this process."""
    if shards:
        yield from enumerate(map(job(), shards))
