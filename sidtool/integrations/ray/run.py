"""A run: the shards of a folder become the parts of another, with one lineage."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from sidtool.base.options import option
from sidtool.base.progress import Progress
from sidtool.integrations.ray.output import (
    PartFolder,
    PartReport,
    part_folder,
    refuse_existing_folder,
    refuse_inputs,
)
from sidtool.integrations.ray.shards import ROWS, Shard, file_versions, list_shards, parquet_urls
from sidtool.integrations.ray.workers import Job, WorkerOptions, run_job

LINEAGE_FORMAT = 1


class Numbered(Protocol):
    """A shard, of whatever."""

    @property
    def number(self) -> int:
        """Its number, which names its part."""


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

    @property
    def notes(self) -> list[str]:
        """The notes of the parts that have one."""
        return [part.note for part in self.parts if part.note]


def run_over_folder(
    open_work: Callable[[PartFolder], Callable[[Shard], PartReport]],
    source: str,
    out: str,
    made_from: Mapping[str, Any],
    options: RunOptions,
    *,
    shard_rows: int = ROWS,
) -> RunReport:
    """Make a part of every shard of a folder of Parquet, and write `made_from` and the parts'
    digests as the lineage. Each worker calls `open_work` once, with the output's folder, for the
    work on one shard.

    Raises what the work raises, UsageError if the output exists or would replace the source,
    DataError if the source holds no rows."""
    refuse_inputs(out, source)
    versions = file_versions(parquet_urls(source))
    shards = list_shards(source, shard_rows)
    rows = sum(shard.rows for shard in shards)
    inputs = {**made_from, "source": source, "rows": rows, "shard_rows": shard_rows}
    fingerprint = {**inputs, "source_files": versions}
    if options.dry_run:
        refuse_existing_folder(out, force=options.force)
        return RunReport(rows, {}, ())
    with part_folder(out, fingerprint, resume=options.resume, force=options.force) as folder:
        parts = make_parts(partial(open_work, folder), shards, folder, options)
        report = report_of(parts)
        lineage = {
            "format": LINEAGE_FORMAT,
            **inputs,
            "counts": report.counts,
            "files": {part.name: part.digest for part in parts},
        }
        folder.finish(json.dumps(lineage, indent=1, ensure_ascii=False) + "\n")
    return report


def make_parts(
    job: Job[Any, PartReport], shards: Sequence[Numbered], folder: PartFolder, options: RunOptions
) -> list[PartReport]:
    """Make the part of every shard that has none -> the reports in the order of the shards."""
    reports = [folder.report(shard.number) for shard in shards]
    missing = [index for index, report in enumerate(reports) if report is None]
    done = len(shards) - len(missing)
    for place, report in run_job(job, [shards[index] for index in missing], options):
        reports[missing[place]] = report
        done += 1
        if options.progress is not None:
            options.progress(done, len(shards))
    return [report for report in reports if report is not None]


def report_of(parts: list[PartReport]) -> RunReport:
    """The sums of reports."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    return RunReport(sum(part.rows for part in parts), dict(counts), tuple(parts))
