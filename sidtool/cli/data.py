"""The commands for raw data: check, prepare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidtool.base.errors import UsageError
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, note, say, say_json, say_table
from sidtool.data import CatalogNames, EventNames, UnknownOptions
from sidtool.data.prepare import PrepareOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidtool.data.prepare import Cleaned, Report


def check(
    items: Annotated[
        Path, typer.Argument(metavar="ITEMS", help="Catalog, in any format of build-codebook.")
    ],
    columns: CatalogNames,
    names: EventNames,
    checks: UnknownOptions,
    events: Annotated[
        Path | None,
        typer.Argument(metavar="[EVENTS]", help="Events on its items, in any format of split."),
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
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Report every problem of a catalog and its events, and exit with 3 if one would stop a
    build."""
    from sidtool.base.output import refuse_existing
    from sidtool.base.output_name import FOLDER
    from sidtool.data.prepare import clean, read_tables, report

    if events is None and names.flags:
        raise UsageError(f"{names.flags[0]} requires EVENTS")
    if out is not None:
        refuse_existing(out, force, FOLDER)
    catalog, table = read_tables(items, events, columns, names)
    before = report(catalog, table, allow_unknown=checks.allow_unknown)
    if out is None:
        _say_report(before, json=json)
        cleaning = "--fix OUT writes cleaned copies"
        hint = before.mending_hint(items, events, table, cleaning)
        return before.refuse_stops(hint, allow_unknown=checks.allow_unknown)
    cleaned = clean(catalog, table, out, force=force)
    if json:
        say_json({"before": before.to_json(), **cleaned.to_json()})
    else:
        _say_report(before, json=False)
        _say_cleaned(cleaned, out)
    cleaned.left.refuse_stops("cleaning cannot mend this", allow_unknown=checks.allow_unknown)
    if events is None:
        command = "sidtool build-codebook {out}/items.parquet -o BUNDLE.zarr --encoder ENCODER"
        return next_step(command, out=out)
    return next_step("sidtool split {out}/events.parquet -o SPLIT", out=out)


def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="File of reviews, ratings or events, or the data set's folder."
        ),
    ],
    out: options.Out,
    source_options: PrepareOptions,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Write items.parquet and events.parquet from a public data set or any table of events."""
    from sidtool.data.prepare import prepare as prepare_data

    prepared = prepare_data(source, out, source_options, dry_run=dry_run, force=force)
    if json:
        say_json(prepared.to_json())
    else:
        rows = [(step.name, step.events, step.users, step.items) for step in prepared.steps]
        say_table(["after", "events", "users", "items"], rows)
        _say_left_out(prepared.dropped_items)
        say(f"{out}: {prepared.items} items, {prepared.steps[-1].events} events")
    if dry_run:
        return note(f"nothing written to {out}")
    return next_step("sidtool split {out}/events.parquet -o SPLIT", out=out)


def _say_report(report: "Report", *, json: bool) -> None:
    if json:
        return say_json(report.to_json())
    title = report.item_columns.title or "none"
    lines = [f"{report.items} items: id {report.item_columns.id!r}, title {title!r}"]
    if report.event_columns is not None:
        columns = report.event_columns
        order = f"time {columns.order!r}" if columns.order else "in the order of the rows"
        lines.append(
            f"{report.events} events of {report.users} users: user {columns.user!r}, item "
            f"{columns.item!r}, {order}"
        )
    say(*lines)
    rows = [
        (
            problem.count,
            problem.table,
            problem.meaning,
            "stops" if problem.stops else "",
            problem.examples[0],
        )
        for problem in report.problems
    ]
    if rows:
        say_table(["", "in", "problem", "a build", "first"], rows)
    else:
        say("no problems")
    return None


def _say_cleaned(cleaned: "Cleaned", out: Path) -> None:
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


def _say_left_out(counts: "Mapping[str, int]") -> None:
    from sidtool.data.prepare import MEANINGS

    for reason, count in counts.items():
        say(f"left out: {count} {MEANINGS[reason]}")  # type: ignore[index]
