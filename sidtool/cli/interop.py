"""The commands between systems and between bundles: import, export, compare."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidtool.errors import UsageError
from sidtool.interop.convert import System
from sidtool.interop.minionerec import Keys
from sidtool.sid import LETTERS, Levels
from sidtool.terminal import options
from sidtool.terminal.console import next_step, note, say, say_json, say_plan, say_table

if TYPE_CHECKING:
    from sidtool.build.compare import BundleFigures
    from sidtool.interop.convert import CatalogFile

Catalog = Annotated[
    Path | None, typer.Option(help="Catalog of the items: their order and their titles.")
]
KeysOption = Annotated[
    Keys, typer.Option(help="Keys of index.json: item ids, or line numbers of ITEMS from 0.")
]

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


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MAP",
            help="index.json of MiniOneRec, LC-Rec or LETTER, or pid2sid.parquet of OpenOneRec.",
        ),
    ],
    out: options.Out,
    items: Catalog = None,
    info: Annotated[Path | None, typer.Option(help="MiniOneRec info.txt with titles.")] = None,
    levels: Annotated[
        str | None,
        typer.Option(help="Codes per level, like 256x256x256; default: the next powers of two."),
    ] = None,
    keys: KeysOption = "id",
    id_column: options.IdColumn = None,
    title_column: options.TitleColumn = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Import another system's map as a bundle without a codebook."""
    from sidtool.interop.convert import import_map, read_map
    from sidtool.output import refuse_existing
    from sidtool.output_name import BUNDLE

    how: dict[str, Any] = {"items": _catalog_file(items, id_column, title_column), "info": info}
    how |= {"sizes": Levels.from_text(levels).sizes if levels is not None else None, "keys": keys}
    if dry_run:
        refuse_existing(out, force, BUNDLE)
        planned = read_map(source, name=out.stem, **how)
        return say_plan(
            f"would import {planned.manifest.items} items of {source}, "
            f"{planned.space.spelled_sizes}, to {out}",
            json=json,
            bundle=str(out),
            items=planned.manifest.items,
            sizes=list(planned.space.sizes),
            policy=planned.manifest.collisions.policy,
        )
    bundle = import_map(source, out, **how, force=force)
    policy = bundle.manifest.collisions.policy
    if json:
        counts = {"items": bundle.manifest.items, "policy": policy}
        say_json({"bundle": str(out), "digest": bundle.identity.digest, **counts})
    else:
        sharing = "some items share a SID" if policy == "allow" else "every item has its own SID"
        say(
            f"{out}: {bundle.manifest.items} items, {bundle.space.spelled_sizes}, spelled "
            f"{bundle.space.template}; {sharing}; no codebook"
        )
    return next_step(f"sidtool extend-model MODEL {out} -o MODEL+sid --init mean")


def export(
    bundle: options.Bundle,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="A folder for minionerec; a .parquet, .json, .npz or .bin file for openonerec, "
            "flashrec, static or xllm.",
        ),
    ],
    to: Annotated[System, typer.Option("--to", help="Target system.")],
    items: Catalog = None,
    keys: KeysOption = "id",
    model: Annotated[
        str | None,
        typer.Option(
            help="Model that the engine serves: xllm needs its token ids, static is then over "
            "them, FlashRec may need them for its --sid option."
        ),
    ] = None,
    id_column: options.IdColumn = None,
    title_column: options.TitleColumn = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Export a bundle's map for another system or an engine; retired items are omitted."""
    from sidtool.interop.convert import EXPORTS, check_export_options, export_map
    from sidtool.model.model_tokens import model_tokens
    from sidtool.output import refuse_existing
    from sidtool.registry.references import open_bundle

    catalog = _catalog_file(items, id_column, title_column)
    check_export_options(to, items=catalog, keys=keys, has_model=model is not None)
    opened = open_bundle(bundle)
    tokens = model_tokens(model, opened) if model is not None else None
    if dry_run:
        refuse_existing(out, force, EXPORTS[to])
        n_items = len(opened.active)
        return say_plan(
            f"would export {n_items} items of {bundle} for {to} to {out}",
            json=json,
            out=str(out),
            system=to,
            items=n_items,
        )
    exported = export_map(opened, out, to, items=catalog, keys=keys, tokens=tokens, force=force)
    if json:
        files = [str(file) for file in exported.files]
        return say_json({"system": to, "files": files, "flashrec_sid": exported.flashrec_sid})
    if to == "flashrec":
        sid = f" --sid {exported.flashrec_sid}" if exported.flashrec_sid else ""
        say(f"--sid-vocab-file {out}{sid}")
    else:
        say(*exported.files)
    if exported.flashrec_needs_model:
        note("FlashRec cannot infer the layout of these SIDs: --model MODEL gives its --sid option")
    if to == "minionerec" and len(exported.files) == 1:
        note("no info.txt: the bundle has no titles (--items ITEMS adds them)")
    return None


def compare(
    bundles: Annotated[
        list[str], typer.Argument(metavar="BUNDLE...", help="Bundles of one catalog.")
    ],
    embeddings: Annotated[
        Path | None, typer.Option(help="Vectors of the items: .npy, Parquet or Zarr.")
    ] = None,
    items: Catalog = None,
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
    id_column: options.IdColumn = None,
    title_column: options.TitleColumn = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Compare bundles of one catalog."""
    from sidtool.build.compare import compare_bundles
    from sidtool.registry.references import open_bundle

    if field is not None and items is None:
        raise UsageError("--field requires --items")
    if items is not None and field is None and embeddings is None:
        raise UsageError("--items requires --field or --embeddings")
    catalog = _catalog_file(items, id_column, title_column)
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
            {"bundle": bundle, **each.to_json()}
            for bundle, each in zip(bundles, figures, strict=True)
        ]
        say_json({"items": figures[0].items, "bundles": values})
    else:
        _say_comparison(bundles, figures)


def _catalog_file(
    path: Path | None, id_column: str | None, title_column: str | None
) -> "CatalogFile | None":
    from sidtool.interop.convert import CatalogFile

    if path is not None:
        return CatalogFile(path, id_column, title_column)
    if id_column is not None or title_column is not None:
        raise UsageError("--id-column and --title-column require --items")
    return None


def _say_comparison(bundles: list[str], figures: "list[BundleFigures]") -> None:
    rows = []
    lines = []
    for bundle, each in zip(bundles, figures, strict=True):
        cells = (
            each.before.items if each.before else None,
            each.after.items,
            each.reassigned,
            each.residual_variance,
            each.seconds,
        )
        sizes = "x".join(map(str, each.sizes))
        rows.append((bundle, each.method or "none", sizes, each.items, *map(_cell, cells)))
        for letter, level in zip(LETTERS, each.levels, strict=False):
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
