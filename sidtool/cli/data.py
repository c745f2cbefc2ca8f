"""The commands for raw data: check, prepare, split."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sidtool.base.errors import UsageError
from sidtool.base.given_options import given_flags
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import parse_bytes
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import PARQUET_FOLDER
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, note, say, say_json, say_table
from sidtool.cli.terminal.pace import progress
from sidtool.data import CatalogNames, EventNames, UnknownOptions
from sidtool.data import prepare as preparing
from sidtool.data import split as splits
from sidtool.data.prepare import MEANINGS, CheckReport, Cleaned, PrepareOptions
from sidtool.data.split import SplitManifest, SplitOptions
from sidtool.integrations import cluster
from sidtool.integrations.cluster import PartOptions
from sidtool.recommendation.search import seen_reason


@keeps_inputs()
def check(
    items: Annotated[Path, "Catalog, in any format of build-codebook."],
    columns: CatalogNames,
    names: EventNames,
    checks: UnknownOptions,
    events: Annotated[
        Path | None, typer.Argument(help="Events on its items, in any format of split.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--fix",
            metavar="OUT",
            help="Folder to write cleaned items.parquet and events.parquet to.",
        ),
    ] = None,
    allow_losses: Annotated[
        bool, "Write cleaned copies although more than a fifth of the events are left out."
    ] = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Report every problem of a catalog and its events, and exit with 3 if one would stop a
    build."""
    flag = next(iter([*given_flags(names), *given_flags(checks)]), None)
    if events is None and flag is not None:
        raise UsageError(f"{flag} requires EVENTS")
    if force and out is None:
        raise UsageError("--force requires --fix OUT, the folder to replace")
    if allow_losses and (out is None or events is None):
        raise UsageError("--allow-losses requires --fix OUT, and EVENTS that may be lost")
    if out is not None:
        refuse_existing(out, force, PARQUET_FOLDER)
    catalog, table = preparing.read_tables(items, events, columns, names)
    before = preparing.report(catalog, table, allow_unknown=checks.allow_unknown)
    if out is None:
        if json:
            say_json(before.to_json())
        else:
            _say_report(before)
        cleaning = "--fix OUT writes cleaned copies"
        hint = before.mending_hint(items, events, table, cleaning)
        return before.refuse_stops(hint, allow_unknown=checks.allow_unknown)
    cleaned = preparing.clean_tables(catalog, table, out, allow_losses=allow_losses, force=force)
    if json:
        say_json({"before": before.to_json(), **cleaned.to_json()})
    else:
        _say_report(before)
        _say_cleaned(cleaned, out)
    cleaned.left.refuse_stops("cleaning cannot mend this", allow_unknown=checks.allow_unknown)
    if events is None:
        command = "sidtool build-codebook {out}/items.parquet -o BUNDLE.zarr --encoder ENCODER"
        return next_step(command, out=out)
    return next_step("sidtool split {out}/events.parquet -o SPLIT", out=out)


def prepare(
    source: Annotated[Path, "File of reviews, ratings or events, or the data set's folder."],
    out: options.Out,
    source_options: PrepareOptions,
    writing: options.Writing = options.Writing(),
) -> None:
    """Write items.parquet and events.parquet from a public data set or any table of events."""
    prepared = preparing.prepare(
        source, out, source_options, dry_run=writing.dry_run, force=writing.force
    )
    if writing.json:
        say_json(prepared.to_json())
    else:
        rows = [(step.name, step.events, step.users, step.items) for step in prepared.steps]
        say_table(["after", "events", "users", "items"], rows)
        _say_left_out(prepared.dropped_items)
        say(f"{out}: {prepared.items} items, {prepared.steps[-1].events} events")
    if writing.dry_run:
        return note(f"nothing written to {out}")
    return next_step("sidtool split {out}/events.parquet -o SPLIT", out=out)


def _say_report(report: CheckReport) -> None:
    title = report.item_columns.title or "none"
    lines = [f"{report.items} items: id {report.item_columns.id!r}, title {title!r}"]
    if (columns := report.event_columns) is not None:
        order = f"time {columns.order!r}" if columns.order else "in the order of the rows"
        lines.append(
            f"{report.events} events of {report.users} users: user {columns.user!r}, item "
            f"{columns.item!r}, {order}"
        )
    say(*lines)
    rows = []
    for problem in report.problems:
        stops_build = "stops" if problem.stops else ""
        first = problem.examples[0]
        rows.append((problem.count, problem.table, problem.meaning, stops_build, first))
    if rows:
        say_table(["", "in", "problem", "a build", "first"], rows)
    else:
        say("no problems")


def _say_cleaned(cleaned: Cleaned, out: Path) -> None:
    _say_left_out({**cleaned.dropped_items, **cleaned.dropped_events})
    if cleaned.respelled_items or cleaned.respelled_events:
        say(
            f"ids in their normal form or as in the catalog: {cleaned.respelled_items} items, "
            f"{cleaned.respelled_events} events"
        )
    if cleaned.converted_times:
        say(f"times in the unit of the others: {cleaned.converted_times} events")
    left = cleaned.left
    events = "" if left.events is None else f", {left.events} events of {left.users} users"
    say(f"{out}: {left.items} items{events}")
    for problem in left.problems:
        note(str(problem), label="left:", style="yellow")


def _say_left_out(counts: Mapping[str, int]) -> None:
    for reason, count in counts.items():
        say(f"left out: {count} {MEANINGS[reason]}")


LEFT_OUT = {
    "leave-one-out": "events behind a user's last target",
    "last-session": "events in or behind a user's last session that are no targets",
    "temporal": "first events without a history",
    "given": "windows that show or may show a held-out event",
}


def split(
    events: Annotated[
        Path,
        "User-item events: CSV, TSV, JSONL, Parquet or RecBole .inter. With --protocol given, the "
        "training windows.",
    ],
    out: options.Out,
    rules: SplitOptions,
    memory_limit: Annotated[
        int | None,
        typer.Option(
            parser=parse_bytes,
            metavar="SIZE",
            help="Memory for events, like 4GiB: more than fits is put into files beside the "
            "output.",
            rich_help_panel="Data",
        ),
    ] = None,
    threads: options.Threads = None,
    run: PartOptions = PartOptions(),
    writing: options.Writing = options.Writing(),
) -> None:
    """Split user events into training, validation and test, for all later commands."""
    if run.is_divided:
        if memory_limit is not None:
            raise UsageError(
                "--memory-limit is for one process without --parts: more parts take less"
            )
        if threads is not None:
            raise UsageError("--threads is for one process without --parts: leave it out")
        with progress("split") as reports:
            run = replace(run, progress=reports.get("split"))
            manifest = cluster.split_in_parts(events, out, rules, run=run)
    elif run.resume:
        raise UsageError("--resume requires --parts: without parts, a split starts again")
    else:
        manifest = splits.split_events(
            events,
            out,
            rules,
            memory_limit=memory_limit,
            threads=threads,
            dry_run=writing.dry_run,
            force=writing.force,
        )
    if writing.json:
        say_json(manifest.to_json())
    else:
        _say_manifest(manifest)
    if writing.dry_run:
        return note(f"nothing written to {out}")
    command = "sidtool build-codebook ITEMS -o BUNDLE.zarr --interactions {out} --encoder ENCODER"
    return next_step(command, out=out)


def _say_manifest(manifest: SplitManifest) -> None:
    counts = manifest.counts
    rows = [
        ("train", f"{counts.train_events} events of {counts.users} users"),
        ("valid", f"{counts.valid} examples"),
        ("test", f"{counts.test} examples"),
    ]
    if manifest.protocol == "given":
        rows.insert(1, ("windows", f"{counts.windows} training windows"))
    if counts.left_out:
        rows.append(("left out", f"{counts.left_out} {LEFT_OUT[manifest.protocol]}"))
    if counts.repeated_targets is not None:
        reason = seen_reason(None, manifest.reference.targets_repeat)
        rows.append(("repeats", f"{counts.repeated_targets} targets; by default {reason}"))
    if manifest.cuts:
        rows.append(("cuts", f"{manifest.cuts.valid_from:.16g}, {manifest.cuts.test_from:.16g}"))
    if manifest.sessions is not None:
        rows.append(("sessions", str(manifest.sessions)))
    if manifest.fields is not None:
        for part in ("feedback", "context", "user"):
            types = getattr(manifest.fields, part)
            if types:
                rows.append((part, ", ".join(f"{name}:{kind}" for name, kind in types.items())))
        if manifest.fields.target:
            rows.append(("targets", " and ".join(manifest.fields.target)))
    say_table(["part", manifest.protocol], rows)
    say(f"digest {manifest.digest}")
