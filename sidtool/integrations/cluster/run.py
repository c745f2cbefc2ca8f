"""A run: shards become the parts of a folder, those of a folder of Parquet with one lineage."""

import json
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sidtool.base.errors import without_credentials
from sidtool.base.options import option
from sidtool.base.progress import Progress
from sidtool.base.threads import release_memory
from sidtool.integrations.cluster.engines import WorkerOptions, run_job
from sidtool.integrations.cluster.output import (
    PartFolder,
    PartReport,
    part_folder,
    refuse_existing_folder,
    refuse_input,
    temporary_folder,
)
from sidtool.integrations.cluster.shards import (
    ROWS,
    Shard,
    file_versions,
    list_shards,
    parquet_urls,
)

LINEAGE_FORMAT = 1

AnyShard = TypeVar("AnyShard")

Work = Callable[[int, AnyShard, Path], PartReport]
"""Makes the part of a shard, given with its number, in an empty local folder."""


@dataclass(frozen=True)
class RunOptions(WorkerOptions):
    """How the parts of an output are made. None of it changes a part."""

    resume: bool = option(False)
    """Keep the parts that an interrupted run finished."""
    force: bool = option(False)
    """Replace an existing output."""
    dry_run: bool = option(False)
    """Print the plan; write nothing."""
    progress: Progress | None = None


@dataclass(frozen=True)
class RunReport:
    """What a run made."""

    rows: int
    counts: Mapping[str, int]
    """The sums of what the parts count."""
    parts: tuple[PartReport, ...]


def run_over_folder(
    open_work: Callable[[], Work[Shard]],
    source: str,
    out: str,
    made_from: Mapping[str, Any],
    options: RunOptions,
    *,
    shard_rows: int = ROWS,
) -> RunReport:
    """Make a part of every shard of a folder of Parquet, and write `made_from` and the parts'
    digests as the lineage. Each worker calls `open_work` once.

    Raises what the work raises, UsageError if the output exists or would replace the source,
    DataError if the source holds no rows."""
    refuse_input(out, source)
    versions = file_versions(parquet_urls(source))
    shards = list_shards(source, shard_rows)
    rows = sum(shard.rows for shard in shards)
    inputs = {
        **made_from,
        "source": without_credentials(source),
        "rows": rows,
        "shard_rows": shard_rows,
    }
    fingerprint = {**inputs, "source_files": versions}
    if options.dry_run:
        refuse_existing_folder(out, force=options.force)
        return RunReport(rows, {}, ())
    with part_folder(out, fingerprint, resume=options.resume, force=options.force) as folder:
        parts = tuple(parts_in_order(open_work, shards, folder, options))
        counts = Counter[str]()
        for part in parts:
            counts.update(part.counts)
        lineage = {
            "format": LINEAGE_FORMAT,
            **inputs,
            "counts": counts,
            "files": {part.name: part.digest for part in parts},
        }
        folder.finish(json.dumps(lineage, indent=1, ensure_ascii=False) + "\n")
    return RunReport(sum(part.rows for part in parts), dict(counts), parts)


def parts_in_order(
    open_work: Callable[[], Work[AnyShard]],
    shards: Sequence[AnyShard],
    folder: PartFolder,
    options: RunOptions,
) -> Generator[PartReport, None, None]:
    """Make the part of every shard that has none -> the reports in the order of the shards, each as
    soon as the parts up to it are there. Closing it ends the workers."""
    reports = [folder.report(number) for number in range(len(shards))]
    missing = [(number, shards[number]) for number, report in enumerate(reports) if report is None]
    n_done = len(shards) - len(missing)
    n_given = 0
    for index, made in run_job(partial(_open_adding, open_work, folder), missing, options):
        reports[missing[index][0]] = made
        n_done += 1
        if options.progress is not None:
            options.progress(n_done, len(shards))
        while n_given < len(reports) and (report := reports[n_given]) is not None:
            n_given += 1
            yield report
    yield from (report for report in reports[n_given:] if report is not None)


def _open_adding(
    open_work: Callable[[], Work[AnyShard]], folder: PartFolder
) -> Callable[[tuple[int, AnyShard]], PartReport]:
    """What a worker does with a shard and its number: make the part, add it to the folder."""
    work = open_work()

    def add(numbered: tuple[int, AnyShard]) -> PartReport:
        number, shard = numbered
        with temporary_folder() as place:
            report = work(number, shard, place)
            folder.add(number, report, place)
        release_memory()  # else it grows with the shards
        return report

    return add
