"""The command split."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidtool.base.errors import UsageError
from sidtool.base.option_texts import parse_bytes
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, note, progress, say, say_json, say_table
from sidtool.data.split import Protocol, SplitManifest, SplitOptions
from sidtool.integrations.ray import PartOptions
from sidtool.recommendation.search import seen_reason

if TYPE_CHECKING:
    from sidtool.data import FieldTypes

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
    rules: SplitOptions,
    run: PartOptions,
    memory: Annotated[
        int | None,
        typer.Option(
            parser=parse_bytes,
            metavar="SIZE",
            help="Memory for events, like 4GiB: more than fits is put into files beside the "
            "output.",
            rich_help_panel="Data",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Split user events into training, validation and test, for all later commands."""
    from sidtool.data.split import split_events

    dry_run = run.dry_run
    if run.is_divided:
        if memory is not None:
            raise UsageError("--memory is for one process without --parts: more parts take less")
        manifest = _split_in_parts(events, out, rules, run)
    elif run.resume:
        raise UsageError("--resume requires --parts: without parts, a split starts again")
    else:
        manifest = split_events(events, out, rules, memory=memory, dry_run=dry_run, force=run.force)
    if json:
        say_json(manifest.to_json())
    else:
        _say_manifest(manifest)
    if dry_run:
        return note(f"nothing written to {out}")
    command = "sidtool build-codebook ITEMS -o BUNDLE.zarr --interactions {out} --encoder ENCODER"
    return next_step(command, out=out)


def _split_in_parts(
    events: Path, out: Path, rules: SplitOptions, run: PartOptions
) -> SplitManifest:
    from sidtool.data.tables import as_url
    from sidtool.integrations.ray import split_in_parts

    if run.dry_run:
        raise UsageError("--dry-run counts in one process: leave out --engine and --parts")
    with progress("split") as reports:
        return split_in_parts(
            as_url(events), out, rules, run=replace(run, progress=reports.get("split"))
        )


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
        reason = seen_reason(None, counts.targets_repeat)
        rows.append(("repeats", f"{counts.repeated_targets} targets; by default {reason}"))
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
