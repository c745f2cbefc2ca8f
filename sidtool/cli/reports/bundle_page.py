"""The page of one bundle, or of several to compare."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from sidtool.base.errors import DataError
from sidtool.cli.reports.blocks import (
    Block,
    LineChart,
    Listing,
    Page,
    Section,
    Series,
    Table,
    Tree,
    facts_table,
    thinned,
)
from sidtool.cli.reports.bundle_parts import LEAF, WIDTHS, CodebookTree, map_blocks, neighbor_blocks
from sidtool.cli.reports.bundle_tables import (
    EVENT_COLUMNS,
    EVENT_NOTES,
    USE_COLUMNS,
    USE_NOTES,
    bundle_facts,
    difference_tables,
    level_table,
)
from sidtool.cli.reports.comparable import Comparable, answers, comparison, public_codebooks
from sidtool.data.split import UserSequence
from sidtool.tokenizer import Behavior, BundleFigures, Diff, Evidence, describe, diff
from sidtool.tokenizer.bundle import Bundle, flat_record
from sidtool.tokenizer.codes import CollisionCounts
from sidtool.tokenizer.sid import Codes

CURVE = 100
"""Points of a curve over the codes of a level."""
USUAL = (
    "The figures of public catalogs say what is usual. Whether a codebook suits a model is "
    "measured by training one: balance alone barely predicts it."
)
CHANGES = 20
"""Items that are listed of each kind of difference."""

Values = Mapping[str, str]
"""Item id -> value of a catalog field."""


def bundle_page(
    bundles: Mapping[str, Bundle],
    values: Values | None = None,
    field: str = "",
    *,
    parent: Bundle | None = None,
    embeddings: str | Path | None = None,
    users: Sequence[UserSequence] | None = None,
    seed: int = 0,
) -> Page:
    """The page of bundles by their names, oldest first: each is compared with the one before, and
    the first with its `parent`.

    `values` are those of the catalog's column `field`, `embeddings` a file of vectors whose
    neighbors are compared with those by SID, `users` the training events that prefixes are compared
    with; the seed draws the items of the map. Raises DataError if `values` have no item of a
    bundle, and as `neighbor_blocks`."""
    figures: dict[str, BundleFigures] = {}
    for name, bundle in bundles.items():
        ids = [bundle.items.ids[row] for row in bundle.active.tolist()]
        if values is not None and ids and values.keys().isdisjoint(ids):
            raise DataError(f"the catalog lacks all {len(ids)} items of {name} (first: {ids[0]!r})")
        labels = None if values is None else tuple(values.get(item, "") for item in ids)
        behavior = None if users is None else Behavior.of(users, ids)
        evidence = Evidence(None, labels=labels, behavior=behavior)
        figures[name] = describe(bundle, evidence, seed=seed)
    facts = {name: _facts(bundle, figures[name]) for name, bundle in bundles.items()}
    judgements = [Listing(f"Codes of {name}", answers(figure)) for name, figure in figures.items()]
    codebooks = [Comparable.of(name, figure) for name, figure in figures.items()]
    beside = comparison([*codebooks, *public_codebooks()])
    sections = [
        Section("What is good and what is not", (*judgements, beside, USUAL)),
        Section("Overview", (facts_table("What the bundle is", facts),)),
    ]
    before = {} if parent is None else {f"version {parent.manifest.version}": parent}
    for (old_name, old), (name, new) in pairwise([*before.items(), *bundles.items()]):
        sections.append(_differences(f"From {old_name} to {name}", diff(old, new)))
    for name, bundle in bundles.items():
        suffix = f" of {name}" if len(bundles) > 1 else ""
        sections += _bundle_sections(bundle, figures[name], values, field, suffix, seed)
        if embeddings is not None:
            blocks = tuple(neighbor_blocks(bundle, embeddings, suffix, seed=seed))
            sections.append(Section(f"Neighbors{suffix}", blocks))
    what = "bundle" if len(bundles) == 1 else "bundles"
    summary = (
        f"The {what} {', '.join(bundles)}: codes, items and lineage of a semantic-ID tokenizer."
    )
    return Page(f"Semantic IDs: {', '.join(bundles)}", summary, tuple(sections))


def _facts(bundle: Bundle, figures: BundleFigures) -> dict[str, object]:
    return {
        **bundle_facts(bundle),
        "items that shared a SID before": figures.before.items if figures.before else None,
        "items that share a SID": figures.after.items,
        "reassigned items": figures.reassigned,
        "residual variance": figures.residual_variance,
        "purity by chance": figures.purity_by_chance,
    }


def _bundle_sections(
    bundle: Bundle,
    figures: BundleFigures,
    values: Values | None,
    field: str,
    suffix: str,
    seed: int,
) -> Iterator[Section]:
    codes = bundle.items.codes[bundle.active]
    yield Section(f"Levels{suffix}", tuple(_levels(bundle, codes, figures, suffix)))
    tree = CodebookTree(bundle, values)
    text = (
        "Open a code to see the codes below it, most items first. Words are those of titles "
        "that are most distinctive of the prefix (log-likelihood ratio)"
    )
    if values is not None:
        text += f"; the label is the most frequent {field} with its share"
    if tree.is_whole:
        text += ". The tree has every item."
    else:
        text += (
            f". Shown are at most {', '.join(map(str, WIDTHS))} codes of the first, second, third "
            f"and each deeper level, and {LEAF} items of a full SID; every count and word is over "
            "all items."
        )
    blocks = (text, Tree(f"Codes{suffix} and their items", tree.nodes()))
    yield Section(f"Codebook{suffix}", blocks)
    item_map = tuple(map_blocks(bundle, values, field, suffix, seed=seed))
    if item_map:
        yield Section(f"Map{suffix}", item_map)
    yield Section(f"Lineage{suffix}", tuple(_lineage(bundle, suffix)))


def _levels(bundle: Bundle, codes: Codes, figures: BundleFigures, suffix: str) -> Iterator[Block]:
    named = [(bundle.manifest.name, figures)]
    usage = level_table(f"Use and collisions per level{suffix}", named, USE_COLUMNS)
    prefix_counts = []
    for depth in range(1, codes.shape[1] + 1):
        counts = CollisionCounts.of(codes[:, :depth])
        n_prefixes = len(codes) - counts.items + counts.groups
        prefix_counts.append((n_prefixes, counts.items, counts.largest))
    rows = tuple((*row, *counts) for row, counts in zip(usage.rows, prefix_counts, strict=True))
    columns = (*usage.columns, "prefixes", "items sharing one", "largest")
    yield replace(usage, columns=columns, rows=rows)
    yield (
        "; ".join(USE_NOTES)
        + "; prefixes: the distinct first codes down to that level; items sharing one: those whose "
        "prefix another item has; largest: the most items of one prefix."
    )
    if figures.levels[0].alignment is not None:
        yield level_table(f"Prefixes and training events{suffix}", named, EVENT_COLUMNS)
        yield "; ".join(EVENT_NOTES)
    curves = []
    for column, size in zip(codes.T, bundle.space.sizes, strict=True):
        uses = np.sort(np.bincount(column, minlength=size))[::-1].tolist()
        curves.append(thinned(_by_number(uses), CURVE))
    yield LineChart(
        f"Items per code{suffix}, codes in order of use",
        "rank of the code",
        "items",
        tuple(Series(f"level {number}", curve) for number, curve in enumerate(curves, 1)),
    )
    report = bundle.manifest.codebook_report
    if report is not None:
        yield LineChart(
            f"What more levels add{suffix}",
            "levels",
            "share",
            (
                Series("neighbors kept", _by_number(report.neighbors.jaccard)),
                Series("residual variance", _by_number(report.residual_variance)),
            ),
        )
        yield (
            f"Measured when the bundle was built: neighbors on {report.neighbors.queries:,} items "
            f"among {report.neighbors.pool:,}, variance on {report.measured:,}."
        )


def _by_number(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """The values by their number, from 1."""
    return tuple((float(number), float(value)) for number, value in enumerate(values, 1))


def _lineage(bundle: Bundle, suffix: str) -> Iterator[Block]:
    rows = tuple(
        (version.version, version.name, version.digest[:12], version.created, str(version.change))
        for version in bundle.manifest.history
    )
    yield Table(f"Versions{suffix}", ("version", "name", "digest", "created", "change"), rows)
    if bundle.manifest.parent is not None:
        yield "A report on two versions, the older one first, shows what changed between them."
    recipe = flat_record({"recipe": bundle.manifest.recipe or {}, "source": bundle.manifest.source})
    if recipe:
        yield Table(f"Recipe and sources{suffix}", ("setting", "value"), tuple(recipe.items()))


def _differences(heading: str, changes: Diff) -> Section:
    """What changed, and the moves of single items."""
    tables = [
        replace(table, caption=f"{table.caption}: {heading}")
        for table in difference_tables(changes, CHANGES)
    ]
    if changes.moved:
        moves = tuple(
            (move.item, move.old, move.new, move.depth) for move in changes.moved[:CHANGES]
        )
        columns = ("item", "old SID", "new SID", "first level that differs")
        tables.append(Table(f"Moved items (the first {CHANGES}): {heading}", columns, moves))
    return Section(heading, tuple(tables))
