"""The report command."""

from pathlib import Path
from typing import Annotated

import typer

from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import say


def report(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT...",
            help="A bundle, a model folder of train or rl, or the JSON of `evaluate --json`; "
            "several of one kind are compared, bundles each with the one before (and a published "
            "one with the version that it was made from).",
        ),
    ],
    out: options.Out,
    items: Annotated[
        Path | None,
        typer.Option(
            help="Catalog: with the column --field for bundles, with titles for evaluations."
        ),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(help="Catalog column whose values prefixes are compared by, like brand."),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Catalog column of item ids; guessed by default.")
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Vectors of a bundle's items (.npy with ids, Parquet or Zarr): shows which of an "
            "item's neighbors by vector are near by SID, too."
        ),
    ] = None,
    split: Annotated[
        Path | None,
        typer.Option(
            metavar="SPLIT",
            help="Split folder, or events (split by leave-one-out): shows how a bundle's prefixes "
            "agree with its training events.",
        ),
    ] = None,
    seed: options.Seed = 0,
    force: options.Force = False,
) -> None:
    """Write an HTML page that shows a bundle, a training or an evaluation.

    The page is one file without scripts that opens from disk and loads nothing."""
    from sidtool.cli.reports.report import report as write_report

    write_report(
        what,
        out,
        items=items,
        field=field,
        id_column=id_column,
        embeddings=embeddings,
        split=split,
        seed=seed,
        force=force,
    )
    say(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
