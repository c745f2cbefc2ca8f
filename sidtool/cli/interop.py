"""The commands between systems: import, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidtool.base.errors import UsageError
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, note, say, say_json, say_plan
from sidtool.integrations.formats.convert import System
from sidtool.integrations.formats.imported_codebook import LEAST_SHARE
from sidtool.integrations.formats.minionerec import Keys
from sidtool.tokenizer.encoder.settings import Dtype
from sidtool.tokenizer.sid import Levels

if TYPE_CHECKING:
    from sidtool.integrations.formats.convert import CatalogFile
    from sidtool.tokenizer.bundle.bundle import Bundle

Catalog = Annotated[
    Path | None, typer.Option(help="Catalog of the items: their order and their titles.")
]
KeysOption = Annotated[
    Keys, typer.Option(help="Keys of index.json: item ids, or line numbers of ITEMS from 0.")
]
CODEBOOK = "Codebook"
"""Panel of the help of import."""


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MAP",
            help="index.json of MiniOneRec, LC-Rec or LETTER, pid2sid.parquet of OpenOneRec, or "
            "the .pt map of GRID.",
        ),
    ],
    out: options.Out,
    items: Catalog = None,
    info: Annotated[Path | None, typer.Option(help="MiniOneRec info.txt with titles.")] = None,
    levels: Annotated[
        str | None,
        typer.Option(
            help="Codes per level, like 256x256x256; default: those of the codebook, or the next "
            "powers of two."
        ),
    ] = None,
    keys: KeysOption = "id",
    codebook: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The codebook of the map: model.pt of OpenOneRec, .pth of MiniOneRec, LC-Rec or "
            "LETTER, codebooks .npz of MiniOneRec, .ckpt of GRID. Only tensors are read.",
            rich_help_panel=CODEBOOK,
        ),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Vectors of the items: measures for which share of them the codebook gives the "
            "map's SID.",
            rich_help_panel=CODEBOOK,
        ),
    ] = None,
    by_row: Annotated[bool, options.by_row(CODEBOOK)] = False,
    fail_under: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Exit 3 if the codebook gives back a smaller share of the map. Default: "
            f"{LEAST_SHARE}.",
            rich_help_panel=CODEBOOK,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder of the vectors: folder or hf://ORG/NAME; recorded for add-items.",
            rich_help_panel=CODEBOOK,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Revision of the encoder.", rich_help_panel=CODEBOOK)
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="Its pooling, like mean (MiniOneRec) or lasttoken. Default: the model's.",
            rich_help_panel=CODEBOOK,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Text that it puts before each text.", rich_help_panel=CODEBOOK),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum tokens per text.", rich_help_panel=CODEBOOK),
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Its precision.", rich_help_panel=CODEBOOK)
    ] = None,
    text_template: Annotated[
        str | None,
        typer.Option(
            help='Text of an item that it reads, like "{title} {description}".',
            rich_help_panel=CODEBOOK,
        ),
    ] = None,
    trust_remote_code: options.Trust = False,
    id_column: options.IdColumn = None,
    title_column: options.TitleColumn = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Import another system's map as a bundle, with its codebook if there is one."""
    from sidtool.base.output import refuse_existing
    from sidtool.base.output_name import BUNDLE
    from sidtool.integrations.formats.convert import import_map, read_map
    from sidtool.integrations.formats.imported_codebook import codebook_file
    from sidtool.tokenizer.encoder.settings import Encoder

    how: dict[str, Any] = {"items": catalog_file(items, id_column, title_column), "info": info}
    how |= {"sizes": Levels.from_text(levels).sizes if levels is not None else None, "keys": keys}
    how["codebook"] = codebook_file(
        codebook,
        embeddings=embeddings,
        by_row=by_row or None,
        encoder=Encoder.of(
            encoder,
            revision=revision,
            pooling=pooling,
            prompt=prompt,
            max_length=max_length,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        ),
        text_template=text_template,
        fail_under=fail_under,
    )
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
    _say_imported(bundle, out, json)
    start = "codebook" if bundle.codebook is not None else "mean"
    return next_step(
        "sidtool extend-model MODEL {out} -o MODEL+sid --init {start}", out=out, start=start
    )


def _say_imported(bundle: "Bundle", out: Path, json: bool) -> None:
    from sidtool.integrations.formats.imported_codebook import encoded_share

    manifest = bundle.manifest
    encoded = encoded_share(bundle)
    if json:
        figures = {
            "bundle": str(out),
            "digest": bundle.identity.digest,
            "items": manifest.items,
            "policy": manifest.collisions.policy,
            "codebook": manifest.source.get("codebook_layout"),
            "encoded": None if encoded is None else {**encoded.to_json(), "share": encoded.share},
        }
        return say_json(figures)
    policy = manifest.collisions.policy
    sharing = "some items share a SID" if policy == "allow" else "every item has its own SID"
    book = "no codebook"
    if bundle.codebook is not None:
        book = f"codebook of {bundle.codebook.method} for vectors of {bundle.codebook.dim} numbers"
    say(
        f"{out}: {manifest.items} items, {bundle.space.spelled_sizes}, spelled "
        f"{bundle.space.template}; {sharing}; {book}"
    )
    if encoded is not None:
        by_level = ", ".join(f"{count / encoded.items:.1%}" for count in encoded.equal)
        say(
            f"encoding gives back the SIDs of {encoded.equal[-1]} of {encoded.items} items "
            f"({encoded.share:.1%}); by levels: {by_level}"
        )
    return None


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
    from sidtool.base.output import refuse_existing
    from sidtool.integrations.formats.convert import (
        EXPORTS,
        check_export_options,
        export_map,
        plan_export,
    )
    from sidtool.integrations.formats.token_ids import model_tokens
    from sidtool.registry.references import open_source

    catalog = catalog_file(items, id_column, title_column)
    check_export_options(to, items=catalog, keys=keys, has_model=model is not None)
    opened = open_source(bundle)
    tokens = model_tokens(model, opened) if model is not None else None
    if dry_run:
        refuse_existing(out, force, EXPORTS[to])
        n_items = plan_export(opened, to, items=catalog, keys=keys)
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


def catalog_file(
    path: Path | None, id_column: str | None, title_column: str | None
) -> "CatalogFile | None":
    """The catalog of a command's options. Raises UsageError for columns without a catalog."""
    from sidtool.integrations.formats.convert import CatalogFile

    if path is not None:
        return CatalogFile(path, id_column, title_column)
    if id_column is not None or title_column is not None:
        raise UsageError("--id-column and --title-column require --items")
    return None
