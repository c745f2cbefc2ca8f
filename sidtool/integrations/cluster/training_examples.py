"""Training examples of the users of a split, made by several processes.

What a worker writes has a file for each task; the files of a task, one behind the other, are what a
single process writes of it, byte for byte."""

import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sidtool.base.digests import HashedFile, digest_strings
from sidtool.base.documents import sealed_text
from sidtool.base.errors import DataError, UsageError
from sidtool.base.progress import Progress
from sidtool.base.storage import Storage
from sidtool.data.split import TRAIN_FILE, Split, folder_manifest
from sidtool.data.tables import as_url
from sidtool.examples import (
    PARTS_LINEAGE,
    VALID,
    EventTotals,
    ExampleCounts,
    Lineage,
    SftInputs,
    SftJob,
    named_task,
)
from sidtool.integrations.cluster.example_shards import (
    TaskShard,
    open_counting,
    open_inputs,
    opener,
    share_catalog,
    task_file,
)
from sidtool.integrations.cluster.output import (
    RESTART,
    PartFolder,
    PartReport,
    part_folder,
    refuse_existing_folder,
    refuse_input,
    work_parts,
)
from sidtool.integrations.cluster.run import RunOptions, parts_in_order
from sidtool.integrations.cluster.shards import file_versions, row_count, table_urls
from sidtool.model.contract import model_folder, read_contract
from sidtool.registry import with_version
from sidtool.tokenizer.bundle import Bundle

JOINED = ".joined.jsonl"
"""The examples of all parts in a work folder."""
USERS = 20_000
"""Users of a shard, of a split that is not in parts."""


@dataclass(frozen=True)
class ClusterJob(SftJob):
    """A job whose examples workers have written. Of a split in parts it may hold one part."""

    folder: Path = Path()
    """A folder for each shard, with files named by tasks"""
    reports: Sequence[PartReport] = ()
    joined: str = ""
    """SHA-256 of the joined examples"""

    @cached_property
    def totals(self) -> EventTotals:
        """As the parent class, of a split in parts by the figures of each part."""
        parts = [EventTotals(**report.facts["totals"]) for report in self._parts]
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
    def _parts(self) -> list[PartReport]:
        """The reports of shards that are parts of the split."""
        return [report for report in self.reports if "totals" in report.facts]

    def write(self, path: Path | None) -> tuple[dict[str, ExampleCounts], str]:
        """As the parent class: move the joined examples to a path."""
        counts = {task: ExampleCounts() for task in self.options.tasks}
        for report in self.reports:
            for task, made in report.facts["tasks"].items():
                counts[task] += ExampleCounts(**made)
        if path is not None:
            (self.folder / JOINED).rename(path)
        return counts, self.joined

    def write_valid(self, path: Path) -> None:
        """As the parent class, from what workers wrote of a split in parts."""
        parts = self._parts
        if not parts:
            super().write_valid(path)
            return
        with path.open("wb") as stream:
            for report in parts:
                stream.writelines(_blocks(self.folder / report.name / VALID))


def _join(
    made: Generator[PartReport, None, None],
    shards: Sequence[TaskShard],
    tasks: Iterable[str],
    folder: PartFolder,
) -> tuple[list[PartReport], str]:
    """Join the examples, task by task, as soon as their parts are there -> the reports, and SHA-256
    (hex) of the file."""
    files = [
        (number, task)
        for task in tasks
        for number, shard in enumerate(shards)
        if task in shard.tasks
    ]
    root = Path(folder.url)
    reports: list[PartReport] = []
    n_joined = 0
    # after an error the traceback would keep the workers alive
    with closing(made), (root / JOINED).open("wb") as stream:
        hashed = HashedFile(stream)
        for report in made:
            reports.append(report)
            while n_joined < len(files) and files[n_joined][0] < len(reports):
                number, task = files[n_joined]
                for block in _blocks(root / reports[number].name / task_file(task)):
                    hashed.write(block)
                n_joined += 1
    return reports, hashed.digest


def _blocks(file: Path) -> Iterator[bytes]:
    """The bytes of a part. Raises DataError if it is lost."""
    if not file.exists():
        raise DataError(f"{file} is lost", hint=RESTART)
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block


@dataclass(frozen=True)
class ClusterExamples:
    """Makes the examples of a job by several processes; `make_sft` takes it as `writer`. They are
    joined to a file, or stay in parts.

    The process itself reads the manifest of a split in parts and one part, unless the lineage needs
    all events: the labels of feedback, weights, and the items of queries."""

    inputs: SftInputs
    run: RunOptions
    users: int = USERS
    threads: int = 1
    """Of each process."""

    def __post_init__(self) -> None:
        if not isinstance(self.inputs.bundle, Bundle):
            inputs = replace(self.inputs, bundle=with_version(str(self.inputs.bundle)))
            object.__setattr__(self, "inputs", inputs)
        options = self.inputs.options
        fractions = [task for task, weight in options.tasks.items() if weight != int(weight)]
        if fractions or options.max_tokens:
            raise UsageError(
                "workers make whole copies of examples: a fraction or a token budget is drawn from "
                "the examples of all users",
                hint="whole weights, or a file without --engine",
            )

    @contextmanager
    def opened(self, out: Path, progress: Progress | None) -> Iterator[ClusterJob]:
        """The job of an output, all of whose examples are in a work folder beside it until the
        block ends well.

        Raises UsageError if the interrupted run that is to be resumed had other inputs."""
        run, job, folders, made_from = self._open(progress)
        with work_parts(out.with_name(f"{out.name}.parts"), made_from, resume=run.resume) as folder:
            worker_inputs = share_catalog(self.inputs, job, folder)
            if folders:
                shards = list(self._folder_shards(job, folders, worker_inputs, folder, run))
            else:
                shards = list(_user_shards(job, self.users))
            work = partial(open_inputs, worker_inputs, self.threads)
            made = parts_in_order(work, shards, folder, run)
            reports, digest = _join(made, shards, job.options.tasks, folder)
            yield replace(_checked_job(job, folder, reports), joined=digest)

    def write_parts(self, out: str, progress: Progress | None, *, force: bool) -> Lineage:
        """Write the examples of a split in parts to a folder of parts, at a path or URL: those of
        the users of a part, and their share of the examples that are not of users.

        Raises UsageError if the output exists without `force`."""
        refuse_existing_folder(out, force=force)
        inputs = self.inputs
        queries = None if inputs.catalog_options is None else inputs.catalog_options.queries
        for location in (inputs.split, inputs.items, inputs.bundle, inputs.model, queries):
            if isinstance(location, str | Path):
                refuse_input(out, as_url(location))
        run, job, folders, made_from = self._open(progress)
        with part_folder(out, made_from, resume=run.resume, force=force) as folder:
            worker_inputs = share_catalog(inputs, job, folder)
            shards = list(self._folder_shards(job, folders, worker_inputs, folder, run))
            work = partial(open_inputs, worker_inputs, self.threads, len(folders))
            cluster_job = _checked_job(job, folder, list(parts_in_order(work, shards, folder, run)))
            files: dict[str, str] = {}
            parts: list[dict[str, int]] = [{} for _ in folders]
            users_part = 0
            for report in cluster_job.reports:
                files |= report.facts["files"]
                has_users = "totals" in report.facts
                for number, pieces in enumerate(report.facts["parts"], users_part * has_users):
                    parts[number] |= pieces
                users_part += has_users
            for name in sorted(files.keys() - Storage(folder.url).listing().keys()):
                raise DataError(f"{folder.url}/{name} is lost", hint=RESTART)
            lineage = cluster_job.lineage(cluster_job.write(None)[0], files)
            lineage = replace(lineage, parts=tuple(part for part in parts if part))
            folder.finish(sealed_text(lineage.to_json()), PARTS_LINEAGE)
        return lineage

    def _open(
        self, progress: Progress | None
    ) -> tuple[RunOptions, SftJob, list[str], Mapping[str, Any]]:
        """How to run, a job with the split or one part of it, the folders of a split in parts, and
        what determines the examples."""
        inputs = self.inputs
        run = replace(self.run, progress=self.run.progress or progress)
        folders: list[str] = []
        files: Mapping[str, str] = {}
        if not isinstance(inputs.split, Split):
            manifest = folder_manifest(Path(inputs.split))
            if manifest is None:  # a table of events
                files = file_versions(table_urls(as_url(inputs.split)))
            else:
                files = manifest.files
                folders = manifest.folders if manifest.parts > 1 else []
        tasks = [named_task(task) for task in inputs.options.tasks]
        # whether the lineage follows from the events of all users
        needs_all = inputs.weights is not None or any(
            task.target == "feedback" or task.needs_queries for task in tasks
        )
        job = opener(inputs)("" if needs_all or not folders else folders[0])
        job.check_catalog()
        if job.split.origin.whole is None:  # else events are counted while examples are made
            job.check_events()
        queries = None if inputs.catalog_options is None else inputs.catalog_options.queries
        contract = None if inputs.model is None else read_contract(model_folder(inputs.model))
        cells = job.items.fields  # not in the digest of the items
        made_from = {
            "command": "make-sft",
            "bundle": job.bundle.identity.digest,
            "catalog": digest_strings([job.items.digest, *cells], *cells.values()),
            "queries": {} if queries is None else file_versions(table_urls(as_url(queries))),
            "split": job.split.reference.digest,
            "files": digest_strings(files.keys(), files.values()),
            "options": _settings(replace(job.options, allow_unknown=False)),  # changes no example
            "catalog_options": _settings(inputs.catalog_options),
            "weights": _settings(inputs.weights),
            "model": "" if contract is None else digest_strings([json.dumps(contract.to_json())]),
            "tokenizer": repr(inputs.tokenizer),
            "users": self.users,
        }
        return run, job, folders, made_from

    def _folder_shards(
        self,
        job: SftJob,
        folders: Sequence[str],
        worker_inputs: SftInputs,
        folder: PartFolder,
        run: RunOptions,
    ) -> Iterator[TaskShard]:
        """The shards of a split in parts: each task that is not of users, then each part, which
        has validation users even if no task is of users."""
        tasks = tuple(task for task in job.options.tasks if named_task(task).of_users)
        for task in job.options.tasks:
            if task not in tasks:
                yield TaskShard((task,), "" if named_task(task).needs_queries else folders[0])
        # how many examples a part has is known without its events, but for few tasks
        by_events = [task for task in tasks if job.maker.counts_events(task, job.split)]
        part_counts: list[Mapping[str, int]] = [{}] * len(folders)
        if by_events:
            count = partial(open_counting, worker_inputs, by_events)
            numbers = parts_in_order(count, folders, folder.subfolder(".numbers"), run)
            part_counts = [report.counts for report in numbers]
        before = dict.fromkeys(tasks, 0)
        for name, events in zip(folders, part_counts, strict=True):
            yield TaskShard(tasks, name, first_numbers=tuple(before.values()))
            n_users = row_count(f"{worker_inputs.split}/{name}/{TRAIN_FILE}") if tasks else 0
            for task in tasks:
                per_user = n_users if named_task(task).of_whole_histories else 0
                before[task] += events.get(task, per_user)


def _checked_job(job: SftJob, folder: PartFolder, reports: Sequence[PartReport]) -> ClusterJob:
    """The job of what workers wrote. Raises RefusedError if it has one part of the split, and too
    many events of all parts are of unknown items."""
    values = {entry.name: getattr(job, entry.name) for entry in fields(SftJob)} | {"general": None}
    cluster_job = ClusterJob(**values, folder=Path(folder.url), reports=reports)
    if job.split.origin.whole is not None:
        cluster_job.check_events()
    return cluster_job


def _settings(record: Any) -> str:
    """The fields of a record as a text that is the same in every process."""
    if record is None:
        return ""

    def plain(value: Any) -> Any:
        return sorted(value) if isinstance(value, frozenset) else str(value)

    return json.dumps(asdict(record), default=plain, sort_keys=True)


def _user_shards(job: SftJob, users: int) -> Iterator[TaskShard]:
    """The shards of a split that is not in parts, task by task, in the order of a single
    process."""
    for task in job.options.tasks:
        if not named_task(task).of_users:
            yield TaskShard((task,))
            continue
        by_user = job.split.windows is None or named_task(task).of_whole_histories
        n_units = len(job.split.train if by_user else job.split.windows or ())
        for first in range(0, n_units, users):
            first_number = job.maker.count_before(task, job.split, first)
            units = range(first, min(first + users, n_units))
            yield TaskShard((task,), units=units, first_numbers=(first_number,))
