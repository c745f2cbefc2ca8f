"""The evaluate command."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sidtool.base.errors import UsageError
from sidtool.cli import inference, list_flags
from sidtool.cli.evaluation_tables import say_evaluation, say_task
from sidtool.cli.list_tables import say_lists
from sidtool.cli.terminal import options
from sidtool.cli.terminal.completion import complete_task
from sidtool.cli.terminal.console import next_step, progress
from sidtool.cli.terminal.inputs import numbers, read_ids

if TYPE_CHECKING:
    from sidtool.evaluation.evaluation import EvaluationOptions
    from sidtool.evaluation.lists.list_evaluation import ListEvaluationOptions
    from sidtool.evaluation.tasks.questions import TaskEvaluationOptions
    from sidtool.integrations.ray.rankings import ClusterRanker
    from sidtool.model.load import LoadedModel

SAMPLES = 20
"""Users whose recommendations are in the JSON unless another number is given."""


def evaluate(
    model: options.Model,
    split: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SPLIT]",
            help="Folder that `sidtool split` wrote, or a file of events (split by leave-one-out). "
            "With --task, also a file of training examples.",
        ),
    ] = None,
    on: Annotated[
        Literal["test", "valid"], typer.Option(help="Part of the split to evaluate on.")
    ] = "test",
    task: Annotated[
        str | None,
        typer.Option(
            help="Evaluate this task of make-sft instead of recommendation.",
            autocompletion=complete_task,
        ),
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
    normalize: inference.Normalize = None,
    list_: Annotated[
        int | None,
        typer.Option(
            "--list",
            metavar="M",
            help="Evaluate lists of M items on whole held-out sessions, beside the first M items "
            "of the model's ranking.",
            rich_help_panel="Lists",
        ),
    ] = None,
    list_search: list_flags.Search = "beam",
    temperature: list_flags.Temperature = 1.0,
    prefix_penalty: list_flags.PrefixPenalty = 0.0,
    mmr: list_flags.Mmr = 0.0,
    list_order: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Feedback by which the items of a session are ordered, the largest first. "
            "Default: as the lists of the training were.",
            rich_help_panel="Lists",
        ),
    ] = None,
    exclude_seen: inference.ExcludeSeen = False,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Number of examples: users evenly spread over the split, or random questions of a "
            "task."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Another model of the same items, or the same model without --normalize: print by "
            "how much MODEL is better, with paired intervals, over all examples and in each slice.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Print the metrics also by the values of a field of the split: user.FIELD, "
            "context.FIELD or feedback.FIELD; repeatable.",
        ),
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD", help="Print also the mean weighted by this feedback of the target."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Evaluate only examples whose target fulfills this, like 'rating>=4'; repeatable.",
        ),
    ] = None,
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            help="Print also the metrics by training events of the target, the mean over items, "
            "the survival of prefixes in the beam, and coverage. --json always has them.",
        ),
    ] = False,
    samples: Annotated[
        int,
        typer.Option(
            help="Number of users in --json with their history and recommendations, which "
            "`sidtool report` shows; 0 for none."
        ),
    ] = SAMPLES,
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
    baseline_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for training events and the pairs of item-kNN, like 4GiB: more than fits "
            "is put into temporary files.",
        ),
    ] = None,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    device: inference.Device = None,
    dtype: inference.Dtype = None,
    trust_remote_code: options.Trust = False,
    seed: options.Seed = 0,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Evaluate recommendations on held-out users over the full catalog, beside popularity and
    item-kNN; of a model with a memory also the model alone and the memory alone.

    With --list, evaluate lists: recall and NDCG of the held-out session, order, diversity, novelty,
    repeats and legality. With --task, evaluate one task: exact and prefix accuracy and retrieval if
    its answer is a SID; accuracy, log loss and AUC if it is a label; else exact match, token F1 and
    perplexity."""
    from sidtool.evaluation.evaluation import EvaluationOptions
    from sidtool.evaluation.lists.list_evaluation import ListEvaluationOptions
    from sidtool.evaluation.tasks.questions import TaskEvaluationOptions
    from sidtool.examples.catalog import CatalogOptions

    thresholds = numbers(fail_under, option="--fail-under")
    list_seed = seed if list_search == "gumbel" else 0
    lists = list_flags.list_options(list_, list_search, temperature, list_seed, prefix_penalty, mmr)
    if lists is None and list_order is not None:
        raise UsageError("--list-order requires --list")
    mixed = (memory, memory_weight, memory_power)
    runs_on = (device, dtype, trust_remote_code)
    inputs = _Inputs(
        model,
        split,
        thresholds,
        partial(inference.load_model, model, bundle, *runs_on, mixed),
        None if against is None else partial(inference.load_model, against, None, *runs_on),
    )
    of_rankings: dict[str, Any] = {
        "--by": by,
        "--weight": weight,
        "--target": target,
        "--details": details,
        "--samples": samples != SAMPLES,
        "--baseline-memory": baseline_memory,
    }
    if task is not None:
        of_models: dict[str, Any] = {
            "--exclude-seen": exclude_seen,
            "--memory": memory,
            "--memory-weight": memory_weight,
            "--memory-power": memory_power,
            "--against": against,
            "--engine": engine != "local",
            "--workers": workers,
            "--list": list_,
        }
        _refuse(of_models | of_rankings, "does not apply with --task")
        only = None if only_items is None else frozenset(read_ids(only_items))
        catalog = CatalogOptions(id_column, title_column, tuple(field or ()), queries, query_text)
        task_settings = TaskEvaluationOptions(
            task, on, items, catalog, only, limit, num_beams, seed, normalize
        )
        return _evaluate_task(inputs, task_settings, json)
    of_tasks: dict[str, Any] = {
        "--items": items,
        "--only-items": only_items,
        "--field": field,
        "--queries": queries,
        "--query-text": query_text,
        "--id-column": id_column,
        "--title-column": title_column,
    }
    _refuse(of_tasks, "requires --task")
    if split is None:
        raise UsageError("there is nothing to evaluate on", hint="give a split, or --task")
    if list_ is not None and lists is not None:
        of_workers = {"--engine": engine != "local", "--workers": workers}
        _refuse(of_rankings | of_workers, "does not apply with --list")
        list_settings = ListEvaluationOptions(
            list_,
            on,
            limit,
            num_beams,
            lists,
            exclude_seen,
            order=list_order,
            seed=seed,
            normalize=normalize,
        )
        return _evaluate_lists(inputs, list_settings, json)
    settings = EvaluationOptions(
        on,
        limit,
        num_beams=num_beams,
        exclude_seen=exclude_seen,
        seed=seed,
        by=tuple(by or ()),
        weight=weight,
        target=tuple(target or ()),
        samples=samples,
        normalize=normalize,
    )
    budget = None if baseline_memory is None else options.parse_bytes(baseline_memory)
    ranker = None
    if engine == "ray":
        from sidtool.integrations.ray.rankings import ClusterRanker

        source = inference.model_source(model, bundle, *runs_on, mixed)
        ranker = ClusterRanker(source, engine, workers)
    elif workers is not None:
        raise UsageError("--workers requires --engine ray")
    return _evaluate_rankings(inputs, settings, budget, ranker, json, details=details)


@dataclass(frozen=True)
class _Inputs:
    """What each kind of evaluation reads."""

    model: str
    split: Path | None
    thresholds: Mapping[str, float]
    load: Callable[[], "LoadedModel"]
    load_against: Callable[[], "LoadedModel"] | None


def _evaluate_task(inputs: _Inputs, settings: "TaskEvaluationOptions", json: bool) -> None:
    from sidtool.evaluation.metrics import check_thresholds
    from sidtool.evaluation.tasks.task_evaluation import evaluate_task

    loaded = inputs.load()
    with progress("evaluate") as reports:
        answers = evaluate_task(loaded, inputs.split, settings, progress=reports.get("evaluate"))
    say_task(answers, json=json)
    check_thresholds(answers.metrics, inputs.thresholds)


def _evaluate_lists(inputs: _Inputs, settings: "ListEvaluationOptions", json: bool) -> None:
    from sidtool.evaluation.lists.list_evaluation import LISTS, evaluate_lists
    from sidtool.evaluation.lists.list_metrics import list_metric_names
    from sidtool.evaluation.metrics import check_names, check_thresholds

    assert inputs.split is not None
    check_names(inputs.thresholds, list_metric_names(settings.length))
    loaded = inputs.load()
    other = inputs.load_against and inputs.load_against()
    with progress("evaluate") as reports:
        report = reports.get("evaluate")
        measured = evaluate_lists(loaded, inputs.split, settings, against=other, progress=report)
    say_lists(measured, json=json)
    means = next(iter(measured.systems.values()))
    check_thresholds({name: each.mean for name, each in means.items()}, inputs.thresholds)
    option = "--list" if LISTS in measured.systems else "-k"
    command = f"sidtool recommend {{model}} --history ITEM,ITEM {option} {settings.length}"
    next_step(command, model=inputs.model)


def _evaluate_rankings(
    inputs: _Inputs,
    settings: "EvaluationOptions",
    baseline_memory: int | None,
    ranker: "ClusterRanker | None",
    json: bool,
    *,
    details: bool,
) -> None:
    from sidtool.evaluation.evaluation import evaluate as evaluate_split
    from sidtool.evaluation.metrics import check_names, check_thresholds, model_metric_names

    assert inputs.split is not None
    loaded = inputs.load()
    check_names(inputs.thresholds, model_metric_names(loaded.bundle.space.levels))
    other = inputs.load_against and inputs.load_against()
    with progress("evaluate") as reports:
        evaluation = evaluate_split(
            loaded,
            inputs.split,
            settings,
            against=other,
            baseline_memory=baseline_memory,
            ranker=ranker,
            progress=reports.get("evaluate"),
        )
    say_evaluation(evaluation, details=details, json=json)
    check_thresholds(evaluation.metrics, inputs.thresholds)
    next_step("sidtool recommend {model} --history ITEM,ITEM -k 10", model=inputs.model)


def _refuse(options: Mapping[str, Any], why: str) -> None:
    """Raise UsageError for an option that was given and would change nothing: a mistake."""
    for name, value in options.items():
        if value:
            raise UsageError(f"{name} {why}")
