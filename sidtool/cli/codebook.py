"""The commands around the artifact: build-codebook, inspect, verify, encode, decode."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from sidtool.cli import options
from sidtool.cli.console import next_step, note, progress, say, say_json, say_table
from sidtool.cli.inputs import open_weighted, read_side_by_side
from sidtool.cli.models import assignments
from sidtool.errors import EXIT_REFUSED, RefusedError, UsageError
from sidtool.sid import LETTERS, SPELLINGS, Levels


def build_codebook(
    items: Annotated[
        Path,
        typer.Argument(
            help="Catalog: JSONL, CSV, TSV, Parquet, RecBole .item, MiniOneRec item.json."
        ),
    ],
    out: options.Out,
    levels: Annotated[str, typer.Option(help="Codes per level, like 256x256x256.")] = "256x256x256",
    encoder: Annotated[
        str | None, typer.Option(help="sentence-transformers model: hub id or path.")
    ] = None,
    embeddings: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE[=WEIGHT]",
            help="Vectors made elsewhere: .npy with ids, Parquet or Zarr. Several are fused by "
            "weight.",
        ),
    ] = None,
    interactions: Annotated[
        Path | None,
        typer.Option(
            metavar="SPLIT",
            help="Split folder (or events, split by leave-one-out). Item co-occurrence in its "
            "training part is used to build the codebook.",
        ),
    ] = None,
    signal: Annotated[
        str,
        typer.Option(help="How they enter: fused vectors, a contrastive loss (rq-vae), or both."),
    ] = "fused",
    method: Annotated[str, typer.Option(help="How vectors are quantized.")] = "rq-kmeans",
    balanced: Annotated[
        bool | None,
        typer.Option(
            "--balanced/--no-balanced",
            help="Give every code of a level about as many items (rq-kmeans); by default where "
            "under 8 a code.",
        ),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option("--normalize", help="Scale every vector to length 1 before it is quantized."),
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            envvar="SIDTOOL_BUILD_CODEBOOK_SET",
            help="Option of the method or the fusion, key=value.",
        ),
    ] = None,
    collisions: Annotated[
        str, typer.Option(help="Items that share a SID: reassign, append or allow.")
    ] = "reassign",
    text: Annotated[
        str | None, typer.Option(help='Text of an item, like "{title}. {description}".')
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column of item ids; guessed if not given.")
    ] = None,
    title_column: Annotated[
        str | None, typer.Option(help="Column of titles; guessed if not given.")
    ] = None,
    on_empty: Annotated[
        str, typer.Option(help="An item without text: id (its id is its text), drop or error.")
    ] = "id",
    spelling: Annotated[
        str, typer.Option(help=f"Token spelling: {' or '.join(SPELLINGS)}.")
    ] = "openonerec",
    markers: Annotated[bool, typer.Option(help="Wrap a SID in begin and end tokens.")] = True,
    revision: Annotated[str | None, typer.Option(help="Revision of the encoder.")] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="Pooling of the encoder, if not its own: mean, cls, lasttoken."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Text put before each item's text.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a text that the encoder reads.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Precision of the encoder: float32, bfloat16, float16.")
    ] = None,
    memory: options.Memory = "4GiB",
    seed: options.Seed = 0,
    trust_remote_code: options.Trust = False,
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Build a codebook and the item<->SID map of a catalog, as one bundle."""
    from sidtool.build.build import Plan
    from sidtool.build.build import build_codebook as build
    from sidtool.data.items import read_items
    from sidtool.data.split_files import open_split
    from sidtool.embed import Encoder
    from sidtool.quantize.fusion import BLEND, Blend

    if (encoder is None) == (not embeddings):
        raise UsageError(
            "give either --encoder or --embeddings",
            hint="--encoder sentence-transformers/all-MiniLM-L6-v2",
        )
    of_encoder = {
        "--revision": revision,
        "--pooling": pooling,
        "--prompt": prompt,
        "--max-length": max_length,
        "--dtype": dtype,
    }
    if embeddings and (asked := [name for name, value in of_encoder.items() if value is not None]):
        raise UsageError(f"{asked[0]} is of an encoder, and --embeddings need none")
    if max_length is not None and max_length < 1:
        raise UsageError(f"--max-length is 1 or more, not {max_length}")
    budget = options.bytes_of(memory)
    flags = {} if balanced is None else {"balanced": balanced}
    flags |= {"normalize": True} if normalize else {}
    chosen = assignments(set_)
    fusing = {name: chosen.pop(name) for name in BLEND if name in chosen}
    plan = Plan(
        Levels.from_text(levels).sizes,
        method,
        collisions,  # type: ignore[arg-type]
        spelling,
        markers,
        seed,
        options={**chosen, **flags},
        blend=Blend(**fusing),
        signal=signal,  # type: ignore[arg-type]
    )
    catalog = read_items(
        items,
        id_column=id_column,
        title_column=title_column,
        text_template=text,
        on_empty=on_empty,  # type: ignore[arg-type]
    )
    events = open_split(interactions) if interactions else None
    if events is None and signal != "fused":
        raise UsageError(f"--signal {signal} needs --interactions")
    if events is None and (idle := fusing.keys() - {"text_dim"}):
        raise UsageError(f"option {min(idle)} needs --interactions")
    if signal == "contrastive" and (idle := fusing.keys() - {"text_dim", "window", "decay"}):
        raise UsageError(f"option {min(idle)} is of a fused signal, not of --signal {signal}")
    if signal == "fused" and "contrastive" in chosen:
        raise UsageError("option contrastive needs --signal contrastive or both")
    if dry_run:
        note(
            f"would build {plan.space(plan.sizes).spelled_sizes} for {len(catalog.ids)} items "
            f"at {out}"
        )
        note(f"text of {catalog.ids[0]}: {catalog.texts[0]}")
        return
    sources, weights = open_weighted(embeddings, catalog.ids, budget) if embeddings else (None, ())
    with progress("embed", "quantize", "encode") as report:
        bundle = build(
            catalog,
            out,
            replace(plan, weights=weights),
            encoder=Encoder(
                model=encoder,
                revision=revision,
                pooling=pooling,
                prompt=prompt,
                max_length=max_length,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
            )
            if encoder is not None
            else None,
            vectors=sources,
            split=events,
            force=force,
            progress=report,
        )
    if json:
        say_json(
            {
                "bundle": str(out),
                "digest": bundle.identity.digest,
                "report": dict(bundle.manifest.report),
            }
        )
    else:
        _say_report(dict(bundle.manifest.report))
    next_step(f"sidtool extend-model MODEL {out} -o MODEL+sid")


def inspect(
    bundle: options.Bundle,
    code: Annotated[
        str | None,
        typer.Option(help="Start of a SID, like <s_a_12>: what its items have in common."),
    ] = None,
    examples: Annotated[int, typer.Option(help="Items shown.")] = 5,
    json: options.Json = False,
) -> None:
    """Show what a bundle holds, or what the items under a code have in common."""
    from sidtool.build.explain import explain
    from sidtool.registry.references import open_bundle

    opened = open_bundle(bundle)
    if code is None:
        manifest = opened.manifest.to_json()
        return say_json(manifest) if json else _say_manifest(manifest)
    group = explain(opened, opened.space.parse_prefix(code), examples=examples)
    if json:
        return say_json(
            {
                "prefix": group.prefix,
                "items": group.size,
                "examples": [
                    {"item_id": item, "sid": sid, "title": title}
                    for item, sid, title in group.examples
                ],
                "terms": [
                    {"word": t.word, "share": t.share, "overall": t.overall} for t in group.terms
                ],
            }
        )
    say(f"{group.prefix}: {group.size} items")
    if group.terms:
        say(
            "in common: "
            + ", ".join(f"{t.word} ({t.share:.0%}, elsewhere {t.overall:.1%})" for t in group.terms)
        )
    say_table(["item", "SID", "title"], group.examples)
    return None


def verify(bundle: options.Bundle, json: options.Json = False) -> None:
    """Check every stored byte of a bundle against its digests (exit 3 if one differs)."""
    from sidtool.bundle import verify as check
    from sidtool.registry.references import open_bundle, resolve

    broken = check(resolve(bundle))
    if json:
        say_json(
            {
                "ok": not broken,
                "broken": [{"object": name, "reason": reason} for name, reason in broken],
            }
        )
    for name, reason in broken:
        note(f"{name}: {reason}", label="broken:", style="bold red")
    if broken:
        raise typer.Exit(EXIT_REFUSED)
    if not json:
        manifest = open_bundle(bundle).manifest
        say(
            f"{bundle}: {manifest.items} items, {len(manifest.objects) + 1} objects, "
            f"{manifest.identity.digest}"
        )


def encode(
    bundle: options.Bundle,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts; standard input, a line each, if none are given."),
    ] = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(
            help="Vectors in place of texts, once for each source: .npy, Parquet or Zarr."
        ),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Where the bundle's encoder lies now, if it moved.")
    ] = None,
    trust_remote_code: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Write the SID of texts or vectors, and the catalog's items there.

    Where collisions were appended it is a SID without its last code, and the items are all those
    that begin so."""
    from sidtool.build.encode import encode_texts
    from sidtool.registry.references import open_bundle

    opened = open_bundle(bundle)
    if embeddings and (texts or encoder is not None):
        raise UsageError(
            "--embeddings are encoded in place of texts, without an encoder",
            hint="give one of the two",
        )
    if embeddings:
        vectors = read_side_by_side(embeddings, None, opened)
        names, codes = [str(row) for row in range(len(vectors))], opened.encode(vectors)
    else:
        names = texts or [line.rstrip("\n") for line in sys.stdin]
        codes = encode_texts(opened, names, model=encoder, trust_remote_code=trust_remote_code)
    for name, row in zip(names, codes, strict=True):
        sid = opened.space.spell(
            row
        )  # a prefix, where an appended level tells colliding items apart
        first, stop = opened.items.rows_under(row.tolist())
        items = [opened.items.ids[at] for at in range(first, stop) if not opened.items.retired[at]]
        if json:
            say_json({"text": name, "sid": sid, "codes": row.tolist(), "items": items})
        else:
            say(f"{sid}\t{name}" + (f"\t{' '.join(items)}" if items else ""))


def decode(
    bundle: options.Bundle,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="SIDs, or any text with SIDs in it; standard input if none."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 3 unless every SID is a living item.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Name the items behind the SIDs in a text; report unknown, retired and malformed ones."""
    from sidtool.bundle.decode import decode as look_up
    from sidtool.registry.references import open_bundle

    opened = open_bundle(bundle)
    failed = 0
    for text in texts or (line.rstrip("\n") for line in sys.stdin):
        found = look_up(opened, text)
        failed += sum(piece.status != "item" for piece in found) + (not found)
        if not found:
            note(repr(text[:80]), label="no semantic ID in", style="yellow")
        for piece in found:
            if json:
                say_json(
                    {
                        "sid": piece.sid,
                        "status": piece.status,
                        "items": list(piece.items),
                        "titles": list(piece.titles),
                    }
                )
            else:
                shown = [
                    f"{item}\t{title}".rstrip()
                    for item, title in zip(piece.items, piece.titles, strict=True)
                ] or [""]
                say(*(f"{piece.sid}\t{piece.status}\t{line}".rstrip() for line in shown))
    if strict and failed:
        raise RefusedError(f"{failed} SIDs name no living item of {bundle}")


def _say_manifest(manifest: dict[str, Any]) -> None:
    recipe = manifest["recipe"] or {}
    encoder = recipe.get("encoder", {})
    rows = [
        ("name", f"{manifest['name']} {manifest['version']} (format {manifest['format']})"),
        ("digest", manifest["identity"]["digest"]),
        ("items", manifest["items"]),
        (
            "space",
            "x".join(map(str, manifest["space"]["sizes"])) + f", {manifest['space']['template']}",
        ),
        (
            "markers",
            f"{manifest['space']['begin']} {manifest['space']['end']}"
            if manifest["space"]["begin"]
            else "none",
        ),
        ("collisions", manifest["collisions"]["policy"]),
        ("quantizer", recipe.get("quantizer", {}).get("method", "none: a map without a codebook")),
        ("encoder", encoder.get("model") or encoder.get("vectors", "none")),
        ("signal", _spell_signal(recipe)),
        ("text", recipe.get("text_template", "none")),
        ("created", manifest["created"]),
    ]
    say_table(["", ""], rows)
    if manifest["report"]:
        _say_report(manifest["report"])


def _spell_signal(recipe: Mapping[str, Any]) -> str:
    if "signal" not in recipe:
        return "none"
    signal, fused = (
        recipe["signal"],
        recipe["quantizer"]["parameters"].get("fusion", {}).get("signal", {}),
    )
    told = (
        f", fused into {fused['warm_items']} items with weight {fused['weight']:g}" if fused else ""
    )
    told += ", a contrastive loss" if signal["way"] != "fused" else ""
    return f"{signal['train_events']} training events, {signal['protocol']}{told}"


def _say_report(report: dict[str, Any]) -> None:
    before, after = report["collisions"]["before"], report["collisions"]["after"]
    lost, kept = report["variance_left"], report["neighbors"]
    rows = []
    for level, use in enumerate(report["levels"]):
        variance = lost[level] if level < len(lost) else "-"  # an appended level quantizes nothing
        numbers = (use["size"], use["used"], use["entropy"], use["perplexity"], use["gini"])
        rows.append((LETTERS[level], *numbers, variance, kept["jaccard"][level]))
    columns = [
        "level",
        "codes",
        "in use",
        "entropy",
        "perplexity",
        "gini",
        "variance left",
        "neighbors kept",
    ]
    say_table(columns, rows)
    say(
        f"collisions: {before['items']} items in {before['groups']} groups (largest "
        f"{before['largest']}) before, "
        f"{after['items']} after; {report['moved']} of {report['items']} items moved",
        f"neighbors kept: Jaccard@{kept['k']} of embedding and SID-prefix neighbors over "
        f"{kept['queries']} items",
    )
