"""Training examples of the users of a split, made by several processes.

The examples of a task for a range of users are a part; the parts, one behind the other, are the
file that a single process writes, byte for byte."""

import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.data.split import (
    TRAIN_FILE,
    Split,
    is_split_folder,
    read_split,
    stored_manifest,
)
from sidtool.examples import (
    EventWeights,
    ExampleCounts,
    SftInputs,
    SftJob,
    TaskCounts,
    named_task,
    task_counts,
)
from sidtool.integrations.ray.output import PartFolder, PartReport
from sidtool.integrations.ray.run import RunOptions, make_parts
from sidtool.integrations.ray.shards import row_count

USERS = 20_000
"""Users of a part."""


@dataclass(frozen=True)
class TaskShard:
    """The examples of one task for some users; all of a task that is not of users."""

    number: int
    task: str
    first: int = 0
    stop: int = 1
    first_number: int = 0
    """As `SftJob.write_task`"""
    folder: str = ""
    """The folder of a split in parts that has the users, of whom `first` is the first; "" for the
    whole split"""


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
        shards = list(task_shards(job, self.users, _folder_users(self.inputs.split)))
        run = replace(self.run, progress=self.run.progress or job.progress)
        try:
            reports = make_parts(partial(_open_inputs, self.inputs, folder), shards, folder, run)
            with path.open("wb") as stream:
                for report in reports:
                    with (parts / report.name).open("rb") as part:
                        shutil.copyfileobj(part, stream)
        finally:
            shutil.rmtree(parts)
        return _counts([shard.task for shard in shards], reports)


def task_shards(
    job: SftJob, users: int, folder_users: Mapping[str, int] | None = None
) -> Iterator[TaskShard]:
    """The parts of a job, in the order of a single process. `folder_users` are the training users
    in each folder of a split in parts: a worker reads one folder."""
    number = 0
    for task in job.options.tasks:
        if not named_task(task).of_users:
            yield TaskShard(number, task)
            number += 1
            continue
        before = 0
        for folder, n in (folder_users or {"": _units(task, job.split)}).items():
            for first in range(0, n, users):
                n_before = job.maker.count_before(task, job.split, before + first)
                last = min(first + users, n)
                yield TaskShard(number, task, first, last, n_before, folder)
                number += 1
            before += n


def _units(task: str, split: Split) -> int:
    """What a task of users is divided by: windows, if its examples are made of such, or users."""
    by_user = split.windows is None or named_task(task).of_whole_histories
    return len(split.train if by_user else split.windows or ())


def _folder_users(split: Split | str | Path) -> dict[str, int] | None:
    """The training users in each folder of a split in parts; None for others."""
    if isinstance(split, Split) or not is_split_folder(Path(split)):
        return None
    manifest = stored_manifest(Path(split))
    if manifest.parts == 1:
        return None
    return {folder: row_count(f"{split}/{folder}/{TRAIN_FILE}") for folder in manifest.folders}


def _open_inputs(inputs: SftInputs, folder: PartFolder) -> Callable[[TaskShard], PartReport]:
    """Read bundle and catalog, to make the examples of shards, and the split as far as a shard
    needs it."""
    opened: dict[str, SftJob] = {}

    def write(shard: TaskShard) -> PartReport:
        if shard.folder not in opened:
            job = next(iter(opened.values()), None)
            opened.clear()  # one part is in memory at a time
            opened[shard.folder] = _job_of(inputs, shard.folder, job)
        return _write_part(opened[shard.folder], shard, folder)

    return write


def _job_of(inputs: SftInputs, folder: str, job: SftJob | None) -> SftJob:
    """The job for the users in a folder of the split, or for all, by one that has the rest."""
    if not folder:
        return inputs.open()
    assert isinstance(inputs.split, str | Path)
    split = read_split(Path(inputs.split), folder)
    if job is None:
        return replace(inputs, split=split).open()
    return replace(job, split=split, weights=EventWeights.read(inputs.weights, split))


def _write_part(job: SftJob, shard: TaskShard, folder: PartFolder) -> PartReport:
    stream = io.BytesIO()
    units = range(shard.first, shard.stop) if named_task(shard.task).of_users else None
    counts = job.write_task(stream, shard.task, units, shard.first_number)
    return folder.write(shard.number, stream.getvalue(), counts.examples, asdict(counts))


def _counts(tasks: list[str], reports: list[PartReport]) -> dict[str, TaskCounts]:
    """The counts of all parts. Raises RefusedError if one of them shows a held-out event."""
    counts: dict[str, ExampleCounts] = {}
    for task, report in zip(tasks, reports, strict=True):
        counts[task] = counts.get(task, ExampleCounts()) + ExampleCounts(**report.counts)
    return task_counts(counts)
