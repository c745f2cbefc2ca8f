"""Runs a job over shards by actors of a Ray cluster.

An actor loads what the job needs (a model, an encoder) once and works on one shard at a time. If it
dies, Ray restarts it and repeats the shard."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sidtool.base.errors import DataError, SidtoolError, first_line
from sidtool.base.extras import require
from sidtool.base.jobs import Job

RESTARTS = 3
"""How often an actor is restarted."""
START_ATTEMPTS = 3
"""How often a cluster on this machine is started: Ray gives up after 30 seconds, which its
processes may take to begin where others keep the processors busy."""


def run_on_ray(
    job: Job[Any, Any], shards: Sequence[Any], workers: int | None
) -> Iterator[tuple[int, Any]]:
    """The index of each shard and the result of the work on it, in the order in which they are
    done.

    Raises what the job raises, and DataError if a worker dies more than RESTARTS times."""
    with ray_cluster(workers) as ray:
        yield from _run_actors(ray, job, shards, workers)


def _run_actors(
    ray: Any, job: Job[Any, Any], shards: Sequence[Any], workers: int | None
) -> Iterator[tuple[int, Any]]:
    n_cpus = int(ray.cluster_resources().get("CPU", 1))
    n_gpus = int(ray.cluster_resources().get("GPU", 0))
    n_workers = min(workers or n_gpus or n_cpus, len(shards))
    # a call that does not reach a dying node is a failed attempt, too: attempts are not counted
    restarts = {"max_restarts": RESTARTS, "max_task_retries": -1}
    actor = ray.remote(_Actor).options(**restarts, **actor_resources(ray, n_workers))
    team = [actor.remote(job) for _ in range(n_workers)]
    waiting = iter(range(n_workers, len(shards)))
    running: dict[Any, tuple[Any, int]] = {}
    try:
        for index, worker in enumerate(team):
            running[worker.run.remote(shards[index])] = (worker, index)
        while running:
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            worker, index = running.pop(ready)
            try:
                result = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, SidtoolError):
                    raise error.cause from error
                raise
            except ray.exceptions.RayActorError as error:
                raise DataError(
                    f"a worker died {RESTARTS + 1} times",
                    hint="fewer --workers have more memory each; --resume keeps the parts that are "
                    "done",
                ) from error
            following = next(waiting, None)
            if following is None:
                ray.kill(worker)  # one that lost its node may wait for its processor
            else:
                running[worker.run.remote(shards[following])] = (worker, following)
            yield index, result
    finally:
        # after an error the traceback would keep them, and their processors, alive
        for worker in team:
            ray.kill(worker)


def actor_resources(ray: Any, n_actors: int) -> dict[str, float]:
    """What each of a number of actors has of a cluster: a processor, and its share of the GPUs."""
    n_gpus = ray.cluster_resources().get("GPU", 0)
    return {"num_cpus": 1, "num_gpus": min(1, n_gpus / n_actors)}


class _Actor:
    """A worker."""

    def __init__(self, job: Job[Any, Any]) -> None:
        self._job = job
        self._work: Callable[[Any], Any] | None = None

    def run(self, shard: Any) -> Any:
        """The work on a shard."""
        # not in the constructor, whose errors Ray reports as the death of the actor
        if self._work is None:
            self._work = self._job()
        return self._work(shard)


@contextmanager
def ray_cluster(workers: int | None = None) -> Iterator[Any]:
    """The module ray, connected to the cluster that the process is connected to, else to that of
    RAY_ADDRESS, else to one on this machine that ends with the block.

    Raises MissingPackageError without Ray, DataError if there is no cluster at RAY_ADDRESS."""
    require("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    attempts = 1
    if "RAY_ADDRESS" not in os.environ:
        options |= {"include_dashboard": False, "num_cpus": workers}
        attempts = START_ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            ray.init(**options)
            break
        except Exception as error:  # Ray raises bare ones
            ray.shutdown()
            if attempt == attempts:
                address = os.environ.get("RAY_ADDRESS", "this machine")
                message = f"there is no Ray cluster at {address}: {first_line(error)}"
                raise DataError(message) from error
    try:
        yield ray
    finally:
        ray.shutdown()
