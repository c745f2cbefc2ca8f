"""The shards of training examples, and what a worker makes of one: a file for each task. It reads
the split as far as the shard needs it: of one in parts, one part at a time."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from sidtool.base.digests import file_digest
from sidtool.data import Items, Texts
from sidtool.data.split import read_split
from sidtool.examples import VALID, ExampleCounts, SftInputs, SftJob, named_task
from sidtool.integrations.cluster.output import PartFolder, PartReport, part_name, temporary_folder
from sidtool.integrations.cluster.run import Work
from sidtool.integrations.cluster.shards import local_file

CATALOG = ".catalog.arrow"
"""The catalog, while examples are made."""
FIELD = "field "
"""What a column of it is called, before its name."""


@dataclass(frozen=True)
class TaskShard:
    """The examples of tasks for some users, perhaps of none; all of a task that is not of
    users."""

    tasks: tuple[str, ...]
    folder: str = ""
    """The folder of a split in parts that has the users, all of whom are meant; "" for the whole
    split"""
    units: range | None = None
    """Some users of the whole split, or windows; as `SftJob.write_task`"""
    first_numbers: tuple[int, ...] = (0,)
    """Of each task, as `SftJob.write_task`"""


def share_catalog(inputs: SftInputs, job: SftJob, folder: PartFolder) -> SftInputs:
    """Write a job's catalog into `folder`. Returns the inputs of workers, which map that file."""
    items = job.items
    columns = {"id": items.ids, "title": items.titles}
    columns |= {f"{FIELD}{name}": cells for name, cells in items.fields.items()}
    texts = {
        name: column if isinstance(column, Texts) else Texts.packed(column)
        for name, column in columns.items()
    }
    with temporary_folder() as local_folder:
        path = local_folder / CATALOG
        Texts.write_columns(path, texts)
        folder.put(CATALOG, path)
    return replace(inputs, items=f"{folder.url}/{CATALOG}", options=job.options)


def _with_catalog(inputs: SftInputs) -> SftInputs:
    """The inputs of a worker with the catalog of its file, and the queries."""
    with local_file(str(inputs.items)) as path:
        columns = Texts.map_columns(path)
    ids, titles = columns.pop("id"), columns.pop("title")
    fields = {name.removeprefix(FIELD): cells for name, cells in columns.items()}
    items = Items(ids, titles, ids, fields, text_template="", digest="")
    queries = inputs.queries
    if inputs.catalog_options is not None:
        queries = queries or inputs.catalog_options.queries_of(items)
    return replace(inputs, items=items, queries=queries, catalog_options=None)


def opener(inputs: SftInputs, threads: int = 1) -> Callable[[str], SftJob]:
    """Opens the job for the users in a folder of the split, or for all (""); its threads divide
    the work."""
    opened: dict[str, SftJob] = {}

    def open_job(folder: str) -> SftJob:
        if folder in opened:
            return opened[folder]
        before = next(iter(opened.values()), None)
        opened.clear()  # one part is in memory at a time
        if not folder:
            job = inputs.open(threads=threads)
        else:
            split = read_split(Path(str(inputs.split)), folder)
            if before is None:
                job = replace(inputs, split=split).open(threads=threads)
            else:
                job = inputs.with_split(before, split)
        opened[folder] = job
        return job

    return open_job


def open_counting(inputs: SftInputs, tasks: Sequence[str]) -> Work[str]:
    """Read the bundle, map the catalog, to count the examples of the users in folders."""
    open_job = opener(_with_catalog(inputs))

    def count(number: int, folder: str, place: Path) -> PartReport:
        job = open_job(folder)
        users = len(job.split.train)
        name = part_name(number)
        (place / name).touch()
        counts = {task: job.maker.count_before(task, job.split, users) for task in tasks}
        return PartReport(name, users, counts=counts)

    return count


def open_inputs(inputs: SftInputs, threads: int = 1, n_parts: int = 0) -> Work[TaskShard]:
    """Read the bundle, map the catalog, to make the examples of shards, and the split as far as a
    shard needs it. Of examples that stay in parts, the number of parts."""
    open_job = opener(_with_catalog(inputs), threads)

    def write(number: int, shard: TaskShard, place: Path) -> PartReport:
        return _write_shard(open_job(shard.folder), shard, place / f"part-{number:07d}", n_parts)

    return write


def task_file(task: str) -> str:
    """The name of the file of a task; the name of its column may have slashes."""
    return f"{task.replace('/', '%2F')}.jsonl"


def _write_shard(job: SftJob, shard: TaskShard, folder: Path, n_parts: int) -> PartReport:
    """Write a file for each task of a shard, and the validation users of a part; of examples that
    stay in parts, one for each part if they are not of users."""
    folder.mkdir()
    counts: dict[str, ExampleCounts] = {}
    is_user_part = bool(shard.folder) and all(named_task(task).of_users for task in shard.tasks)
    parts: list[dict[str, int]] = [{} for _ in range(1 if is_user_part else n_parts)]
    for task, first_number in zip(shard.tasks, shard.first_numbers, strict=True):
        path = folder / task_file(task)
        with path.open("wb") as stream:
            counts[task] = job.write_task(stream, task, shard.units, first_number)
        if n_parts:
            _divide(path, counts[task].examples, parts)
    facts: dict[str, Any] = {"tasks": {task: asdict(count) for task, count in counts.items()}}
    if is_user_part:
        facts["totals"] = asdict(job.totals)
        job.write_valid(folder / VALID)
    if n_parts:
        paths = sorted(folder.iterdir())
        facts["files"] = {f"{folder.name}/{path.name}": file_digest(path) for path in paths}
        facts["parts"] = parts
    return PartReport(folder.name, sum(count.examples for count in counts.values()), facts=facts)


def _divide(path: Path, n_lines: int, parts: Sequence[dict[str, int]]) -> None:
    """Divide a file among parts by its lines, and note the file of each part and its lines."""
    with path.open("rb") as stream:
        for number, part in enumerate(parts):
            size = (number + 1) * n_lines // len(parts) - number * n_lines // len(parts)
            if size and len(parts) > 1:
                piece = path.with_name(f"{path.stem}-{number:07d}{path.suffix}")
                piece.write_bytes(b"".join(islice(stream, size)))
                part[f"{path.parent.name}/{piece.name}"] = size
            elif size:
                part[f"{path.parent.name}/{path.name}"] = size
    if len(parts) > 1:
        path.unlink()
