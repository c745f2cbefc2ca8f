"""The engines: where the work of a command is done (`--engine`). Inference engines are not among
them: their catalogs are in `integrations/formats`, and a model in vLLM in `integrations/vllm`."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sidtool.base.errors import DataError, SidtoolError, UsageError, first_line
from sidtool.base.extras import require
from sidtool.base.jobs import Job, Result, RunJob, Shard, run_here
from sidtool.base.options import check_options, option

RESTARTS = 3
"""How often an actor is restarted."""
START_ATTEMPTS = 3
"""How often a cluster on this machine is started: Ray gives up after 30 seconds, which its
processes may take to begin where others keep the processors busy."""


def run_on_ray(
    job: Job[Any, Any], shards: Sequence[Any], workers: int | None
) -> Iterator[tuple[int, Any]]:
    """The index of each shard and the result of the work on it, in the order in which they are
    done. An actor loads what the job needs (a model, an encoder) once and works on one shard at a
    time; if it dies, Ray restarts it and repeats the shard.

    Raises what the job raises, and DataError if a worker dies more than RESTARTS times."""
    with ray_cluster(workers) as ray:
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
                        hint="fewer --workers have more memory each; --resume keeps the parts that "
                        "are done",
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
    """What each of a number of actors has of a cluster: a processor, and a GPU or, of one that
    several share, an equal part."""
    n_gpus = ray.cluster_resources().get("GPU", 0)
    return {"num_cpus": 1, "num_gpus": 1 / math.ceil(n_actors / n_gpus) if n_gpus else 0}


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
    RAY_ADDRESS, else to one on this machine that ends with the block. Raises DataError if there is
    no cluster at RAY_ADDRESS."""
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


@dataclass(frozen=True)
class Engine:
    """A place to run work."""

    run: Callable[[Job[Any, Any], Sequence[Any], int | None], Iterator[tuple[int, Any]]]
    """(job, shards, workers or None) -> the index of each shard and the result of the work on it,
    in the order in which they are done"""
    extra: str | None = None
    """the extra of sidtool that it needs, one of `base/extras.py`"""
    connect: Callable[[int | None], AbstractContextManager[Any]] = nullcontext
    """(workers or None) -> what several runs share while it is open"""


EngineName = Literal["local", "ray"]
ENGINES: dict[str, Engine] = {
    "local": Engine(lambda job, shards, _: run_here(job, shards)),
    "ray": Engine(run_on_ray, "ray", ray_cluster),
}
"""The engines by name. `cli/serve.py` names those that can serve."""
CLUSTERS = " or ".join(name for name in ENGINES if name != "local")
"""Those with workers."""


@dataclass(frozen=True)
class EngineOptions:
    """Where work is done. Raises MissingPackageError if the packages of the engine are not
    installed."""

    engine: EngineName = option("local", panel="Workers")
    """Where the work is done: in this process, or by workers of a Ray cluster, which is that of
    RAY_ADDRESS or else one on this machine."""

    def __post_init__(self) -> None:
        check_options(self)
        extra = ENGINES[self.engine].extra
        if extra is not None:
            require(extra)

    @property
    def on_cluster(self) -> bool:
        """Whether workers of a cluster do the work."""
        return self.engine != "local"


@dataclass(frozen=True)
class WorkerOptions(EngineOptions):
    """By how many workers work is done. Raises UsageError for fewer than one, or for workers
    without a cluster."""

    workers: int | None = option(None, minimum=1, panel="Workers")
    """Number of workers. Default: one per GPU of the cluster, else one per CPU."""

    def __post_init__(self) -> None:
        if not self.on_cluster and self.workers is not None:
            raise UsageError(f"--workers requires --engine {CLUSTERS}")
        super().__post_init__()


@dataclass(frozen=True)
class ResumableWorkers(WorkerOptions):
    """Where parts of an output are made."""

    resume: bool = option(False, panel="Workers")
    """With --engine ray, keep the parts that an interrupted run finished."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and not self.on_cluster:
            raise UsageError(f"--resume requires --engine {CLUSTERS}: one process starts again")


def run_job(
    job: Job[Shard, Result], shards: Sequence[Shard], options: WorkerOptions
) -> Iterator[tuple[int, Result]]:
    """The index of each shard and the result of the work on it, in the order in which they are
    done. Raises what the job raises, and DataError if workers die again and again."""
    if not shards:
        return iter(())
    return ENGINES[options.engine].run(job, shards, options.workers)


@contextmanager
def connected(options: WorkerOptions) -> Iterator[RunJob]:
    """What runs jobs by these workers, as `run_job` does, with one connection for all of them."""
    with ENGINES[options.engine].connect(options.workers):
        yield partial(run_job, options=options)
