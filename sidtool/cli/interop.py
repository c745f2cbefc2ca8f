"""The commands between systems and between bundles: import, export, compare."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidtool.cli import options
from sidtool.cli.console import next_step, note, say, say_json, say_table
from sidtool.errors import SidtoolWarning, UsageError
from sidtool.interop.convert import System
from sidtool.interop.minionerec import Keys
from sidtool.sid import LETTERS, Levels

if TYPE_CHECKING:
    from sidtool.bundle import Bundle
    from sidtool.data.items import Items
    from sidtool.interop.convert import CatalogFile

Catalog = Annotated[
    Path | None, typer.Option(help="Catalog of the items: their order and their titles.")
]
IdColumn = Annotated[str | None, typer.Option(help="Column of item ids; guessed by default.")]
TitleColumn = Annotated[str | None, typer.Option(help="Column of titles; guessed by default.")]
KeysOption = Annotated[
    Keys, typer.Option(help="Keys of index.json: item ids, or line numbers of ITEMS from 0.")
]


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
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Import another system's map as a bundle without a codebook."""
    from sidtool.interop.convert import import_map

    bundle = import_map(
        source,
        out,
        items=_catalog_file(items, id_column, title_column),
        info=info,
        sizes=Levels.from_text(levels).sizes if levels is not None else None,
        keys=keys,
        force=force,
    )
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
    next_step(f"sidtool extend-model MODEL {out} -o MODEL+sid --init mean")


def export(
    bundle: options.Bundle,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="A folder for minionerec, a .parquet, .json or .npz file otherwise."
        ),
    ],
    to: Annotated[System, typer.Option("--to", help="Target system.")],
    items: Catalog = None,
    keys: KeysOption = "id",
    model: Annotated[
        Path | None,
        typer.Option(help="Model that FlashRec will serve; determines its --sid option."),
    ] = None,
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    force: options.Force = False,
) -> None:
    """Export a bundle's map for another system; retired items are omitted."""
    from sidtool.interop.convert import check_export_options, export_map
    from sidtool.registry.references import open_bundle

    catalog = _catalog_file(items, id_column, title_column)
    check_export_options(to, items=catalog, keys=keys, has_model=model is not None)
    opened = open_bundle(bundle)
    token_start = _token_start(model, opened) if model is not None else None
    exported = export_map(
        opened, out, to, items=catalog, keys=keys, token_start=token_start, force=force
    )
    if to == "flashrec":
        sid = f" --sid {exported.flashrec_sid}" if exported.flashrec_sid else ""
        say(f"--sid-vocab-file {out}{sid}")
    else:
        say(*exported.files)
    if exported.flashrec_needs_model:
        note("FlashRec cannot infer the layout of these SIDs: --model MODEL gives its --sid option")
    if to == "minionerec" and len(exported.files) == 1:
        note("no info.txt: the bundle has no titles (--items ITEMS adds them)")


def _catalog_file(
    path: Path | None, id_column: str | None, title_column: str | None
) -> "CatalogFile | None":
    from sidtool.interop.convert import CatalogFile

    if path is not None:
        return CatalogFile(path, id_column, title_column)
    if id_column is not None or title_column is not None:
        raise UsageError("--id-column and --title-column require --items")
    return None


def _token_start(model: Path, bundle: "Bundle") -> int:
    """The first SID token id of a model that is compatible with the bundle."""
    from sidtool.model.load import check_model_folder

    contract, _, _ = check_model_folder(model, bundle)
    return contract.token_start


def compare(
    bundles: Annotated[
        list[str], typer.Argument(metavar="BUNDLE...", help="Bundles of one catalog.")
    ],
    embeddings: Annotated[
        Path | None, typer.Option(help="Vectors of the items: .npy, Parquet or Zarr.")
    ] = None,
    items: Catalog = None,
    field: Annotated[
        str | None, typer.Option(help="Column of ITEMS that items are labelled by, like brand.")
    ] = None,
    interactions: Annotated[
        Path | None, typer.Option(help="Events: what people meet after what.")
    ] = None,
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Lay bundles of one catalog side by side."""
    from sidtool.build.compare import Evidence, common_ids, describe, steps_between
    from sidtool.data.interactions import read_interactions
    from sidtool.registry.references import open_bundle

    if field is not None and items is None:
        raise UsageError(
            "--field names a column of a catalog, and none is given", hint="--items ITEMS"
        )
    if items is not None and field is None and embeddings is None:
        raise UsageError(
            "--items says nothing alone", hint="--field COLUMN, or --embeddings of its rows"
        )
    opened = [open_bundle(bundle) for bundle in bundles]
    ids = common_ids(opened)
    catalog = _read_catalog(items, id_column, title_column, field)
    evidence = Evidence(
        ids,
        vectors=_vectors(embeddings, catalog, ids) if embeddings is not None else None,
        labels=_labels(catalog, field, ids) if catalog is not None and field is not None else None,
        steps=steps_between(read_interactions(interactions), ids)
        if interactions is not None
        else None,
    )
    found = [
        {"bundle": bundle, **describe(each, evidence, seed=seed)}
        for bundle, each in zip(bundles, opened, strict=True)
    ]
    if json:
        say_json({"items": len(ids), "bundles": found})
    else:
        _say_comparison(found)


def _read_catalog(
    path: Path | None, id_column: str | None, title_column: str | None, field: str | None = None
) -> "Items | None":
    from sidtool.data.items import read_items

    if path is None:
        if id_column is not None or title_column is not None:
            raise UsageError(
                "--id-column and --title-column are of a catalog, and none is given",
                hint="--items ITEMS",
            )
        return None
    with warnings.catch_warnings():  # of items without text: these commands read no texts
        warnings.simplefilter("ignore", SidtoolWarning)
        return read_items(
            path, id_column=id_column, title_column=title_column, fields=[field] if field else []
        )


def _vectors(path: Path, catalog: "Items | None", ids: tuple[str, ...]) -> Any:
    """Vectors of these ids. Rows without ids of their own follow the catalog, so it must be given."""
    from sidtool.data.vector_files import read_vectors

    if catalog is None and not _has_ids(path):
        raise UsageError(
            f"{path} does not say whose vectors it holds", hint="--items ITEMS, or vectors with ids"
        )
    if catalog is None:
        return read_vectors(path, ids)
    rows = _rows_of(catalog, ids)
    return read_vectors(path, catalog.ids)[rows]


def _has_ids(path: Path) -> bool:
    beside = (path.with_suffix(".ids.txt"), path.with_suffix(".ids.json"), path / "ids")
    return path.suffix in (".parquet", ".pq") or any(each.exists() for each in beside)


def _labels(catalog: "Items", field: str, ids: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(catalog.fields[field][row] for row in _rows_of(catalog, ids))


def _rows_of(catalog: "Items", ids: tuple[str, ...]) -> list[int]:
    rows = {item: row for row, item in enumerate(catalog.ids)}
    if missing := [item for item in ids if item not in rows]:
        raise UsageError(
            f"the catalog lacks {len(missing)} of {len(ids)} items (first: {missing[0]!r})"
        )
    return [rows[item] for item in ids]


def _say_comparison(found: list[dict[str, Any]]) -> None:
    rows = []
    for each in found:
        before, after = each["collisions"]["before"], each["collisions"]["after"]
        rows.append(
            (
                each["bundle"],
                each["method"] or "none",
                "x".join(map(str, each["sizes"])),
                each["items"],
                before["items"] if before else "-",
                after["items"],
                *(
                    "-" if each[key] is None else each[key]
                    for key in ("moved", "variance_left", "seconds")
                ),
            )
        )
    columns = [
        "bundle",
        "method",
        "codes",
        "items",
        "collide before",
        "after",
        "moved",
        "variance left",
        "seconds",
    ]
    say_table(columns, rows)
    say("")
    names = (
        "size",
        "used",
        "entropy",
        "perplexity",
        "gini",
        "neighbors",
        "purity",
        "bits",
        "bits_by_chance",
    )
    lines = [
        (
            each["bundle"],
            LETTERS[level],
            *("-" if use[name] is None else use[name] for name in names),
        )
        for each in found
        for level, use in enumerate(each["levels"])
    ]
    columns = [
        "codes",
        "in use",
        "entropy",
        "perplexity",
        "gini",
        "neighbors kept",
        "purity",
        "bits",
        "by chance",
    ]
    say_table(["bundle", "level", *columns], lines)
    chance = found[0]["purity_by_chance"]
    say(
        "neighbors kept: Jaccard@20 of embedding and SID-prefix neighbors, down to that level",
        "purity: how likely another item with that prefix has the same label"
        + (f" (by chance {chance:.4f})" if chance is not None else ""),
        "bits: mutual information of an item's code and the next item's, and what shuffled "
        "items give",
    )
