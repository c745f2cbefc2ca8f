"""The engines: where the work of a command is done (`--engine`). Inference engines are not among
them: their catalogs are in `integrations/formats`, and a model in vLLM in `integrations/vllm`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sidtool.base.errors import UsageError
from sidtool.base.extras import require
from sidtool.base.jobs import Job, Result, RunJob, Shard, run_here
from sidtool.base.options import check_options, option
from sidtool.integrations.cluster import ray_actors


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
    "ray": Engine(ray_actors.run_on_ray, "ray", ray_actors.ray_cluster),
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
