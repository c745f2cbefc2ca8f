"""The commands between systems: import, export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sidtool import registry
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import option
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import BUNDLE
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, note, say, say_json
from sidtool.integrations import formats
from sidtool.integrations.formats import CatalogFile, CodebookFile, Keys, System
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.codes import CollisionCounts
from sidtool.tokenizer.sid import read_sizes


@dataclass(frozen=True)
class MapOptions:
    """How the map of another system is read."""

    info: Path | None = option(None)
    """MiniOneRec info.txt with titles."""
    sizes: tuple[int, ...] | None = option(None, flag="--levels", reads=read_sizes)
    """Codes per level, like 256x256x256; default: those of the codebook, or the next powers of
    two."""
    keys: Keys = option("id")
    """Keys of index.json: item ids, or line numbers of --items from 0."""


@keeps_inputs("a bundle")
def import_(
    source: Annotated[
        Path,
        "index.json of MiniOneRec, LC-Rec or LETTER, pid2sid.parquet of OpenOneRec, or the .pt map "
        "of GRID.",
        "MAP",
    ],
    out: options.Out,
    catalog: CatalogFile | None,
    codebook: CodebookFile | None,
    choices: MapOptions,
    writing: options.Writing = options.Writing(),
) -> None:
    """Import another system's map as a bundle, with its codebook if there is one."""
    refuse_existing(out, writing.force, BUNDLE)
    bundle = formats.read_map(
        source,
        name=out.name.removesuffix(".zip").removesuffix(".zarr"),
        items=catalog,
        info=choices.info,
        sizes=choices.sizes,
        keys=choices.keys,
        codebook=codebook,
    )
    if writing.dry_run:
        return writing.plan(
            f"would import {bundle.manifest.items} items of {source}, "
            f"{bundle.space.spelled_sizes}, to {out}",
            bundle=str(out),
            items=bundle.manifest.items,
            sizes=list(bundle.space.sizes),
            policy=bundle.manifest.collisions.policy,
        )
    bundle.save(out, force=writing.force)
    _say_imported(bundle, out, json=writing.json)
    start = "codebook" if bundle.codebook is not None else "mean"
    return next_step(
        "sidtool extend-model MODEL {out} -o MODEL+sid --init {start}", out=out, start=start
    )


def _say_imported(bundle: Bundle, out: Path, *, json: bool) -> None:
    manifest = bundle.manifest
    encoded = formats.encoded_share(bundle)
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
    n_sharing = CollisionCounts.of(bundle.items.codes).items
    sharing = f"{n_sharing} items share a SID" if n_sharing else "every item has its own SID"
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


@keeps_inputs()
def export(
    bundle: options.Bundle,
    out: Annotated[Path, typer.Option("-o", "--out", help=f"For {formats.outputs()}.")],
    to: Annotated[System, typer.Option("--to", help="Target system.")],
    keys: Annotated[
        Keys, "Keys of index.json: item ids, or line numbers of --items from 0."
    ] = "id",
    model: Annotated[
        str | None,
        "Model that the inference engine serves, if the map has token ids or depends on them.",
    ] = None,
    *,
    catalog: CatalogFile | None,
    writing: options.Writing = options.Writing(),
) -> None:
    """Export a bundle's map for another system or inference engine, without retired items."""
    formats.check_export_options(to, items=catalog, keys=keys, has_model=model is not None)
    opened = registry.open_source(bundle)
    tokens = None if model is None else formats.model_tokens(model, opened)
    if writing.dry_run:
        refuse_existing(out, writing.force, formats.FORMATS[to].output)
        n_items = formats.plan_export(opened, to, items=catalog, keys=keys, tokens=tokens)
        text = f"would export {n_items} items of {bundle} for {to} to {out}"
        return writing.plan(text, out=str(out), system=to, items=n_items)
    exported = formats.export_map(
        opened, out, to, items=catalog, keys=keys, tokens=tokens, force=writing.force
    )
    if writing.json:
        files = [str(file) for file in exported.files]
        options = exported.engine_options or None
        return say_json({"system": to, "files": files, "engine_options": options})
    if exported.engine_options:
        say(exported.engine_options)
    else:
        say(*exported.files)
    return note(exported.lacks) if exported.lacks else None
