"""The command embed, and encode over a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, progress, say, say_json, say_plan
from sidtool.tokenizer.encoder.settings import Dtype

if TYPE_CHECKING:
    from sidtool.integrations.ray.run import RunReport


def embed(
    catalog: Annotated[
        str,
        typer.Argument(
            metavar="ITEMS", help="Catalog: a Parquet file or a folder of such, at a path or URL."
        ),
    ],
    out: options.Out,
    encoder: Annotated[
        str, typer.Option(help="sentence-transformers model: folder or hf://ORG/NAME.")
    ],
    revision: Annotated[str | None, typer.Option(help="Revision of the model.")] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="Pooling of token vectors, like mean, cls or lasttoken. Default: the model's."
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Text put before each item's text.")] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="Maximum tokens per text.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Precision of the model.")] = None,
    trust_remote_code: options.Trust = False,
    id_column: options.IdColumn = None,
    title_column: options.TitleColumn = None,
    text_template: options.TextTemplate = None,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    resume: options.ResumeParts = False,
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Embed the texts of items, as a folder of Parquet files for build-codebook --embeddings.

    The files are the same for any engine and number of workers."""
    from sidtool.data.tables.locate import as_url
    from sidtool.integrations.ray.run import RunOptions
    from sidtool.integrations.ray.vectors import ItemColumns, embed_folder
    from sidtool.tokenizer.encoder.settings import Encoder

    model = Encoder(
        encoder, revision, pooling, prompt, max_length, dtype, trust_remote_code=trust_remote_code
    )
    columns = ItemColumns(id_column, title_column, text_template)
    with progress("embed") as reports:
        flags = {"resume": resume, "force": force, "dry_run": dry_run}
        run = RunOptions(engine, workers, progress=reports.get("embed"), **flags)
        report = embed_folder(catalog, as_url(out), model, columns, run=run)
    _say_parts("embed", report, as_url(out), json=json, dry_run=dry_run)
    if not dry_run:
        command = "sidtool build-codebook {catalog} --embeddings {vectors} -o BUNDLE.zarr"
        next_step(command, catalog=catalog, vectors=as_url(out))


def encode_items(
    bundle: str,
    catalog: str,
    out: Path,
    columns: tuple[str | None, ...],
    moved: dict[str, Any],
    engine: Literal["local", "ray"],
    flags: dict[str, Any],
    *,
    json: bool,
) -> None:
    """Write the SIDs of a folder of items; `moved` says where the bundle's encoder is."""
    from sidtool.data.tables.locate import as_url
    from sidtool.integrations.ray.run import RunOptions
    from sidtool.integrations.ray.vectors import ItemColumns, encode_folder

    with progress("encode") as reports:
        run = RunOptions(engine, progress=reports.get("encode"), **flags)
        chosen = ItemColumns(*columns)
        report = encode_folder(bundle, catalog, as_url(out), chosen, **moved, run=run)
    _say_parts("encode", report, as_url(out), json=json, dry_run=run.dry_run)


def _say_parts(verb: str, report: "RunReport", out: str, *, json: bool, dry_run: bool) -> None:
    if dry_run:
        say_plan(
            f"would {verb} {report.rows} items to {out}",
            json=json,
            items=report.rows,
            out=out,
        )
    elif json:
        files = {part.name: part.digest for part in report.parts}
        say_json({"items": report.rows, "files": files})
    else:
        say(f"{report.rows} items in {len(report.parts)} files at {out}")
