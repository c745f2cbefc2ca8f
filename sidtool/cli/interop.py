"""The commands between systems and between bundles: import, export, compare."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidtool.cli import options
from sidtool.cli.console import next_step, note, say, say_json, say_table
from sidtool.errors import SidtoolWarning, UsageError
from sidtool.sid import LETTERS, Levels

if TYPE_CHECKING:
    from sidtool.bundle import Bundle
    from sidtool.data.items import Items

READ = {".json": "minionerec", ".parquet": "openonerec"}
"""Systems whose maps are read, by the suffix of their files."""
WRITTEN = ("minionerec", "openonerec", "flashrec", "static")
KEYS = ("id", "line")

Catalog = Annotated[
    Path | None, typer.Option(help="Catalog of the items: their order and their titles.")
]
IdColumn = Annotated[str | None, typer.Option(help="Column of item ids; guessed if not given.")]
TitleColumn = Annotated[str | None, typer.Option(help="Column of titles; guessed if not given.")]
Keys = Annotated[
    str, typer.Option(help="What index.json calls an item: its id, or its line in ITEMS, from 0.")
]


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MAP",
            help="MiniOneRec, LC-Rec or LETTER index.json; OpenOneRec pid2sid.parquet.",
        ),
    ],
    out: options.Out,
    items: Catalog = None,
    info: Annotated[Path | None, typer.Option(help="MiniOneRec info.txt: the titles.")] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            help="Codes per level, like 256x256x256; else the powers of two that hold the codes."
        ),
    ] = None,
    keys: Keys = "id",
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Make a bundle of another system's map: it decodes, extends, trains and recommends, but cannot
    encode."""
    from sidtool.bundle import Bundle
    from sidtool.interop.minionerec import read_minionerec
    from sidtool.interop.openonerec import read_openonerec

    system = READ.get(source.suffix)
    if system is None:
        raise UsageError(
            f"{source}: no known map ends in {source.suffix!r}", hint=f"known are {', '.join(READ)}"
        )
    _one_of("keys", keys, KEYS)
    if system != "minionerec" and (info is not None or keys != "id"):
        raise UsageError(f"--info and --keys line belong to index.json, and {source} is none")
    catalog = _read_catalog(items, id_column, title_column)
    sizes = Levels.from_text(levels).sizes if levels is not None else None
    name = out.name.removesuffix(".zip").removesuffix(".zarr")
    if system == "minionerec":
        bundle = read_minionerec(
            source,
            name=name,
            sizes=sizes,
            items=catalog,
            info=info,
            keys=keys,  # type: ignore[arg-type]
        )
    else:
        bundle = read_openonerec(source, name=name, sizes=sizes, items=catalog)
    bundle.save(out, force=force)
    _say_imported(Bundle.open(out), out, json)
    next_step(f"sidtool extend-model MODEL {out} -o MODEL+sid --init mean")


def export(
    bundle: options.Bundle,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            help="A folder for minionerec, a .parquet, .json or .npz file for the others.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", help=f"System: {', '.join(WRITTEN)}.")],
    items: Catalog = None,
    keys: Keys = "id",
    model: Annotated[
        Path | None,
        typer.Option(
            help="Model that flashrec will serve: tells its --sid where it must be given."
        ),
    ] = None,
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    force: options.Force = False,
) -> None:
    """Write a bundle's map as another system reads it; retired items are left out."""
    from sidtool.interop.flashrec import write_flashrec
    from sidtool.interop.minionerec import write_minionerec
    from sidtool.interop.openonerec import write_openonerec
    from sidtool.interop.static import write_static
    from sidtool.registry.references import open_bundle

    _one_of("--to", to, WRITTEN)
    _one_of("keys", keys, KEYS)
    if to != "minionerec" and (
        items is not None or keys != "id" or id_column is not None or title_column is not None
    ):
        raise UsageError(f"--items, its columns and --keys belong to --to minionerec, not to {to}")
    if to != "flashrec" and model is not None:
        raise UsageError(f"--model belongs to --to flashrec, not to {to}")
    opened = open_bundle(bundle)
    if to == "minionerec":
        catalog = _read_catalog(items, id_column, title_column)

        written = write_minionerec(opened, out, items=catalog, keys=keys, force=force)  # type: ignore[arg-type]
        if len(written) == 1:
            note("no info.txt: the bundle holds no titles (--items ITEMS gives them)")
        say(*written)
        return
    if to == "flashrec":
        told = _flashrec_option(opened, model)
        write_flashrec(opened, out, force=force)
        say(f"--sid-vocab-file {out}" + (f" --sid {told}" if told else ""))
        if told is None:
            note(
                f"FlashRec cannot infer the layout of {opened.space.example}: --model MODEL "
                "tells the --sid it needs"
            )
        return
    write = write_openonerec if to == "openonerec" else write_static
    write(opened, out, force=force)
    say(out)


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


def _one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"no {what.lstrip('-')} {value!r}", hint=f"choose from {', '.join(known)}")


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


def _flashrec_option(bundle: "Bundle", model: Path | None) -> str | None:
    """The `--sid` that FlashRec needs, "" where it finds out by itself, None where only a model
    could tell."""
    from sidtool.interop.flashrec import is_guessed, sid_option
    from sidtool.model.compat import check
    from sidtool.model.contract import open_bundle_copy, read_contract

    if model is None:
        return "" if is_guessed(bundle.space) else None
    contract = read_contract(model)
    check(contract, open_bundle_copy(model, contract), bundle)
    return "" if is_guessed(bundle.space) else sid_option(bundle.space, contract.token_start)


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


def _say_imported(bundle: "Bundle", out: Path, json: bool) -> None:
    policy, sizes = bundle.manifest.collisions.policy, bundle.space.spelled_sizes
    if json:
        say_json(
            {
                "bundle": str(out),
                "digest": bundle.identity.digest,
                "items": len(bundle.items),
                "policy": policy,
            }
        )
    else:
        shared = (
            "some items share a SID" if policy == "allow" else "every item has a SID of its own"
        )
        say(
            f"{out}: {len(bundle.items)} items, {sizes}, spelled {bundle.space.template}; "
            f"{shared}; no codebook"
        )


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
