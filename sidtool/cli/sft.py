"""The make-sft command."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sidtool import examples
from sidtool.base.threads import thread_count
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, note, say, say_json, say_table, warn
from sidtool.cli.terminal.pace import progress
from sidtool.examples import (
    GeneralOptions,
    SftInputs,
    SftOptions,
    TaskCatalogOptions,
    WeightOptions,
)
from sidtool.integrations import cluster
from sidtool.integrations.cluster import ResumableWorkers


def make_sft(
    bundle: options.Bundle,
    items: Annotated[Path, "Catalog that the bundle was built from."],
    split: options.Split,
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--out",
            metavar="PATH",
            help="Output file, or a folder of parts: a path that ends with / or a URL. An existing "
            "one needs --force.",
        ),
    ],
    sft: SftOptions,
    catalog: TaskCatalogOptions,
    weights: WeightOptions | None,
    general: GeneralOptions | None,
    workers: ResumableWorkers,
    model: Annotated[
        str | None, "Extended model whose tokenizer measures and formats the examples."
    ] = None,
    threads: options.Threads = None,
    writing: options.Writing = options.Writing(),
) -> None:
    """Write training examples, validation users and their lineage."""
    writer = None
    if workers.on_cluster or out.endswith("/") or "://" in out:
        inputs = SftInputs(bundle, items, split, sft, catalog, model, weights)
        run = cluster.RunOptions(workers.engine, workers.workers, resume=workers.resume)
        writer = cluster.ClusterExamples(inputs, run)
        if not workers.on_cluster:
            writer, threads = replace(writer, threads=thread_count(threads)), None
    with progress("examples") as report:
        lineage = examples.make_sft(
            bundle,
            items,
            split,
            out,
            sft,
            catalog_options=catalog,
            model=model,
            weights=weights,
            general=general,
            threads=threads,
            writer=writer,
            dry_run=writing.dry_run,
            force=writing.force,
            progress=report.get("examples"),
        )
    if writing.json:
        say_json(lineage.to_json())
    else:
        _say_lineage(lineage)
    texts = [task for task in lineage.tasks if not examples.named_task(task).writes_sids]
    if model is None and texts:
        warn(
            f"the text of {', '.join(texts)} has no end, which only a tokenizer has: a model never "
            "learns to stop (--model)"
        )
    if writing.dry_run:
        return note(f"nothing written to {out}")
    return next_step("sidtool train {model} {out} -o OUT", model=model or "MODEL+sid", out=out)


def _say_lineage(lineage: "examples.Lineage") -> None:
    rows = []
    for task, counts in lineage.tasks.items():
        weight = lineage.task_weights.get(task, "-")
        budget = lineage.task_budgets.get(task, "-")
        share = f"{counts.share:.1%}"
        rows.append((task, weight, budget, counts.examples, counts.tokens, share, counts.longest))
    say_table(["task", "weight", "budget", "examples", "tokens", "share", "longest"], rows)
    if lineage.general is not None:
        n_held_out = lineage.general.held_out
        say(f"general text: {lineage.general.documents} documents, {n_held_out} of them held out")
    if lineage.weights is not None:
        weights = lineage.weights
        say(
            f"weight {weights.expression}: {weights.smallest:.3g} to {weights.largest:.3g}, mean "
            f"{weights.mean:.3g}, {weights.clipped} clipped; {weights.effective_events:.0f} "
            "effective events"
        )
    line = (
        f"split {lineage.split}: {lineage.valid} validation examples; {lineage.leaked_events} "
        f"held-out events in training examples, {lineage.dropped_events} events of unknown items "
        "left out"
    )
    if lineage.dropped_queries:
        line += f", {lineage.dropped_queries} queries left out"
    if lineage.hidden_items:
        line += f", text of {lineage.hidden_items} items hidden"
    say(line)
