"""The command embed, and encode over a folder."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, progress, say, say_json, say_plan
from sidtool.integrations.ray import ItemColumns, RunOptions
from sidtool.tokenizer.encoder import Encoder

if TYPE_CHECKING:
    from sidtool.integrations.ray import RunReport


def embed(
    catalog: Annotated[
        str,
        typer.Argument(
            metavar="ITEMS", help="Catalog: a Parquet file or a folder of such, at a path or URL."
        ),
    ],
    out: options.Out,
    encoder: Encoder,
    columns: ItemColumns,
    run: RunOptions,
    json: options.Json = False,
) -> None:
    """Embed the texts of items, as a folder of Parquet files for build-codebook --embeddings.

    The files are the same for any engine and number of workers."""
    from sidtool.data.tables import as_url
    from sidtool.integrations.ray import embed_folder

    with progress("embed") as reports:
        run = replace(run, progress=reports.get("embed"))
        report = embed_folder(catalog, as_url(out), encoder, columns, run=run)
    say_parts("embed", report, out, json=json, dry_run=run.dry_run)
    if not run.dry_run:
        command = "sidtool build-codebook {catalog} --embeddings {vectors} -o BUNDLE.zarr"
        next_step(command, catalog=catalog, vectors=as_url(out))


def encode_items(
    bundle: str, catalog: str, out: Path, columns: ItemColumns, run: RunOptions, **moved: Any
) -> "RunReport":
    """Write the SIDs of a folder of items; `moved` says where the bundle's encoder is."""
    from sidtool.data.tables import as_url
    from sidtool.integrations.ray import encode_folder

    with progress("encode") as reports:
        run = replace(run, progress=reports.get("encode"))
        return encode_folder(bundle, catalog, as_url(out), columns, **moved, run=run)


def say_parts(verb: str, report: "RunReport", out: Path, *, json: bool, dry_run: bool) -> None:
    """Print what a run over a folder wrote, or would write."""
    from sidtool.data.tables import as_url

    place = as_url(out)
    if dry_run:
        say_plan(
            f"would {verb} {report.rows} items to {place}",
            json=json,
            items=report.rows,
            out=place,
        )
    elif json:
        files = {part.name: part.digest for part in report.parts}
        say_json({"items": report.rows, "files": files})
    else:
        say(f"{report.rows} items in {len(report.parts)} files at {place}")
