"""Commands that read a bundle, and encoders: inspect, verify, embed, encode, decode."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from sidtool import registry, tokenizer
from sidtool.base.errors import EXIT_REFUSED, RefusedError, UsageError
from sidtool.base.options import option
from sidtool.cli.codebook import say_report
from sidtool.cli.compare import ProbeInputs, say_changes, say_figures
from sidtool.cli.reports.bundle_tables import bundle_facts
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import (
    next_step,
    note,
    say,
    say_cells,
    say_json,
    say_table,
    standard_input,
    warn,
)
from sidtool.cli.terminal.pace import progress
from sidtool.data import tables
from sidtool.integrations import cluster
from sidtool.integrations.cluster import ItemColumns, RunOptions
from sidtool.integrations.formats import CatalogFile
from sidtool.model import contract as contracts
from sidtool.tokenizer.encoder import Encoder

EXAMPLES = 5
"""Items under a prefix that are shown by default."""


def inspect(
    bundle: options.Bundle,
    prefix: Annotated[
        str | None, "Start of a SID, like <s_a_12>: show what its items have in common."
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Items to show.")] = EXAMPLES,
    *,
    probe: ProbeInputs,
    catalog: CatalogFile | None,
    json: options.Json = False,
) -> None:
    """Show the contents of a bundle or model, how its SIDs agree with events, labels or an earlier
    bundle, or what the items under a SID prefix have in common."""
    is_probed = probe != ProbeInputs() or catalog is not None
    if is_probed and prefix is not None:
        raise UsageError("--prefix excludes --split, --items, --field and --against")
    if prefix is None and examples != EXAMPLES:
        raise UsageError("--examples requires --prefix")
    location, _ = registry.locate(bundle)
    is_model = (Path(location) / contracts.CONTRACT).is_file()
    if is_model and prefix is None and not is_probed:
        return _say_model(location, json=json)
    opened = registry.open_bundle(f"{location}/{contracts.BUNDLE_COPY}" if is_model else bundle)
    if prefix is None:
        measured, changes = probe.measure(opened, catalog)
        if json:
            values = opened.manifest.to_json()
            values["retired_items"] = opened.n_retired
            if measured is not None:
                values["figures"] = measured.to_json()
            if changes is not None:
                values |= {"same_prefix": changes.same_prefix, "drift": changes.drift}
            return say_json(values)
        say_table(["", ""], list(bundle_facts(opened).items()))
        report = opened.manifest.codebook_report
        if report is not None:
            say_report(report)
        if measured is not None:
            say_figures([(bundle, measured)], shows_usage=catalog is not None)
        return say_changes(changes) if changes is not None else None
    group = tokenizer.explain(opened, prefix, examples=examples)
    if json:
        return say_json(asdict(group))
    say(f"{group.prefix}: {group.items} items")
    if group.terms:
        words = [f"{t.word} ({t.share:.0%}, overall {t.overall:.1%})" for t in group.terms]
        say(f"in common: {', '.join(words)}")
    rows = [(example.item_id, example.sid, example.title) for example in group.examples]
    return say_table(["item", "SID", "title"], rows)


def verify(
    artifact: options.Artifact,
    signed_by: Annotated[
        str | None,
        "Also check its signature, by these public keys or certificates in PEM, or "
        "keyless:IDENTITY@ISSUER.",
        "SIGNERS",
    ] = None,
    json: options.Json = False,
) -> None:
    """Check every stored byte of a bundle, a memory or a model against its digests (exit 3 if one
    differs)."""
    if signed_by is not None:
        registry.check_signed(artifact, signed_by)
    location, record = registry.locate(artifact)
    broken = registry.broken_parts(location, record)
    if json:
        objects = [{"object": name, "reason": reason} for name, reason in broken]
        say_json({"ok": not broken, "broken": objects})
    for name, reason in broken:
        warn(f"{name}: {reason}", label="broken:", style="bold red")
    if broken and record is not None:
        note("push the same artifact again: only lost and damaged objects are sent", label="hint:")
    if broken:
        raise typer.Exit(EXIT_REFUSED)
    if not json:
        manifest = registry.read_manifest(location)
        say(
            f"{artifact}: {manifest.items} items, {len(manifest.objects) + 1} objects, "
            f"{manifest.digest}"
        )


def embed(
    catalog: Annotated[
        str, "Catalog: a Parquet file or a folder of such, at a path or URL.", "ITEMS"
    ],
    out: options.Out,
    encoder: Encoder,
    columns: ItemColumns,
    run: RunOptions,
    json: options.Json = False,
) -> None:
    """Embed the texts of items, as a folder of Parquet files for build-codebook --embeddings.

    The files are the same for any engine and number of workers."""
    vectors = tables.as_url(out)
    with progress("embed") as reports:
        run = replace(run, progress=reports.get("embed"))
        report = cluster.embed_folder(catalog, vectors, encoder, columns, run=run)
    _say_parts("embed", report, vectors, json=json, dry_run=run.dry_run)
    if not run.dry_run:
        command = "sidtool build-codebook {catalog} --embeddings {vectors} -o BUNDLE.zarr"
        next_step(command, catalog=catalog, vectors=vectors)


@dataclass(frozen=True)
class EncodeInputs:
    """What is encoded in place of texts, and by what."""

    embeddings: tuple[Path, ...] = option(())
    """Vectors in place of texts, once per source: .npy, Parquet or Zarr."""
    encoder: str | None = option(None)
    """Present location of the bundle's encoder, if it moved."""
    catalog: str | None = option(None, flag="--items", metavar="FOLDER", panel="Data")
    """Parquet file of items or folder of such, at a path or URL, in place of texts; needs -o."""
    out: Path | None = option(None, short="-o")
    """Folder for the SIDs of --items, at a path or URL."""
    trust_remote_code: bool = option(False)
    """Run a model's own code and load pickled weights."""


def encode(
    bundle: options.Bundle,
    columns: ItemColumns,
    run: RunOptions,
    inputs: EncodeInputs,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts. Default: the lines of standard input.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Print the SID of texts or vectors and the items with that SID, or write the SIDs of a
    catalog.

    If the bundle has an appended collision level, the SID lacks its last code and all items whose
    SID starts with it are listed."""
    if inputs.embeddings and (texts or inputs.encoder is not None):
        raise UsageError("--embeddings replace texts and --encoder", hint="give one of the two")
    if inputs.catalog is not None:
        if texts or inputs.embeddings or inputs.out is None:
            raise UsageError("--items replaces texts and --embeddings, and needs -o FOLDER")
        place = tables.as_url(inputs.out)
        with progress("encode") as reports:
            report = cluster.encode_folder(
                bundle,
                inputs.catalog,
                place,
                columns,
                model=inputs.encoder,
                trust_remote_code=inputs.trust_remote_code,
                run=replace(run, progress=reports.get("encode")),
            )
        return _say_parts("encode", report, place, json=json, dry_run=run.dry_run)
    # a dry run of texts is a run, which writes nothing
    is_of_items = columns != ItemColumns() or replace(run, dry_run=False) != RunOptions()
    if inputs.out is not None or is_of_items:
        raise UsageError("-o and the options of a catalog or its workers require --items")
    if not inputs.embeddings and not texts:
        texts = [line.rstrip("\r\n") for line in standard_input()]
    encodings = tokenizer.encode(
        registry.open_bundle(bundle),
        texts or [],
        embeddings=inputs.embeddings,
        model=inputs.encoder,
        trust_remote_code=inputs.trust_remote_code,
    )
    for encoding in encodings:
        if json:
            say_json(asdict(encoding))
        else:
            say_cells(*filter(None, (encoding.sid, encoding.text, " ".join(encoding.items))))
    return None


def _say_parts(
    verb: str, report: cluster.RunReport, place: str, *, json: bool, dry_run: bool
) -> None:
    """Print what a run over a folder wrote, or would write."""
    if dry_run:
        text = f"would {verb} {report.rows} items to {place}"
        options.Writing(json=json).plan(text, items=report.rows, out=place)
    elif json:
        files = {part.name: part.digest for part in report.parts}
        say_json({"items": report.rows, "files": files})
    else:
        say(f"{report.rows} items in {len(report.parts)} files at {place}")


def decode(
    bundle: options.Bundle,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="SIDs, or texts that contain SIDs. Default: standard input."),
    ] = None,
    strict: Annotated[bool, "Exit 3 unless every SID is that of an active item."] = False,
    json: options.Json = False,
) -> None:
    """Print the items of the SIDs in a text, and report unknown, retired and malformed SIDs."""
    opened = registry.open_bundle(bundle)
    failed = 0
    for text in texts or (line.rstrip("\n") for line in standard_input()):
        sids = tokenizer.decode(opened, text)
        failed += sum(sid.status != "item" for sid in sids)
        if not sids:
            failed += 1
            warn(f"no semantic ID in {text[:80]!r}")
        for sid in sids:
            if json:
                say_json(asdict(sid))
                continue
            if not sid.items:
                say_cells(sid.sid, sid.status)
            for item, title in zip(sid.items, sid.titles, strict=True):
                say_cells(sid.sid, sid.status, item, *filter(None, [title]))
    if strict and failed:
        raise RefusedError(f"{failed} SIDs are missing, or not of an active item of {bundle}")


def _say_model(folder: str, *, json: bool) -> None:
    """What the contract of a model records."""
    contract, summary, validations = contracts.inspect_model(Path(folder))
    if json:
        return say_json(contract.to_json())
    stages = " > ".join(record.stage for record in contract.stages)
    prompts = [contract.history_prompt, contract.list_prompt, contract.text_prompt]
    prompts += contract.label_prompts
    tasks = list(dict.fromkeys(prompt.task for prompt in prompts if prompt is not None))
    named = [("stages", stages), ("tasks", ", ".join(tasks) or "none")]
    say_table(["", ""], [*summary.items(), *named])
    rows = []
    for stage, metric, value, step in validations:
        # by its own size: a count of users in the same column would round a metric to zero
        is_metric = isinstance(value, float) and abs(value) < 10
        rows.append((stage, metric, f"{value:.4f}" if is_metric else f"{value:g}", step))
    return say_table(["stage", "metric", "value", "step"], rows) if rows else None
