"""The commands for what comes after the first build: add-items, diff, align, rebind."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidtool.cli import options
from sidtool.cli.console import next_step, note, progress, say, say_json, say_table
from sidtool.cli.inputs import read_ids, read_side_by_side
from sidtool.errors import EXIT_REFUSED, UsageError

if TYPE_CHECKING:
    from sidtool.build.diff import Diff
    from sidtool.model.rebind import Outlook

SHOWN = 5
"""Items that a table names."""


def add_items(
    bundle: options.Bundle,
    out: options.Out,
    items: Annotated[
        Path | None,
        typer.Argument(metavar="[ITEMS]", help="New items, in any form that build-codebook reads."),
    ] = None,
    remove: Annotated[
        Path | None, typer.Option(help="File of item ids, a line each, to retire.")
    ] = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(
            help="Vectors of the items, made as those of the bundle, once for each source."
        ),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Where the bundle's encoder lies now, if it moved.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column of item ids; guessed if not given.")
    ] = None,
    title_column: Annotated[
        str | None, typer.Option(help="Column of titles; guessed if not given.")
    ] = None,
    on_empty: Annotated[
        str, typer.Option(help="An item without text: id (its id is its text), drop or error.")
    ] = "id",
    trust_remote_code: options.Trust = False,
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Add items to a bundle and retire others; no published SID moves, and models of the bundle go
    on working."""
    from sidtool.build.add import NO_VECTORS, NOTHING, unknown
    from sidtool.build.add import add_items as add
    from sidtool.build.encode import embed_texts
    from sidtool.bundle.lineage import change_to_json
    from sidtool.data.items import read_items
    from sidtool.output import refuse_existing
    from sidtool.registry.references import open_bundle

    if items is None and remove is None:
        raise UsageError("give ITEMS to add, --remove FILE, or both")
    if embeddings and encoder is not None:
        raise UsageError("give either --encoder or --embeddings")
    if items is None and (embeddings or encoder or id_column or title_column):
        raise UsageError(
            "vectors, encoder and columns are of items to add, and --remove alone adds none"
        )
    refuse_existing(out, force)
    opened = open_bundle(bundle)
    catalog = NOTHING
    if items is not None:
        catalog = read_items(
            items,
            id_column=id_column,
            title_column=title_column,
            text_template=(opened.manifest.recipe or {}).get("text_template"),
            on_empty=on_empty,  # type: ignore[arg-type]
        )
    new, gone = unknown(opened, catalog.ids), read_ids(remove) if remove is not None else []
    if dry_run:
        return note(
            f"would add {len(new)} of {len(catalog)} items to {bundle} and retire {len(gone)}, "
            f"at {out}"
        )
    if embeddings and len(new):
        vectors = read_side_by_side(embeddings, catalog.ids, opened)[new]
    elif len(new):
        texts = [catalog.texts[row] for row in new]
        with progress("embed") as report:
            told = report.get("embed")
            vectors = embed_texts(
                opened, texts, model=encoder, trust_remote_code=trust_remote_code, progress=told
            )
    else:
        vectors = NO_VECTORS
    grown = add(opened, catalog, vectors, remove=gone)
    grown.save(out, force=force)
    counts = change_to_json(grown.manifest.change) if grown is not opened else {}
    if json:
        say_json(
            {"bundle": str(out), "version": grown.manifest.version, "digest": grown.identity.digest}
            | counts
        )
    else:
        say(
            f"{out}: {grown.manifest.name} {grown.manifest.version}, "
            f"{grown.manifest.change if counts else 'nothing changed'}"
        )
    return next_step(f"sidtool recommend MODEL --bundle {out} --history ...")


def diff(
    old: Annotated[
        str, typer.Argument(metavar="OLD", help="A bundle: NAME.zarr, NAME.zarr.zip or a URL.")
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The bundle that came after it.")],
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit 3 when the bundles differ.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Say what differs between two bundles, and what that means for models made for the old one."""
    from sidtool.build.diff import diff as compare
    from sidtool.model.rebind import outlook
    from sidtool.registry.references import open_bundle

    before, after = open_bundle(old), open_bundle(new)
    found, verdict = compare(before, after), outlook(before, after)
    if json:
        say_json(found.to_json() | {"verdict": asdict(verdict)})
    else:
        _say_diff(found, verdict)
    if exit_code and not found.same:
        raise typer.Exit(EXIT_REFUSED)


def align(
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="The bundle with a codebook of its own.")
    ],
    out: options.Out,
    to: Annotated[
        str, typer.Option("--to", metavar="OLD", help="The bundle whose vocabulary it gets.")
    ],
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Rename the codes of a retrained codebook so that models of the old one keep most of their
    meaning."""
    from sidtool.build.align import align as rename
    from sidtool.output import refuse_existing
    from sidtool.registry.references import open_bundle

    refuse_existing(out, force)
    aligned, told = rename(open_bundle(new), open_bundle(to))
    aligned.save(out, force=force)
    if json:
        return say_json({"bundle": str(out), "digest": aligned.identity.digest} | asdict(told))
    rows = [
        (depth, before, after, f"{after / told.common:.1%}")
        for depth, (before, after) in enumerate(zip(told.before, told.after, strict=True), 1)
    ]
    say_table(["levels", "kept before", "kept after", "share"], rows)
    say(
        f"SIDs preserved: {told.before[-1]} of {told.common} common items before, "
        f"{told.after[-1]} after"
    )
    return next_step(f"sidtool recommend MODEL --bundle {out} --history ...")


def rebind(
    model: options.Model,
    newer: Annotated[
        str, typer.Argument(metavar="NEWER", help="The bundle that the model gets, if compatible.")
    ],
    out: options.Out,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Copy a model with a newer bundle inside, after the check that recommend --bundle makes."""
    from sidtool.model.rebind import rebind as bind
    from sidtool.registry.references import open_bundle

    opened = open_bundle(newer)
    verdict = bind(model, opened, out, force=force)
    if json:
        say_json({"model": str(out), "bundle": opened.identity.digest} | asdict(verdict))
    else:
        say(f"{out}: {verdict.message or 'the bundle is the one that the model had'}")
    next_step(f"sidtool recommend {out} --history ...")


def _say_diff(found: "Diff", verdict: "Outlook") -> None:
    groups = {
        name: getattr(found, name) for name in ("added", "retired", "gone", "restored", "retitled")
    }
    rows = [(name, len(ids), ", ".join(ids[:SHOWN])) for name, ids in groups.items()]
    depths = sorted({move.depth for move in found.moved})
    for depth in depths:
        moved = [move.item for move in found.moved if move.depth == depth]
        rows.append((f"moved at level {depth}", len(moved), ", ".join(moved[:SHOWN])))
    say_table(["items", "", "first"], [("kept their SID", found.kept, ""), *rows])
    if any(found.drift):
        drift = [
            (level, "-" if value is None else value) for level, value in enumerate(found.drift, 1)
        ]
        say_table(["level", "codebook drift"], drift)
    if found.manifest:
        say_table(
            ["manifest", "old", "new"], [(key, *pair) for key, pair in found.manifest.items()]
        )
    say(
        f"models of the old bundle: {verdict.kind}"
        + (f" ({verdict.message})" if verdict.message else "")
    )
