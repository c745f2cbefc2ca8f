"""The command split."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, note, say, say_json, say_table
from sidtool.data.split.record import Protocol, SplitManifest

if TYPE_CHECKING:
    from sidtool.data.fields.fields import FieldTypes

LEFT_OUT: dict[Protocol, str] = {
    "leave-one-out": "events behind a user's last target",
    "last-session": "events in or behind a user's last session that are no targets",
    "temporal": "first events without a history",
    "given": "windows that show or may show a held-out event",
}


def split(
    events: Annotated[
        Path,
        typer.Argument(
            metavar="EVENTS",
            help="User-item events: CSV, TSV, JSONL, Parquet or RecBole .inter. With --protocol "
            "given, the training windows.",
        ),
    ],
    out: options.Out,
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="leave-one-out: each user's last event is test, the one before validation. "
            "last-session: the same with whole sessions. temporal: two moments divide all events. "
            "given: the files are already split."
        ),
    ] = "leave-one-out",
    valid: Annotated[
        Path | None, typer.Option(help="Validation windows (given).", rich_help_panel="Options")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Test windows (given).")] = None,
    valid_from: Annotated[
        str | None,
        typer.Option(
            help="Time or date where validation starts (temporal). Default: after 80% of the "
            "events."
        ),
    ] = None,
    test_from: Annotated[
        str | None,
        typer.Option(
            help="Time or date where test starts (temporal). Default: after 90% of the events."
        ),
    ] = None,
    session_gap: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="An event that comes so long after the user's previous one begins a session: "
            "seconds, or like 30m, 12h or 1d. Required by last-session, else recorded for lists.",
        ),
    ] = None,
    session_column: Annotated[
        str | None,
        typer.Option(help="Column that names a user's sessions, in place of --session-gap."),
    ] = None,
    user_column: options.UserColumn = None,
    item_column: options.ItemColumn = None,
    order_column: options.OrderColumn = None,
    order: options.Order = "column",
    feedback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN[:TYPE]",
            help="Column known only after an event, like rating or behavior:str; repeatable. TYPE "
            "is int, float or str; default: what its values are.",
        ),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN[:TYPE]",
            help="Column known before an event, like device; repeatable.",
        ),
    ] = None,
    times: Annotated[
        bool, typer.Option("--times", help="Record the time of every event, for {gap} and {ago}.")
    ] = False,
    users: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table of users, one row each: age, country, ..."),
    ] = None,
    user_field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN[:TYPE]", help="Column of --users; repeatable. Default: all columns."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="What counts as a target, like 'rating>=4' or behavior=buy; repeatable, all must "
            "hold. Other events stay in histories.",
        ),
    ] = None,
    extends: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="SPLIT",
            help="Earlier split of the same data. Its bundles and models stay usable with the new "
            "split, if nothing that is held out was trained on. Repeatable.",
        ),
    ] = None,
    memory: options.EventMemory = None,
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Split user events into training, validation and test, for all later commands."""
    from sidtool.data.fields.field_columns import FieldName, FieldOptions
    from sidtool.data.interactions import EventNames
    from sidtool.data.split.files import SplitOptions, split_events
    from sidtool.data.split.sessions import SessionRule

    columns = EventNames(user_column, item_column, order_column, order)
    fields = FieldOptions(
        FieldName.parse_all(feedback),
        FieldName.parse_all(context),
        FieldName.parse_all(user_field),
        users,
        times,
        tuple(target or ()),
    )
    sessions = SessionRule.parse(session_gap, session_column)
    chosen = SplitOptions(
        protocol,
        valid,
        test,
        valid_from,
        test_from,
        columns,
        fields,
        tuple(extends or ()),
        sessions,
    )
    budget = options.parse_bytes(memory) if memory is not None else None
    manifest = split_events(events, out, chosen, memory=budget, dry_run=dry_run, force=force)
    if json:
        say_json(manifest.to_json())
    else:
        _say_manifest(manifest)
    if dry_run:
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
    if manifest.cuts:
        rows.append(("cuts", f"{manifest.cuts.valid_from:.16g}, {manifest.cuts.test_from:.16g}"))
    if manifest.sessions is not None:
        rows.append(("sessions", str(manifest.sessions)))
    if manifest.fields is not None:
        rows += _field_rows(manifest.fields)
    say_table(["part", manifest.protocol], rows)
    say(f"digest {manifest.digest}")


def _field_rows(fields: "FieldTypes") -> list[tuple[str, str]]:
    rows = []
    parts = {"feedback": fields.feedback, "context": fields.context, "user": fields.user}
    for part, types in parts.items():
        if types:
            rows.append((part, ", ".join(f"{name}:{kind}" for name, kind in types.items())))
    if fields.target:
        rows.append(("targets", " and ".join(fields.target)))
    return rows
