"""Commands for memories: build-memory, tune-memory."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidtool.cli import inference
from sidtool.errors import UsageError
from sidtool.terminal import options
from sidtool.terminal.console import next_step, progress, say, say_json, say_table

if TYPE_CHECKING:
    from sidtool.bundle.bundle import Bundle
    from sidtool.memory.build import EarlierMemory
    from sidtool.memory.content import ItemContent


def build_memory(
    split: options.Split,
    bundle: options.Bundle,
    out: options.Out,
    distance: Annotated[
        float | None,
        typer.Option(help="Weight of a pair of events per position between them; default 0.85."),
    ] = None,
    recency: Annotated[
        float | None,
        typer.Option(help="Weight of a history's item per later item; default 0.75."),
    ] = None,
    shrinkage: Annotated[
        float | None,
        typer.Option(help="Lowers the similarity of rare items; default 0."),
    ] = None,
    neighbors: Annotated[
        int | None, typer.Option(help="Most similar items kept per item; default 100.")
    ] = None,
    embeddings: Annotated[
        list[Path] | None,
        typer.Option(
            help="Vectors of the bundle's items, once per source: items with few events or none "
            "get neighbors by content."
        ),
    ] = None,
    content_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the content, by default 0.4; without --embeddings that of the items' "
            "codes, which is less exact. 0: no neighbors by content."
        ),
    ] = None,
    earlier: Annotated[
        str | None,
        typer.Option(help="A memory to update: only users with other events are counted again."),
    ] = None,
    earlier_split: Annotated[
        Path | None, typer.Option(help="The split that the earlier memory was built from.")
    ] = None,
    config: options.Config = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Build a memory: which items co-occur in the training events of a split."""
    from sidtool.memory.build import DEFAULT
    from sidtool.memory.build import build_memory as build
    from sidtool.output import refuse_existing
    from sidtool.registry.references import open_bundle
    from sidtool.splits.files import open_split

    refuse_existing(out, force)
    previous = _earlier(earlier, earlier_split)
    flags: dict[str, Any] = {"distance": distance, "recency": recency, "shrinkage": shrinkage}
    flags["neighbors"] = neighbors
    chosen = {name: value for name, value in flags.items() if value is not None}
    base = DEFAULT if previous is None else previous.memory.manifest.settings
    settings = replace(base, **chosen)
    opened = open_bundle(bundle)
    content = _content(opened, embeddings, content_weight, previous)
    memory = build(open_split(split), opened, settings, earlier=previous, content=content)
    memory.save(out, force=force)
    manifest = memory.manifest
    if json:
        return say_json({"memory": str(out)} | manifest.to_json())
    say(
        f"{out}: {len(memory.neighbors.items)} neighbors of {manifest.items} items, from "
        f"{manifest.train_events} training events of split {manifest.split}, {memory.digest}"
    )
    return next_step(f"sidtool tune-memory MODEL {split} {out} -o OUT")


def tune_memory(
    model: options.Model,
    split: options.Split,
    memory: Annotated[
        str, typer.Argument(metavar="MEMORY", help="A memory of build-memory, or URL/NAME@VERSION.")
    ],
    out: options.Out,
    users: Annotated[
        int | None, typer.Option(help="Validation examples, evenly spread; default: all.")
    ] = None,
    num_beams: inference.NumBeams = 100,
    exclude_seen: inference.ExcludeSeen = False,
    config: options.Config = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Choose the weight and power of a memory on validation users, and bind it to a copy of a
    model."""
    from sidtool.evaluation.tune_memory import TuneMemoryOptions
    from sidtool.evaluation.tune_memory import tune_memory as tune
    from sidtool.registry.references import open_memory
    from sidtool.splits.files import open_split

    chosen = TuneMemoryOptions(users, num_beams, exclude_seen)
    opened = open_memory(memory)
    with progress("tune-memory") as reports:
        report = reports.get("tune-memory")
        binding = tune(model, open_split(split), opened, out, chosen, force=force, progress=report)
    if json:
        return say_json({"model": str(out)} | binding.to_json())
    say_table(["", ""], [*binding.validation.items()], title="validation")
    weight = f"weight {binding.weight:g}" if binding.gate is None else "weight by the gate"
    say(f"{out}: {weight}, power {binding.power:g}, memory {binding.digest[:12]}")
    return next_step(f"sidtool evaluate {out} {split}")


def _content(
    bundle: "Bundle",
    embeddings: list[Path] | None,
    weight: float | None,
    previous: "EarlierMemory | None",
) -> "ItemContent | None":
    """The content of a bundle's items; None if it is not used. Raises UsageError if an earlier
    memory has neighbors by content and the command does not say how to compute them."""
    from sidtool.build.encode import read_sources
    from sidtool.memory.content import DEFAULT_WEIGHT, ItemContent

    if weight == 0:
        return None
    if not embeddings and weight is None:
        if previous is not None and previous.memory.manifest.content is not None:
            raise UsageError(
                "the earlier memory has neighbors by content, and no content is given",
                hint="--embeddings, or --content-weight 0 to leave them out",
            )
        return None
    vectors = read_sources(bundle, embeddings, list(bundle.items.ids)) if embeddings else None
    return ItemContent.of(bundle, vectors, DEFAULT_WEIGHT if weight is None else weight)


def _earlier(memory: str | None, split: Path | None) -> "EarlierMemory | None":
    """The memory to update. Raises UsageError if only one of the two options is given."""
    from sidtool.memory.build import EarlierMemory
    from sidtool.registry.references import open_memory
    from sidtool.splits.files import open_split

    if memory is None and split is None:
        return None
    if memory is None or split is None:
        raise UsageError("--earlier and --earlier-split must be given together")
    return EarlierMemory(open_memory(memory), open_split(split))
