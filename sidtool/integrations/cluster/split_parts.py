"""A split in parts, made by several processes: first the rows of each file are grouped by the parts
of their users, then the rows of each part are split."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.documents import sealed_text
from sidtool.base.errors import DataError, UsageError, without_credentials
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import option, options_from
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.data import EventColumns
from sidtool.data.split import BUCKETS, MANIFEST, SplitManifest, SplitOptions, folder_name
from sidtool.data.split.parts import (
    GroupedRows,
    PartPlan,
    SplitPart,
    check_orders,
    empty_part,
    gather_rows,
    group_rows,
    joined_manifest,
    split_part,
)
from sidtool.data.tables import as_url
from sidtool.integrations.cluster.output import PartFolder, PartReport, part_folder
from sidtool.integrations.cluster.run import RunOptions, Work, parts_in_order
from sidtool.integrations.cluster.shards import (
    count_events,
    errors_at,
    file_versions,
    local_file,
    part_count,
    table_urls,
)

GROUPED = ".grouped"
"""The folder of grouped rows, while the split is made."""


@dataclass(frozen=True)
class PartOptions(RunOptions):
    """In how many parts a split is made."""

    parts: int | None = option(None, minimum=2, maximum=BUCKETS, panel="Workers")
    """Parts that users are divided into, each made alone and stored in files of its own. Default:
    one for each 524,288 events with --engine ray, from 8 to 1,024, else the files are those of all
    users."""

    @property
    def is_divided(self) -> bool:
        """Whether users are divided into parts."""
        return self.parts is not None or self.on_cluster


@keeps_inputs("a split")
def split_in_parts(
    events: str | Path,
    out: str | Path,
    options: SplitOptions | None = None,
    *,
    run: PartOptions | None = None,
    **keywords: Any,
) -> SplitManifest:
    """Split events into a folder that has files of its own for each of several parts of the users.
    The options may also be given as keywords.

    `events` is a folder of Parquet, a pattern such as `events/*.csv`, or a file, at any fsspec URL.
    The digests of the split are those of `split_events`, and the files the same for any engine and
    number of workers. An interrupted run is resumed from the files and parts that are finished.

    Raises UsageError if the output exists, for options that need the events of all users and for a
    dry run, and as `split_events` does.

    Examples:
        >>> run = sidtool.PartOptions(parts=4)
        >>> sidtool.split_in_parts("events.csv", "in-parts", run=run).counts.test
        40
    """
    events, run = as_url(events), run or PartOptions()
    if run.dry_run:
        raise UsageError("--dry-run counts in one process: leave out --engine and --parts")
    refuse_existing(Path(out), run.force, FOLDER)
    urls = table_urls(events)
    n_parts = run.parts or part_count(count_events(urls))
    plan = PartPlan(options_from(SplitOptions, options, keywords), n_parts)
    versions = file_versions(urls)
    with local_file(urls[0]) as path:
        columns = plan.columns_of(path)
    fingerprint = {
        "command": "split",
        "layout": 2,  # reports are numbered by the parts that have events
        "source": without_credentials(events),
        "source_files": versions,
        "options": repr(plan.options),
        "parts": plan.parts,
    }
    with part_folder(str(out), fingerprint, resume=run.resume, force=run.force) as folder:
        files, part_rows = _grouped(plan, columns, events, urls, folder, run)
        user_parts = [(part, n_rows) for part, n_rows in enumerate(part_rows) if n_rows]
        work = partial(_open_split, plan, columns, events, files)
        parts = [empty_part(plan, number) for number in range(plan.parts)]
        reports = parts_in_order(work, user_parts, folder, run)
        for (number, _), report in zip(user_parts, reports, strict=True):
            parts[number] = SplitPart.from_json(report.facts)
        manifest = joined_manifest(plan, columns, parts)
        folder.finish(sealed_text(manifest.to_json()), MANIFEST)
    return manifest


def _grouped(
    plan: PartPlan,
    columns: EventColumns,
    source: str,
    urls: Sequence[str],
    folder: PartFolder,
    run: RunOptions,
) -> tuple[list[Path], list[int]]:
    """Group the rows of each file -> files of grouped rows, and how many each part has. Raises
    DataError without any."""
    grouped = folder.subfolder(GROUPED)
    reports = list(parts_in_order(partial(_open_grouping, plan, columns), urls, grouped, run))
    by_file = [GroupedRows.from_json(report.facts) for report in reports]
    check_orders(source, list(zip(urls, by_file, strict=True)))
    part_rows = np.sum([file_rows.counts for file_rows in by_file], axis=0).tolist()
    if not any(part_rows):
        raise DataError(f"{source} holds no events")
    return [Path(grouped.url) / report.name for report in reports], part_rows


def _open_grouping(plan: PartPlan, columns: EventColumns) -> Work[str]:
    def group(number: int, url: str, place: Path) -> PartReport:
        name = f"{number:07d}.arrow"
        with local_file(url) as path:
            grouped = group_rows(plan, columns, path, place / name)
        return PartReport(name, sum(grouped.counts), facts=grouped.to_json())

    return group


def _open_split(
    plan: PartPlan, columns: EventColumns, source: str, grouped: Sequence[Path]
) -> Work[tuple[int, int]]:
    def split(_: int, part: tuple[int, int], place: Path) -> PartReport:
        number, n_rows = part
        rows = place / "rows.parquet"
        gather_rows(grouped, number, plan.parts, rows)
        files = place / folder_name(number)
        files.mkdir()
        with errors_at(rows, f"part {number} of {plan.parts} of {source}"):
            made = split_part(plan, columns, number, rows, files)
        return PartReport(files.name, n_rows, facts=made.to_json())

    return split
