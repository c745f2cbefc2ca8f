"""Training examples of the users of a split, made by several processes.

A worker reads the split as far as it needs it: of one in parts, one part at a time. What a worker
writes has a file for each task; the files of a task, one behind the other, are what a single
process writes of it, byte for byte."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sidtool.base.digests import digest_strings
from sidtool.base.errors import DataError, UsageError
from sidtool.base.output import locked, remove
from sidtool.base.progress import Progress
from sidtool.base.work_folder import open_work_folder
from sidtool.data.split import TRAIN_FILE, Split, is_split_folder, read_split, stored_manifest
from sidtool.examples import (
    EventTotals,
    EventWeights,
    ExampleCounts,
    SftInputs,
    SftJob,
    TaskCounts,
    named_task,
    task_counts,
)
from sidtool.integrations.ray.output import RESTART, PartFolder, PartReport
from sidtool.integrations.ray.run import RunOptions, make_parts
from sidtool.integrations.ray.shards import file_versions, row_count, table_urls
from sidtool.model.contract import model_folder, read_contract

USERS = 20_000
"""Users of a shard, of a split that is not in parts."""
VALID = "valid.jsonl"
"""The validation users of a shard."""


@dataclass(frozen=True)
class TaskShard:
    """The examples of tasks for some users; all of a task that is not of users."""

    number: int
    tasks: tuple[str, ...]
    folder: str = ""
    """The folder of a split in parts that has the users, all of whom are meant; "" for the whole
    split"""
    first: int = 0
    stop: int = 1
    first_numbers: tuple[int, ...] = (0,)
    """Of each task, as `SftJob.write_task`"""

    @property
    def is_part(self) -> bool:
        """Whether the users are those of a folder."""
        return bool(self.folder) and named_task(self.tasks[0]).of_users


@dataclass(frozen=True)
class NumberedFolder:
    """A folder of a split in parts."""

    number: int
    folder: str


@dataclass(frozen=True)
class ClusterJob(SftJob):
    """A job whose examples workers have written. Of a split in parts it may hold one part."""

    folder: Path = Path()
    """A folder for each shard, with files named by tasks"""
    shards: Sequence[TaskShard] = ()
    reports: Sequence[PartReport] = ()

    @cached_property
    def totals(self) -> EventTotals:
        """As the parent class; of the parts of a split, their sums."""
        parts = [EventTotals(**report.facts["totals"]) for _, report in self._parts]
        if not parts:
            return super().totals
        unknown = dict.fromkeys(item for part in parts for item in part.unknown_items)
        return EventTotals(
            sum(part.n_events for part in parts),
            sum(part.n_dropped for part in parts),
            list(unknown),
            sum(part.n_valid for part in parts),
        )

    @property
    def _parts(self) -> list[tuple[TaskShard, PartReport]]:
        """The shards that are parts of the split."""
        shards = zip(self.shards, self.reports, strict=True)
        return [(shard, report) for shard, report in shards if shard.is_part]

    def write(self, path: Path | None) -> dict[str, TaskCounts]:
        """Join the examples that workers wrote -> their counts by task. Raises as the parent
        class."""
        counts: dict[str, ExampleCounts] = {}
        files = []
        for task in self.options.tasks:
            counts[task] = ExampleCounts()
            for shard, report in zip(self.shards, self.reports, strict=True):
                if task in shard.tasks:
                    counts[task] += ExampleCounts(**report.facts["tasks"][task])
                    files.append(self.folder / report.name / task)
        if path is not None:
            _join(files, path)
        return task_counts(counts)

    def write_valid(self, path: Path) -> None:
        """As the parent class, from what workers wrote of a split in parts."""
        parts = self._parts
        if parts:
            _join([self.folder / report.name / VALID for _, report in parts], path)
        else:
            super().write_valid(path)


def _join(files: Sequence[Path], path: Path) -> None:
    """Write files one behind the other. Raises DataError for one that is lost."""
    with path.open("wb") as stream:
        for file in files:
            if not file.exists():
                raise DataError(f"{file} is lost", hint=RESTART)
            with file.open("rb") as part:
                shutil.copyfileobj(part, stream, 1 << 20)


@dataclass(frozen=True)
class ClusterExamples:
    """Makes the examples of a job by several processes; `make_sft` takes it as `writer`.

    The process itself reads the manifest of a split in parts and one part, unless the lineage needs
    all events: the labels of feedback, weights, and the items of queries."""

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

    @contextmanager
    def opened(self, out: Path, progress: Progress | None) -> Iterator[ClusterJob]:
        """The job of an output, all of whose examples are in a work folder beside it until the
        block ends well.

        Raises UsageError if the interrupted run that is to be resumed had other inputs."""
        inputs = self.inputs
        run = replace(self.run, progress=self.run.progress or progress)
        folders = _folders(inputs.split)
        job = _job_of(inputs, "" if self._needs_all or not folders else folders[0], None)
        with locked(out.with_name(f"{out.name}.parts")) as work:
            if not run.resume:
                remove(work)
            open_work_folder(work, self._made_from(job), restart=RESTART)
            folder = PartFolder(str(work.absolute()))
            shards = list(
                self._folder_shards(job, folders, folder, run)
                if folders
                else task_shards(job, self.users)
            )
            reports = make_parts(partial(_open_inputs, inputs, folder), shards, folder, run)
            yield ClusterJob(
                bundle=job.bundle,
                items=job.items,
                split=job.split,
                options=job.options,
                maker=job.maker,
                weights=job.weights,
                general=None,
                progress=progress,
                folder=work,
                shards=shards,
                reports=reports,
            )
            remove(work)

    @property
    def _needs_all(self) -> bool:
        """Whether the lineage follows from the events of all users."""
        tasks = map(named_task, self.inputs.options.tasks)
        by_tasks = any(task.predicts_feedback or task.needs_queries for task in tasks)
        return by_tasks or self.inputs.weights is not None

    def _made_from(self, job: SftJob) -> dict[str, Any]:
        """What determines the examples, as JSON values."""
        inputs = self.inputs
        files: Mapping[str, str] = {}
        if _folders(inputs.split):
            files = stored_manifest(Path(str(inputs.split))).files
        queries = None if inputs.catalog_options is None else inputs.catalog_options.queries
        contract = None if inputs.model is None else read_contract(model_folder(inputs.model))
        return {
            "command": "make-sft",
            "bundle": job.bundle.identity.digest,
            "catalog": job.items.digest,
            "queries": {} if queries is None else file_versions(table_urls(str(queries))),
            "split": job.split.reference.digest,
            "files": digest_strings(files.keys(), files.values()),
            "options": _settings(job.options),
            "catalog_options": _settings(inputs.catalog_options),
            "weights": _settings(inputs.weights),
            "model": "" if contract is None else digest_strings([json.dumps(contract.to_json())]),
            "tokenizer": repr(inputs.tokenizer),
            "users": self.users,
        }

    def _folder_shards(
        self, job: SftJob, folders: Sequence[str], folder: PartFolder, run: RunOptions
    ) -> Iterator[TaskShard]:
        """The shards of a split in parts: each task that is not of users, then each part."""
        inputs = self.inputs
        tasks = tuple(task for task in job.options.tasks if named_task(task).of_users)
        others = [task for task in job.options.tasks if task not in tasks]
        for number, task in enumerate(others):
            place = "" if named_task(task).needs_queries else folders[0]
            yield TaskShard(number, (task,), place)
        # how many examples a part has is known without its events, but for few tasks
        by_events = [task for task in tasks if job.maker.counts_events(task, job.split)]
        of_events: list[Mapping[str, int]] = [{}] * len(folders)
        if by_events:
            numbers = folder.subfolder("numbers")
            numbered = [NumberedFolder(number, name) for number, name in enumerate(folders)]
            count = partial(_open_counting, inputs, tuple(by_events), numbers)
            of_events = [report.counts for report in make_parts(count, numbered, numbers, run)]
        before = dict.fromkeys(tasks, 0)
        for number, (name, events) in enumerate(zip(folders, of_events, strict=True), len(others)):
            if tasks:
                first_numbers = tuple(before.values())
                yield TaskShard(number, tasks, name, first_numbers=first_numbers)
            users = row_count(f"{inputs.split}/{name}/{TRAIN_FILE}")
            for task in tasks:
                per_user = users if named_task(task).of_whole_histories else 0
                before[task] += events.get(task, per_user)


def _settings(record: Any) -> str:
    """The fields of a record as a text that is the same in every process."""
    if record is None:
        return ""

    def plain(value: Any) -> Any:
        return sorted(value) if isinstance(value, frozenset) else str(value)

    return json.dumps(asdict(record), default=plain, sort_keys=True)


def task_shards(job: SftJob, users: int) -> Iterator[TaskShard]:
    """The shards of a job, task by task, in the order of a single process."""
    number = 0
    for task in job.options.tasks:
        if not named_task(task).of_users:
            yield TaskShard(number, (task,))
            number += 1
            continue
        n_units = _units(task, job.split)
        for first in range(0, n_units, users):
            first_number = job.maker.count_before(task, job.split, first)
            stop = min(first + users, n_units)
            yield TaskShard(number, (task,), "", first, stop, (first_number,))
            number += 1


def _units(task: str, split: Split) -> int:
    """What a task of users is divided by: windows, if its examples are made of such, or users."""
    by_user = split.windows is None or named_task(task).of_whole_histories
    return len(split.train if by_user else split.windows or ())


def _folders(split: Split | str | Path) -> list[str]:
    """The folders of a split in parts; none for others."""
    if isinstance(split, Split) or not is_split_folder(Path(split)):
        return []
    manifest = stored_manifest(Path(split))
    return list(manifest.folders) if manifest.parts > 1 else []


def _open_counting(
    inputs: SftInputs, tasks: tuple[str, ...], numbers: PartFolder
) -> Callable[[NumberedFolder], PartReport]:
    """Read bundle and catalog, to count the examples of parts."""
    opened: list[SftJob] = []

    def count(part: NumberedFolder) -> PartReport:
        job = _job_of(inputs, part.folder, opened.pop() if opened else None)
        opened.append(job)
        users = len(job.split.train)
        counts = {task: job.maker.count_before(task, job.split, users) for task in tasks}
        return numbers.write(part.number, b"", 0, counts)

    return count


def _open_inputs(inputs: SftInputs, folder: PartFolder) -> Callable[[TaskShard], PartReport]:
    """Read bundle and catalog, to make the examples of shards, and the split as far as a shard
    needs it."""
    opened: dict[str, SftJob] = {}

    def write(shard: TaskShard) -> PartReport:
        if shard.folder not in opened:
            job = next(iter(opened.values()), None)
            opened.clear()  # one part is in memory at a time
            opened[shard.folder] = _job_of(inputs, shard.folder, job)
        return _write_shard(opened[shard.folder], shard, folder)

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


def _write_shard(job: SftJob, shard: TaskShard, folder: PartFolder) -> PartReport:
    """Write a file for each task of a shard, and the validation users of a part."""
    name = f"part-{shard.number:07d}"
    facts: dict[str, Any] = {"tasks": {}}
    with TemporaryDirectory(prefix="sidtool-") as place:
        for task, first_number in zip(shard.tasks, shard.first_numbers, strict=True):
            units = None
            if named_task(task).of_users:
                stop = _units(task, job.split) if shard.is_part else shard.stop
                units = range(shard.first, stop)
            path = Path(place) / task
            with path.open("wb") as stream:
                counts = job.write_task(stream, task, units, first_number)
            facts["tasks"][task] = asdict(counts)
            folder.put_file(f"{name}/{task}", path)
        if shard.is_part:
            facts["totals"] = asdict(job.totals)
            job.write_valid(Path(place) / VALID)
            folder.put_file(f"{name}/{VALID}", Path(place) / VALID)
    n_examples = sum(counts["examples"] for counts in facts["tasks"].values())
    return folder.record(shard.number, PartReport(name, n_examples, "", {}, "", facts))
