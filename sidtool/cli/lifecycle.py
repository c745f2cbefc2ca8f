"""Commands for new versions of a bundle: add-items, diff, align, rebind."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sidtool import model as models
from sidtool import registry, tokenizer
from sidtool.base.errors import EXIT_REFUSED, UsageError
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import read_ids
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import BUNDLE
from sidtool.cli.reports.bundle_tables import difference_tables
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, say, say_json, say_table
from sidtool.cli.terminal.pace import progress
from sidtool.data import CatalogNames
from sidtool.tokenizer.bundle import AlignChange

MAX_LISTED = 5
"""Items that a table lists."""


@keeps_inputs("a bundle")
def add_items(
    bundle: options.Bundle,
    out: options.Out,
    columns: CatalogNames,
    items: Annotated[
        Path | None, typer.Argument(help="New items, in any format of build-codebook.")
    ] = None,
    remove: Annotated[Path | None, "File of item ids to retire, one per line."] = None,
    embeddings: Annotated[
        list[Path] | None, "Vectors of the items, made like those of the bundle, once per source."
    ] = None,
    by_row: options.ByRow = False,
    encoder: Annotated[str | None, "Present location of the bundle's encoder, if it moved."] = None,
    trust_remote_code: options.Trust = False,
    writing: options.Writing = options.Writing(),
) -> None:
    """Add items to a bundle and retire others; published SIDs never move."""
    if items is None and remove is None:
        raise UsageError("give ITEMS to add, --remove FILE, or both")
    if embeddings and encoder is not None:
        raise UsageError("give either --encoder or --embeddings")
    if by_row and not embeddings:
        raise UsageError("--by-row requires --embeddings")
    if items is None and (embeddings or encoder or columns != CatalogNames()):
        raise UsageError("options for vectors, encoder and columns need ITEMS")
    refuse_existing(out, writing.force, BUNDLE)
    opened = registry.open_source(bundle)
    catalog = tokenizer.read_new_items(opened, items, columns)
    retired = () if remove is None else read_ids(remove)
    vectors = embeddings or ()
    if writing.dry_run:
        change = tokenizer.planned_change(
            opened, catalog, embeddings=vectors, by_row=by_row, encoder=encoder, remove=retired
        )
        return writing.plan(
            f"would add {change.added} of {len(catalog)} items to {bundle}, restore "
            f"{change.restored}, retitle {change.retitled} and retire {change.retired}, at {out}",
            bundle=str(out),
            added=change.added,
            items=len(catalog),
            restored=change.restored,
            retitled=change.retitled,
            retired=change.retired,
        )
    with progress("embed") as stages:
        grown = tokenizer.add_items(
            opened,
            catalog,
            embeddings=vectors,
            by_row=by_row,
            encoder=encoder,
            trust_remote_code=trust_remote_code,
            remove=retired,
            published=registry.published_versions(bundle),
            progress=stages.get("embed"),
        )
    grown.save(out, force=writing.force)
    manifest = grown.manifest
    record = {"bundle": str(out), "version": manifest.version, "digest": grown.identity.digest}
    if grown is not opened:
        record |= manifest.change.to_json()
    changed = "nothing changed" if grown is opened else str(manifest.change)
    writing.say(record, f"{out}: {manifest.name} {manifest.version}, {changed}")
    return next_step("sidtool recommend MODEL --bundle {out} --history ...", out=out)


def diff(
    old: options.Bundle,
    new: Annotated[str, "The later bundle."],
    exit_code: Annotated[bool, "Exit 3 when the bundles differ."] = False,
    json: options.Json = False,
) -> None:
    """Show what differs between two bundles, and whether models of the old one work with the
    new."""
    before = registry.open_bundle(old)
    after = registry.open_bundle(new)
    differences = tokenizer.diff(before, after)
    verdict = models.outlook(before, after)
    if json:
        say_json(differences.to_json() | {"verdict": asdict(verdict)})
    else:
        for table in difference_tables(differences, MAX_LISTED):
            say_table(table.columns, table.rows)
        reason = f" ({verdict.message})" if verdict.message else ""
        say(f"models of the old bundle: {verdict.kind}{reason}")
    if exit_code and not differences.same:
        raise typer.Exit(EXIT_REFUSED)


@keeps_inputs("a bundle")
def align(
    new: Annotated[str, "The bundle with the retrained codebook."],
    out: options.Out,
    to: Annotated[str, typer.Option("--to", metavar="OLD", help="The bundle whose codes it gets.")],
    writing: options.Writing = options.Writing(),
) -> None:
    """Rename the codes of a retrained codebook so that most items keep their old codes."""
    refuse_existing(out, writing.force, BUNDLE)
    aligned = tokenizer.align(new, to)
    change = aligned.manifest.change
    assert isinstance(change, AlignChange)
    counts = {name: getattr(change, name) for name in ("common", "before", "after")}
    if writing.dry_run:
        return writing.plan(
            f"would rename codes of {new}: {change.after[-1]} of {change.common} common items keep "
            f"their SID of {to}, {change.before[-1]} before, at {out}",
            bundle=str(out),
            **counts,
        )
    aligned.save(out, force=writing.force)
    if writing.json:
        return say_json({"bundle": str(out), "digest": aligned.identity.digest} | counts)
    pairs = zip(change.before, change.after, strict=True)
    rows = [
        (depth, before, after, f"{after / change.common:.1%}")
        for depth, (before, after) in enumerate(pairs, 1)
    ]
    say_table(["levels", "kept before", "kept after", "share"], rows)
    say(
        f"SIDs preserved: {change.before[-1]} of {change.common} common items before, "
        f"{change.after[-1]} after"
    )
    return next_step("sidtool recommend MODEL --bundle {out} --history ...", out=out)


@keeps_inputs("a model")
def rebind(
    model: options.Model,
    newer: Annotated[str, "The compatible bundle to put into the model."],
    out: options.Out,
    writing: options.Writing = options.Writing(),
) -> None:
    """Copy a model folder with a newer bundle, after the compatibility check of recommend
    --bundle."""
    opened = registry.open_source(newer)
    verdict = models.rebind(model, opened, out, dry_run=writing.dry_run, force=writing.force)
    record = {"model": str(out), "bundle": opened.identity.digest} | asdict(verdict)
    message = verdict.message or "the same bundle as before"
    if writing.dry_run:
        return writing.plan(f"would copy {model} with {newer} to {out}: {message}", **record)
    writing.say(record, f"{out}: {message}")
    return next_step("sidtool recommend {out} --history ...", out=out)
