"""Commands that read a bundle: inspect, verify, encode, decode."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidtool.base.errors import EXIT_REFUSED, RefusedError, UsageError
from sidtool.cli.codebook import say_report
from sidtool.cli.embed import encode_items, say_parts
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import say, say_cells, say_json, say_table, standard_input, warn
from sidtool.integrations.ray import ItemColumns, RunOptions

if TYPE_CHECKING:
    from sidtool.tokenizer.bundle import Bundle, Decoded


def inspect(
    bundle: options.Bundle,
    prefix: Annotated[
        str | None,
        typer.Option(help="Start of a SID, like <s_a_12>: show what its items have in common."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Items to show.")] = 5,
    json: options.Json = False,
) -> None:
    """Show the contents of a bundle or model, or what the items under a SID prefix have in
    common."""
    from sidtool.model.contract import BUNDLE_COPY, CONTRACT
    from sidtool.registry import open_bundle
    from sidtool.tokenizer import explain

    is_model = (Path(bundle) / CONTRACT).is_file()
    if is_model and prefix is None:
        return _say_model(bundle, json=json)
    opened = open_bundle(f"{bundle}/{BUNDLE_COPY}" if is_model else bundle)
    if prefix is None and json:
        return say_json(opened.manifest.to_json())
    if prefix is None:
        say_table(["", ""], _manifest_rows(opened))
        report = opened.manifest.codebook_report
        return say_report(report) if report else None
    group = explain(opened, prefix, examples=examples)
    if json:
        return say_json(asdict(group))
    say(f"{group.prefix}: {group.items} items")
    if group.terms:
        words = [f"{t.word} ({t.share:.0%}, overall {t.overall:.1%})" for t in group.terms]
        say(f"in common: {', '.join(words)}")
    rows = [(each.item_id, each.sid, each.title) for each in group.examples]
    return say_table(["item", "SID", "title"], rows)


def verify(artifact: options.Artifact, json: options.Json = False) -> None:
    """Check every stored byte of a bundle, a memory or a model against its digests (exit 3 if one
    differs)."""
    from sidtool.registry import broken_parts, read_manifest, resolve

    location = resolve(artifact)
    broken = broken_parts(location)
    if json:
        objects = [{"object": name, "reason": reason} for name, reason in broken]
        say_json({"ok": not broken, "broken": objects})
    for name, reason in broken:
        warn(f"{name}: {reason}", label="broken:", style="bold red")
    if broken:
        raise typer.Exit(EXIT_REFUSED)
    if not json:
        manifest = read_manifest(location)
        say(
            f"{artifact}: {manifest.items} items, {len(manifest.objects) + 1} objects, "
            f"{manifest.digest}"
        )


def encode(
    bundle: options.Bundle,
    columns: ItemColumns,
    run: RunOptions,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts. Default: the lines of standard input."),
    ] = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(help="Vectors in place of texts, once per source: .npy, Parquet or Zarr."),
    ] = None,
    encoder: options.MovedEncoder = None,
    catalog: Annotated[
        str | None,
        typer.Option(
            "--items",
            metavar="FOLDER",
            help="Parquet file of items or folder of such, at a path or URL, in place of texts; "
            "needs -o.",
            rich_help_panel="Data",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for the SIDs of --items, at a path or URL."),
    ] = None,
    trust_remote_code: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Print the SID of texts or vectors and the items with that SID, or write the SIDs of a
    catalog.

    If the bundle has an appended collision level, the SID lacks its last code and all items whose
    SID starts with it are listed."""
    from sidtool.registry import open_bundle
    from sidtool.tokenizer import encode as encode_all

    if embeddings and (texts or encoder is not None):
        raise UsageError("--embeddings replace texts and --encoder", hint="give one of the two")
    if catalog is not None:
        if texts or embeddings or out is None:
            raise UsageError("--items takes the place of texts, and needs -o FOLDER")
        moved = {"model": encoder, "trust_remote_code": trust_remote_code}
        report = encode_items(bundle, catalog, out, columns, run, **moved)
        return say_parts("encode", report, out, json=json, dry_run=run.dry_run)
    # a dry run of texts is a run, which writes nothing
    if out is not None or columns != ItemColumns() or replace(run, dry_run=False) != RunOptions():
        raise UsageError("-o and the options of a catalog or its workers require --items")
    opened = open_bundle(bundle)
    if not embeddings and not texts:
        texts = [line.rstrip("\n") for line in standard_input()]
    encodings = encode_all(
        opened,
        texts or [],
        embeddings=embeddings or [],
        model=encoder,
        trust_remote_code=trust_remote_code,
    )
    for each in encodings:
        if json:
            say_json(asdict(each))
        else:
            say_cells(*filter(None, (each.sid, each.text, " ".join(each.items))))


def decode(
    bundle: options.Bundle,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="SIDs, or texts that contain SIDs. Default: standard input."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 3 unless every SID is that of an active item.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Print the items of the SIDs in a text, and report unknown, retired and malformed SIDs."""
    from sidtool.registry import open_bundle
    from sidtool.tokenizer.bundle import decode as look_up

    opened = open_bundle(bundle)
    failed = 0
    for text in texts or (line.rstrip("\n") for line in standard_input()):
        sids = look_up(opened, text)
        failed += sum(sid.status != "item" for sid in sids)
        if not sids:
            failed += 1
            warn(f"no semantic ID in {text[:80]!r}")
        for sid in sids:
            if json:
                say_json(asdict(sid))
            else:
                _say_decoded(sid)
    if strict and failed:
        raise RefusedError(f"{failed} SIDs are not those of active items of {bundle}")


def _say_decoded(sid: "Decoded") -> None:
    if not sid.items:
        say_cells(sid.sid, sid.status)
    for item, title in zip(sid.items, sid.titles, strict=True):
        say_cells(sid.sid, sid.status, item, *filter(None, [title]))


def _say_model(folder: str, *, json: bool) -> None:
    """What the contract of a model records."""
    from sidtool.model import usable_items
    from sidtool.model.contract import open_bundle_copy, read_contract, summary, validations

    contract = read_contract(Path(folder))
    bundle = usable_items(open_bundle_copy(Path(folder), contract), contract.tokens)
    if json:
        return say_json(contract.to_json())
    stages = " > ".join(record.stage for record in contract.stages)
    prompts = [contract.history_prompt, contract.list_prompt, contract.text_prompt]
    prompts += contract.label_prompts
    tasks = list(dict.fromkeys(prompt.task for prompt in prompts if prompt is not None))
    named = [("stages", stages), ("tasks", ", ".join(tasks) or "none")]
    say_table(["", ""], [*summary(contract, bundle).items(), *named])
    rows = validations(contract)
    return say_table(["stage", "metric", "value", "step"], rows) if rows else None


def _manifest_rows(bundle: "Bundle") -> list[tuple[str, object]]:
    manifest = bundle.manifest
    space = manifest.space
    recipe = manifest.recipe or {}
    encoder = recipe.get("encoder", {})
    method = bundle.codebook.method if bundle.codebook else "none: a map without a codebook"
    return [
        ("name", f"{manifest.name} {manifest.version} (format {manifest.format})"),
        ("digest", manifest.identity.digest),
        ("items", manifest.items),
        ("levels", f"{space.spelled_sizes}, {space.template}"),
        ("begin and end tokens", f"{space.begin} {space.end}" if space.begin else "none"),
        ("collisions", manifest.collisions.policy),
        ("quantizer", method),
        ("encoder", encoder.get("model") or encoder.get("vectors", "none")),
        ("co-occurrence", _cooccurrence(bundle)),
        ("text", recipe.get("text_template", "none")),
        ("created", manifest.created),
    ]


def _cooccurrence(bundle: "Bundle") -> str:
    record = (bundle.manifest.recipe or {}).get("collaborative")
    if record is None or bundle.codebook is None:
        return "none"
    fusion = bundle.codebook.params.fusion
    parts = [f"{record['train_events']} training events", record["protocol"]]
    if fusion is not None and fusion.collaborative is not None:
        part = fusion.collaborative
        parts.append(f"fused into {part.warm_items} items with weight {part.weight:g}")
    return ", ".join(parts)
