"""The tables of bundles, which commands print and pages show."""

from collections.abc import Iterable, Iterator, Mapping

from sidtool.cli.reports.blocks import Table
from sidtool.tokenizer import BundleFigures, Diff
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import LETTERS

USE_COLUMNS = {
    "size": "codes",
    "utilization": "utilization",
    "entropy": "entropy",
    "perplexity": "perplexity",
    "gini": "gini",
    "neighbors": "neighbors",
    "purity": "purity",
}
"""Columns of the table of levels, by the JSON key of their figure."""
USE_NOTES = (
    "neighbors: Jaccard@20 of embedding and SID-prefix neighbors, down to that level",
    "purity: probability that another item with that prefix has the same label",
)
EVENT_COLUMNS = {
    "alignment": "alignment",
    "alignment_by_chance": "by chance",
    "alignment_lift": "lift",
    "head_spread": "head",
    "tail_spread": "tail",
    "mutual_information": "information",
    "mutual_information_by_chance": "by chance",
}
"""Columns of the table of training events."""
EVENT_NOTES = (
    "alignment: share of steps to another item that has the same prefix down to that level; "
    "lift: times chance",
    "head, tail: distinct prefixes per item, of the most frequent items with half of the "
    "events and of the others",
    "information: mutual information (bits) of the codes of an item and of the next one; by "
    "chance: with shuffled next items",
)


def level_table(
    caption: str, figures: Iterable[tuple[str, BundleFigures]], columns: Mapping[str, str]
) -> Table:
    """The figures of the levels of bundles, each with its name; None for what was not measured."""
    rows = []
    for name, measured in figures:
        for letter, level in zip(LETTERS, measured.levels, strict=False):
            values = level.to_json()
            rows.append((name, letter, *(values[key] for key in columns)))
    return Table(caption, ("bundle", "level", *columns.values()), tuple(rows))


def bundle_facts(bundle: Bundle) -> dict[str, object]:
    """What a bundle is, by the name of the property."""
    manifest = bundle.manifest
    space = manifest.space
    recipe = manifest.recipe or {}
    encoder = recipe.get("encoder", {})
    quantizer = (
        "none: a map without a codebook" if bundle.codebook is None else bundle.codebook.method
    )
    cooccurrence = "none"
    collaborative = recipe.get("collaborative")
    if collaborative is not None and bundle.codebook is not None:
        n_events, protocol = collaborative["train_events"], collaborative["protocol"]
        cooccurrence = f"{n_events} training events, {protocol}"
        fusion = bundle.codebook.params.fusion
        if fusion is not None and fusion.collaborative is not None:
            part = fusion.collaborative
            cooccurrence += f", fused into {part.warm_items} items with weight {part.weight:g}"
    return {
        "name": f"{manifest.name} {manifest.version} (format {manifest.format})",
        "digest": manifest.identity.digest,
        "items": len(bundle) - bundle.n_retired,
        "retired items": bundle.n_retired,
        "levels": f"{space.spelled_sizes}, {space.template}",
        "begin and end tokens": f"{space.begin} {space.end}" if space.begin else "none",
        "collisions": manifest.collisions.policy,
        "quantizer": quantizer,
        "encoder": encoder.get("model") or encoder.get("vectors", "none"),
        "co-occurrence": cooccurrence,
        "text": recipe.get("text_template", "none"),
        "created": manifest.created,
    }


def difference_tables(changes: Diff, most: int) -> Iterator[Table]:
    """What differs between two bundles; of the items of each kind the first ones, at `most`."""
    kinds = {name: getattr(changes, name) for name in ("added", "retired", "gone", "restored")}
    kinds["retitled"] = changes.retitled
    for depth in sorted({move.depth for move in changes.moved}):
        moved = [move.item for move in changes.moved if move.depth == depth]
        kinds[f"moved at level {depth}"] = moved
    rows: list[tuple[object, ...]] = [("kept their SID", changes.kept, "")]
    rows += [(kind, len(items), ", ".join(items[:most])) for kind, items in kinds.items()]
    yield Table("Items", ("items", "", "first"), tuple(rows))
    if any(changes.drift):
        drift = tuple(enumerate(changes.drift, 1))
        yield Table("Drift of centroids", ("level", "codebook drift"), drift)
    if changes.manifest:
        settings = tuple((key, old, new) for key, (old, new) in changes.manifest.items())
        yield Table("Settings", ("manifest", "old", "new"), settings)
