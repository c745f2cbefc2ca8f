"""Training examples of the users of a split, made by several processes.

The examples of a task for a range of users are a part; the parts, one behind the other, are the
file that a single process writes, byte for byte."""

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.data.split import Split
from sidtool.examples import (
    ExampleCounts,
    SftInputs,
    SftJob,
    TaskCounts,
    named_task,
    task_counts,
)
from sidtool.integrations.ray.output import PartFolder, PartReport
from sidtool.integrations.ray.run import RunOptions, make_parts

USERS = 20_000
"""Users of a part."""


@dataclass(frozen=True)
class TaskShard:
    """The examples of one task for some users; all of a task that is not of users."""

    number: int
    task: str
    first: int
    stop: int


@dataclass(frozen=True)
class ClusterExamples:
    """Writes the examples of a job by several processes; `make_sft` takes it as `writer`."""

    inputs: SftInputs
    run: RunOptions
    users: int = USERS

    def __post_init__(self) -> None:
        options = self.inputs.options
        fractions = [task for task, weight in options.tasks.items() if weight != int(weight)]
        if fractions or options.max_tokens:
            raise UsageError(
                "workers make whole copies of examples: a fraction or a token budget is drawn from "
                "the examples of all users",
                hint="whole weights, or leave out --engine",
            )

    def __call__(self, job: SftJob, path: Path) -> dict[str, TaskCounts]:
        """Write the examples of a job at a path -> their counts by task.

        Raises RefusedError if one of them shows a held-out event."""
        if job.general is not None:
            raise UsageError("--general is mixed in by one process: leave out --engine")
        parts = path.with_name(f".{path.name}.parts")
        parts.mkdir()
        folder = PartFolder(str(parts.absolute()))
        shards = list(task_shards(job, self.users))
        try:
            reports = make_parts(
                partial(_open_inputs, self.inputs, folder), shards, folder, self.run
            )
            with path.open("wb") as stream:
                for report in reports:
                    with (parts / report.name).open("rb") as part:
                        shutil.copyfileobj(part, stream)
        finally:
            shutil.rmtree(parts)
        return _counts([shard.task for shard in shards], reports)


def task_shards(job: SftJob, users: int) -> Iterator[TaskShard]:
    """The parts of a job, in the order of a single process."""
    number = 0
    for task in job.options.tasks:
        n = _units(task, job.split) if named_task(task).of_users else 1
        for first in range(0, n, users):
            yield TaskShard(number, task, first, min(first + users, n))
            number += 1


def _units(task: str, split: Split) -> int:
    """What a task of users is divided by: windows, if its examples are made of such, or users."""
    by_user = split.windows is None or named_task(task).of_whole_histories
    return len(split.train if by_user else split.windows or ())


def _open_inputs(inputs: SftInputs, folder: PartFolder) -> Callable[[TaskShard], PartReport]:
    """Read bundle, catalog and split, to make the examples of shards."""
    job = inputs.open()
    return lambda shard: _write_part(job, shard, folder)


def _write_part(job: SftJob, shard: TaskShard, folder: PartFolder) -> PartReport:
    stream = io.BytesIO()
    units = range(shard.first, shard.stop) if named_task(shard.task).of_users else None
    counts = job.write_task(stream, shard.task, units)
    return folder.write(shard.number, stream.getvalue(), counts.examples, asdict(counts))


def _counts(tasks: list[str], reports: list[PartReport]) -> dict[str, TaskCounts]:
    """The counts of all parts. Raises RefusedError if one of them shows a held-out event."""
    counts: dict[str, ExampleCounts] = {}
    for task, report in zip(tasks, reports, strict=True):
        counts[task] = counts.get(task, ExampleCounts()) + ExampleCounts(**report.counts)
    return task_counts(counts)
