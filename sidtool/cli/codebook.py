"""The command build-codebook, and the table of a codebook report."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidtool.base.output import refuse_existing
from sidtool.base.output_name import BUNDLE
from sidtool.cli.terminal import options
from sidtool.cli.terminal.completion import complete_setting
from sidtool.cli.terminal.console import next_step, progress, say, say_json, say_plan, say_table
from sidtool.cli.terminal.inputs import assignments
from sidtool.data.items import EmptyText
from sidtool.tokenizer.assign.policy import Policy
from sidtool.tokenizer.encoder.settings import Dtype
from sidtool.tokenizer.quantize import Method
from sidtool.tokenizer.sid import LETTERS, Levels, Spelling

if TYPE_CHECKING:
    from sidtool.data.items import Items
    from sidtool.tokenizer.bundle.bundle import Bundle
    from sidtool.tokenizer.codes.report import CodebookReport
    from sidtool.tokenizer.make.build_options import BuildOptions

INPUT = "Data"
QUANTIZER = "Quantizer"
ENCODER = "Encoder"
TOKENS = "Tokens"


def build_codebook(
    items: Annotated[
        Path,
        typer.Argument(
            help="Catalog: JSONL, CSV, TSV, Parquet, RecBole .item or MiniOneRec item.json."
        ),
    ],
    out: options.Out,
    embeddings: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[=WEIGHT]",
            help="Item vectors: .npy with ids, Parquet or Zarr. Several are fused by weight.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    by_row: Annotated[bool, options.by_row(INPUT)] = False,
    interactions: Annotated[
        Path | None,
        typer.Option(
            metavar="SPLIT",
            help="Split folder, or events (split by leave-one-out). Item co-occurrence in the "
            "training part is used to build the codebook.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    text_template: Annotated[
        str | None,
        typer.Option(
            help='Text of an item from columns, like "{title}. {description}".',
            rich_help_panel=INPUT,
        ),
    ] = None,
    id_column: Annotated[str | None, options.id_column(INPUT)] = None,
    title_column: Annotated[str | None, options.title_column(INPUT)] = None,
    empty_text: Annotated[EmptyText, options.empty_text(INPUT)] = "id",
    levels: Annotated[
        str, typer.Option(help="Codes per level, like 256x256x256.", rich_help_panel=QUANTIZER)
    ] = "256x256x256",
    method: Annotated[
        Method, typer.Option(help="Quantization method.", rich_help_panel=QUANTIZER)
    ] = "rq-kmeans",
    balanced: Annotated[
        bool | None,
        typer.Option(
            "--balanced/--no-balanced",
            help="Assign about the same number of items to every code of a level (rq-kmeans). "
            "Default: on below 8 items per code.",
            rich_help_panel=QUANTIZER,
        ),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize", help="Scale every vector to length 1 first.", rich_help_panel=QUANTIZER
        ),
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            autocompletion=complete_setting("build-codebook"),
            metavar="KEY=VALUE",
            help="Option of the method or of the fusion of vectors.",
            rich_help_panel=QUANTIZER,
        ),
    ] = None,
    collisions: Annotated[
        Policy,
        typer.Option(
            help="Items with the same SID: reassign all but one, append a level, or allow them.",
            rich_help_panel=QUANTIZER,
        ),
    ] = "reassign",
    memory: options.Memory = "4GiB",
    seed: options.Seed = 0,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="sentence-transformers model: folder or hf://ORG/NAME.", rich_help_panel=ENCODER
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Revision of the model.", rich_help_panel=ENCODER)
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="Pooling of token vectors, like mean, cls or lasttoken. Default: the model's.",
            rich_help_panel=ENCODER,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Text put before each item's text.", rich_help_panel=ENCODER),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum tokens per text.", rich_help_panel=ENCODER),
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Precision of the model.", rich_help_panel=ENCODER)
    ] = None,
    trust_remote_code: options.Trust = False,
    spelling: Annotated[
        Spelling, typer.Option(help="Token spelling.", rich_help_panel="Output")
    ] = "openonerec",
    begin_end_tokens: Annotated[
        bool,
        typer.Option(
            help="Wrap a SID in begin and end tokens, if the spelling has them.",
            rich_help_panel=TOKENS,
        ),
    ] = True,
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Build a codebook and the item-SID map of a catalog, as one bundle."""
    from sidtool.tokenizer.encoder.settings import Encoder
    from sidtool.tokenizer.make.build import check_build, check_inputs
    from sidtool.tokenizer.make.build_options import build_options, parse_source

    model = Encoder.of(
        encoder,
        revision=revision,
        pooling=pooling,
        prompt=prompt,
        max_length=max_length,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    sources = [parse_source(each) for each in embeddings or []]
    check_inputs(model, sources)
    build = build_options(
        _settings(set_, balanced, normalize),
        has_events=interactions is not None,
        sizes=Levels.from_text(levels).sizes,
        method=method,
        collisions=collisions,
        spelling=spelling,
        begin_end_tokens=begin_end_tokens,
        weights=tuple(weight for _, weight in sources),
        seed=seed,
    )
    data: dict[str, Any] = {
        "embeddings": [path for path, _ in sources],
        "by_row": by_row,
        "split": interactions,
        "memory": options.parse_bytes(memory),
    }
    if dry_run:
        refuse_existing(out, force, BUNDLE)
    catalog = _read_catalog(items, id_column, title_column, text_template, empty_text)
    if dry_run:
        check_build(catalog, build, **data)
        return _say_plan(catalog, build, out, json)
    return _build(catalog, out, build, json, encoder=model, force=force, **data)


def _read_catalog(items: Path, *columns: Any) -> "Items":
    from sidtool.tokenizer.make.build_options import CatalogOptions, read_catalog

    return read_catalog(items, CatalogOptions(*columns))


def _build(catalog: "Items", out: Path, build: "BuildOptions", json: bool, **inputs: Any) -> None:
    from sidtool.tokenizer.make.build import build_codebook as build_bundle

    with progress("embed", "quantize", "encode") as stages:
        bundle = build_bundle(catalog, out, build, progress=stages, **inputs)
    _say_built(bundle, out, json)
    next_step("sidtool extend-model MODEL {out} -o MODEL+sid", out=out)


def _say_plan(catalog: "Items", build: "BuildOptions", out: Path, json: bool) -> None:
    levels = "x".join(map(str, build.sizes))
    say_plan(
        f"would build {levels} for {len(catalog)} items at {out}\n"
        f"text of {catalog.ids[0]}: {catalog.texts[0]}",
        json=json,
        bundle=str(out),
        items=len(catalog),
        example={catalog.ids[0]: catalog.texts[0]},
        options=asdict(build),
    )


def _settings(pairs: list[str] | None, balanced: bool | None, normalize: bool) -> dict[str, Any]:
    settings = assignments(pairs)
    if balanced is not None:
        settings["balanced"] = balanced
    if normalize:
        settings["normalize"] = True
    return settings


def _say_built(bundle: "Bundle", out: Path, json: bool) -> None:
    manifest = bundle.manifest
    if json:
        report = dict(manifest.report)
        say_json({"bundle": str(out), "digest": manifest.digest, "report": report})
    elif manifest.codebook_report is not None:
        say_report(manifest.codebook_report)


def say_report(report: "CodebookReport") -> None:
    """Print a codebook report as a table and two lines."""
    columns = ["level", "codes", "utilization", "entropy", "perplexity", "gini"]
    columns += ["residual variance", "neighbors"]
    # an appended level quantizes nothing, so it has no residual variance
    variances = dict(enumerate(report.residual_variance))
    rows = []
    for level, use in enumerate(report.levels):
        variance = variances.get(level, "-")
        figures = (use.size, use.utilization, use.entropy, use.perplexity, use.gini, variance)
        rows.append((LETTERS[level], *figures, report.neighbors.jaccard[level]))
    say_table(columns, rows)
    before = report.collisions.before
    say(
        f"collisions: {before.items} items in {before.groups} groups (largest {before.largest}) "
        f"before, {report.collisions.after.items} after; {report.reassigned} of {report.items} "
        "items reassigned",
        f"neighbors: Jaccard@{report.neighbors.k} of embedding and SID-prefix neighbors over "
        f"{report.neighbors.queries} items",
    )
