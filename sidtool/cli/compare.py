"""The command compare: figures of several bundles of one catalog."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sidtool import registry, tokenizer
from sidtool.base.errors import UsageError
from sidtool.base.options import option
from sidtool.cli.reports.bundle_tables import (
    EVENT_COLUMNS,
    EVENT_NOTES,
    USE_COLUMNS,
    USE_NOTES,
    level_table,
)
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import say, say_json, say_table
from sidtool.integrations.formats import CatalogFile
from sidtool.tokenizer import BundleFigures, Diff
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import LETTERS


@dataclass(frozen=True)
class ProbeInputs:
    """What the SIDs of a bundle are compared with."""

    split: Path | None = option(None, metavar="SPLIT")
    """Split folder, or events (split by leave-one-out): show how prefixes agree with its training
    events."""
    field: str | None = option(None)
    """Column of --items with labels, like brand: show how pure prefixes are."""
    against: str | None = option(None, metavar="BUNDLE")
    """Earlier bundle: show which prefixes stayed, and how far centroids moved."""

    def measure(
        self, bundle: Bundle, catalog: CatalogFile | None
    ) -> tuple[BundleFigures | None, Diff | None]:
        """The figures of a bundle, and what changed since the earlier one; None for what was not
        asked for. Raises UsageError for a catalog without a column, or the other way round."""
        if (catalog is None) != (self.field is None):
            raise UsageError("--items and --field belong together", hint="give both or neither")
        measured = None
        if self.split is not None or catalog is not None:
            items = None
            if catalog is not None and self.field is not None:
                items = catalog.read(fields=[self.field], bundle=bundle)
            (measured,) = tokenizer.compare_bundles(
                [bundle], items=items, field=self.field, interactions=self.split
            )
        if self.against is None:
            return measured, None
        return measured, tokenizer.diff(registry.open_bundle(self.against), bundle)


def compare(
    bundles: Annotated[list[str], "Bundles of one catalog.", "BUNDLE..."],
    catalog: CatalogFile | None,
    embeddings: Annotated[Path | None, "Vectors of the items: .npy, Parquet or Zarr."] = None,
    field: Annotated[
        str | None, "Column of --items with labels, like brand, to measure purity."
    ] = None,
    interactions: Annotated[
        Path | None,
        "Split folder, or events (split by leave-one-out): its training events measure how a code "
        "predicts the next one.",
    ] = None,
    by_row: options.ByRow = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare bundles of one catalog."""
    if field is not None and catalog is None:
        raise UsageError("--field requires --items")
    if catalog is not None and field is None and not by_row:
        raise UsageError("--items requires --field or --by-row")
    if by_row and embeddings is None:
        raise UsageError("--by-row requires --embeddings")
    fields = [field] if field is not None else []
    opened = [registry.open_bundle(bundle) for bundle in bundles]
    measured_bundles = tokenizer.compare_bundles(
        opened,
        embeddings=embeddings,
        items=catalog.read(fields=fields, bundle=opened[0]) if catalog is not None else None,
        field=field,
        interactions=interactions,
        by_row=by_row,
        seed=seed,
    )
    figures = list(zip(bundles, measured_bundles, strict=True))
    if json:
        values = [{"bundle": bundle, **measured.to_json()} for bundle, measured in figures]
        return say_json({"items": measured_bundles[0].items, "bundles": values})
    rows = []
    for bundle, measured in figures:
        method, sizes = measured.method or "none", "x".join(map(str, measured.sizes))
        before = measured.before.items if measured.before else None
        collisions = (before, measured.after.items, measured.reassigned)
        build = (measured.residual_variance, measured.seconds)
        rows.append((bundle, method, sizes, measured.items, *collisions, *build))
    columns = ["collide before", "after", "reassigned", "residual variance", "seconds"]
    say_table(["bundle", "method", "levels", "items", *columns], rows)
    return say_figures(figures, shows_usage=True)


def say_figures(figures: Sequence[tuple[str, BundleFigures]], *, shows_usage: bool) -> None:
    """Print how bundles, each with its name, use the codes of their levels, if `shows_usage`, and
    what training events say about the levels, if they were measured."""
    first = figures[0][1]
    say("")
    if shows_usage:
        table = level_table("", figures, USE_COLUMNS)
        say_table(table.columns, table.rows)
        neighbors, purity = USE_NOTES
        chance = first.purity_by_chance
        say(neighbors, purity + (f" (by chance {chance:.4f})" if chance is not None else ""))
    if first.levels[0].mutual_information is None:
        return
    say("")
    table = level_table("", figures, EVENT_COLUMNS)
    say_table(table.columns, table.rows)
    say(*EVENT_NOTES)


def say_changes(changes: Diff) -> None:
    """Print which prefixes stayed, and how far centroids moved."""
    say("")
    drift = dict(enumerate(changes.drift))
    levels = enumerate(zip(LETTERS, changes.same_prefix, strict=False))
    rows = [(letter, same, drift.get(level)) for level, (letter, same) in levels]
    say_table(["level", "same prefix", "drift"], rows)
    say(
        "same prefix: share of the items of both bundles; drift: mean distance of a centroid from "
        "the earlier one of its code, in units of their RMS norm"
    )
