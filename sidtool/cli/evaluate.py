"""The evaluate command."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sidtool.cli import inference
from sidtool.errors import UsageError
from sidtool.terminal import options
from sidtool.terminal.console import next_step, progress, say_json, say_table
from sidtool.terminal.inputs import numbers, read_ids

if TYPE_CHECKING:
    from sidtool.evaluation.results import Evaluation
    from sidtool.evaluation.task_metrics import TaskEvaluation


def evaluate(
    model: options.Model,
    split: Annotated[
        Path | None,
        typer.Argument(
            metavar="SPLIT",
            help="Folder that `sidtool split` wrote, or a file of events (split by leave-one-out). "
            "With --task, also a file of training examples.",
        ),
    ] = None,
    on: Annotated[
        Literal["test", "valid"], typer.Option(help="Part of the split to evaluate on.")
    ] = "test",
    task: Annotated[
        str | None,
        typer.Option(help="Evaluate this task of make-sft instead of recommendation."),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            help="Catalog that the task's questions are made of; default: the bundle's titles."
        ),
    ] = None,
    only_items: Annotated[
        Path | None,
        typer.Option(help="File of item ids, one per line: questions about these items only."),
    ] = None,
    field: options.Field = None,
    queries: options.Queries = None,
    query_text: options.QueryText = None,
    id_column: options.IdColumn = None,
    title_column: options.TitleColumn = None,
    num_beams: inference.NumBeams = 50,
    exclude_seen: inference.ExcludeSeen = False,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Number of examples: users evenly spread over the split, or random questions of a "
            "task."
        ),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            help="Threshold of a metric, like ndcg@10=0.03; repeatable. Exit code 3 below it."
        ),
    ] = None,
    bundle: inference.OtherBundle = None,
    memory: inference.Memory = None,
    memory_weight: inference.MemoryWeight = None,
    memory_power: inference.MemoryPower = None,
    device: inference.Device = None,
    dtype: inference.Dtype = None,
    trust_remote_code: options.Trust = False,
    seed: options.Seed = 0,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Evaluate recommendations on held-out users over the full catalog, beside popularity and
    item-kNN; of a model with a memory also the model alone and the memory alone.

    With --task, evaluate one task: exact and prefix accuracy and retrieval if its answer is a
    SID; exact match, token F1 and perplexity if it is a text."""
    from sidtool.evaluation.evaluation import EvaluationOptions
    from sidtool.evaluation.evaluation import evaluate as evaluate_split
    from sidtool.evaluation.metrics import check_names, metric_names
    from sidtool.evaluation.results import check_thresholds
    from sidtool.sft.catalog import CatalogOptions
    from sidtool.sft.task_eval import TaskEvaluationOptions, evaluate_task

    thresholds = numbers(fail_under, option="--fail-under")
    task_only: dict[str, Any] = {"--items": items, "--only-items": only_items, "--field": field}
    task_only |= {"--queries": queries, "--query-text": query_text}
    task_only |= {"--id-column": id_column, "--title-column": title_column}
    mixed = (memory, memory_weight, memory_power)
    load = partial(inference.load_model, model, bundle, device, dtype, trust_remote_code, mixed)
    with progress("evaluate") as reports:
        report = reports.get("evaluate")
        if task is not None:
            recommending: dict[str, Any] = {"--exclude-seen": exclude_seen, "--memory": memory}
            recommending |= {"--memory-weight": memory_weight, "--memory-power": memory_power}
            _refuse(recommending, "does not apply with --task")
            only = None if only_items is None else frozenset(read_ids(only_items))
            catalog = CatalogOptions(
                id_column, title_column, None, tuple(field or ()), queries, query_text
            )
            chosen = TaskEvaluationOptions(task, on, items, catalog, only, limit, num_beams, seed)
            answers = evaluate_task(load(), split, chosen, progress=report)
            _say_task(answers, json=json)
            return check_thresholds(answers, thresholds)
        # an option that changes nothing is a mistake of the user
        _refuse(task_only, "requires --task")
        if split is None:
            raise UsageError("there is nothing to evaluate on", hint="give a split, or --task")
        check_names(thresholds, metric_names())
        settings = EvaluationOptions(
            on, limit, num_beams=num_beams, exclude_seen=exclude_seen, seed=seed
        )
        evaluation = evaluate_split(load(), split, settings, progress=report)
    _say_evaluation(evaluation, json=json)
    check_thresholds(evaluation, thresholds)
    return next_step(f"sidtool recommend {model} --history ITEM,ITEM -k 10")


def _refuse(options: Mapping[str, Any], why: str) -> None:
    """Raise UsageError for an option that was given and would change nothing."""
    for name, value in options.items():
        if value:
            raise UsageError(f"{name} {why}")


def _say_evaluation(evaluation: "Evaluation", *, json: bool) -> None:
    """The table of an evaluation; with `json` on stderr, beside the JSON on stdout."""
    if json:
        say_json(evaluation.to_json())
    systems = {
        "model": evaluation.metrics,
        **evaluation.baselines,
        "model, SID level": evaluation.sid_level,
    }
    rows: list[list[object]] = []
    for name in evaluation.metrics:
        if not name.endswith("@3"):
            low, high = evaluation.confidence_interval[name]
            values = [metrics.get(name, "-") for metrics in systems.values()]
            rows.append([name, *values, f"{low:.4f} to {high:.4f}"])
    columns = ["", *systems, "95% interval of the model"]
    title = f"{evaluation.n} examples, full ranking, item level"
    say_table(columns, rows, title=title, aside=json)


def _say_task(evaluation: "TaskEvaluation", *, json: bool) -> None:
    """The table of a task's metrics; with `json` on stderr, beside the JSON on stdout."""
    if json:
        say_json(evaluation.to_json())
    rows = []
    for name, value in evaluation.metrics.items():
        interval = "-"
        if name in evaluation.confidence_interval:
            low, high = evaluation.confidence_interval[name]
            interval = f"{low:.4f} to {high:.4f}"
        rows.append((name, value, evaluation.chance.get(name, "-"), interval))
    title = f"{evaluation.task}: {evaluation.n} questions"
    say_table(["", "model", "chance", "95% interval"], rows, title=title, aside=json)
