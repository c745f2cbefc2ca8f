"""The command split."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidtool.base.option_texts import parse_bytes
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, note, say, say_json, say_table
from sidtool.data.split import Protocol, SplitManifest, SplitOptions
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
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Split user events into training, validation and test, for all later commands."""
    from sidtool.data.split import split_events

    manifest = split_events(
        events, out, rules, memory=memory, threads=threads, dry_run=dry_run, force=force
    )
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
