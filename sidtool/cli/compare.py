"""The command compare: figures of several bundles of one catalog."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidtool.base.errors import UsageError
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import say, say_json, say_table
from sidtool.integrations.formats import CatalogFile
from sidtool.tokenizer.sid import LETTERS

if TYPE_CHECKING:
    from sidtool.tokenizer import BundleFigures

LEVEL_COLUMNS = {
    "size": "codes",
    "utilization": "utilization",
    "entropy": "entropy",
    "perplexity": "perplexity",
    "gini": "gini",
    "neighbors": "neighbors",
    "purity": "purity",
    "mutual_information": "information",
    "mutual_information_by_chance": "by chance",
}
"""Columns of the table of levels, by the JSON key of their figure."""


def compare(
    bundles: Annotated[
        list[str], typer.Argument(metavar="BUNDLE...", help="Bundles of one catalog.")
    ],
    catalog: CatalogFile | None,
    embeddings: Annotated[
        Path | None, typer.Option(help="Vectors of the items: .npy, Parquet or Zarr.")
    ] = None,
    field: Annotated[
        str | None, typer.Option(help="Column of ITEMS with labels, like brand, to measure purity.")
    ] = None,
    interactions: Annotated[
        Path | None,
        typer.Option(
            help="Split folder, or events (split by leave-one-out): its training events measure "
            "how a code predicts the next one."
        ),
    ] = None,
    by_row: options.ByRow = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare bundles of one catalog."""
    from sidtool.registry import open_bundle
    from sidtool.tokenizer import compare_bundles

    if field is not None and catalog is None:
        raise UsageError("--field requires --items")
    if catalog is not None and field is None and embeddings is None:
        raise UsageError("--items requires --field or --embeddings")
    if by_row and embeddings is None:
        raise UsageError("--by-row requires --embeddings")
    fields = [field] if field is not None else []
    opened = [open_bundle(bundle) for bundle in bundles]
    figures = compare_bundles(
        opened,
        embeddings=embeddings,
        items=catalog.read(fields=fields, bundle=opened[0]) if catalog is not None else None,
        field=field,
        interactions=interactions,
        by_row=by_row,
        seed=seed,
    )
    if json:
        values = [
            {"bundle": bundle, **measured.to_json()}
            for bundle, measured in zip(bundles, figures, strict=True)
        ]
        say_json({"items": figures[0].items, "bundles": values})
    else:
        _say_comparison(bundles, figures)


def _say_comparison(bundles: list[str], figures: "list[BundleFigures]") -> None:
    rows = []
    lines = []
    for bundle, measured in zip(bundles, figures, strict=True):
        cells = (
            measured.before.items if measured.before else None,
            measured.after.items,
            measured.reassigned,
            measured.residual_variance,
            measured.seconds,
        )
        sizes = "x".join(map(str, measured.sizes))
        rows.append((bundle, measured.method or "none", sizes, measured.items, *map(_cell, cells)))
        for letter, level in zip(LETTERS, measured.levels, strict=False):
            values = level.to_json()
            lines.append((bundle, letter, *(_cell(values[name]) for name in LEVEL_COLUMNS)))
    columns = ["collide before", "after", "reassigned", "residual variance", "seconds"]
    say_table(["bundle", "method", "levels", "items", *columns], rows)
    say("")
    say_table(["bundle", "level", *LEVEL_COLUMNS.values()], lines)
    chance = figures[0].purity_by_chance
    say(
        "neighbors: Jaccard@20 of embedding and SID-prefix neighbors, down to that level",
        "purity: probability that another item with that prefix has the same label"
        + (f" (by chance {chance:.4f})" if chance is not None else ""),
        "information: mutual information (bits) of the codes of an item and of the next one; by "
        "chance: with shuffled next items",
    )


def _cell(value: float | None) -> float | str:
    return "-" if value is None else value
