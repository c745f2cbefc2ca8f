"""The commands evaluate, evaluate-lists and evaluate-task."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidtool.base.option_texts import numbers, parse_bytes
from sidtool.cli import inference
from sidtool.cli.evaluation_tables import say_evaluation, say_lists, say_task
from sidtool.cli.terminal import options
from sidtool.cli.terminal.completion import complete_task
from sidtool.cli.terminal.console import next_step, progress
from sidtool.evaluation import (
    EvaluationOptions,
    ListEvaluationOptions,
    QuestionOptions,
    TaskEvaluationOptions,
)
from sidtool.examples import TaskCatalogOptions
from sidtool.integrations.ray import WorkerOptions
from sidtool.model import MemoryOptions, ModelOptions
from sidtool.recommendation.search import ListOptions

if TYPE_CHECKING:
    from sidtool.integrations.ray import ClusterRanker
    from sidtool.model import LoadedModel

Against = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Another model of the same items, or the same model without --normalize: print by how "
        "much MODEL is better, with paired intervals, over all examples and in each slice.",
    ),
]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        help="Threshold of a metric, like ndcg@10=0.03; repeatable. Exit code 3 below it."
    ),
]


def evaluate(
    model: options.Model,
    split: options.Split,
    settings: EvaluationOptions,
    memory: MemoryOptions,
    use: ModelOptions,
    workers: WorkerOptions,
    against: Against = None,
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            help="Print also the metrics by training events of the target, the mean over items, "
            "the survival of prefixes in the beam, and coverage. --json always has them.",
        ),
    ] = False,
    fail_under: FailUnder = None,
    baseline_memory: Annotated[
        int | None,
        typer.Option(
            parser=parse_bytes,
            metavar="SIZE",
            help="Memory for training events and the pairs of item-kNN, like 4GiB: more than fits "
            "is put into temporary files.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Evaluate recommendations on held-out users over the full catalog, beside popularity and
    item-kNN; of a model with a memory also the model alone and the memory alone."""
    from sidtool.evaluation import check_names, check_thresholds, model_metric_names
    from sidtool.evaluation import evaluate as evaluate_split

    thresholds = numbers(fail_under or [], option="--fail-under")
    ranker = _ranker(model, use, memory, workers)
    loaded = inference.load_model(model, use, memory)
    check_names(thresholds, model_metric_names(loaded.bundle.space.levels))
    with progress("evaluate") as reports:
        evaluation = evaluate_split(
            loaded,
            split,
            settings,
            against=_other(against, use),
            baseline_memory=baseline_memory,
            ranker=ranker,
            progress=reports.get("evaluate"),
        )
    say_evaluation(evaluation, details=details, json=json)
    check_thresholds(evaluation.metrics, thresholds)
    next_step("sidtool recommend {model} --history ITEM,ITEM -k 10", model=model)


def evaluate_lists(
    model: options.Model,
    split: options.Split,
    settings: ListEvaluationOptions,
    lists: ListOptions,
    memory: MemoryOptions,
    use: ModelOptions,
    against: Against = None,
    fail_under: FailUnder = None,
    json: options.Json = False,
) -> None:
    """Evaluate lists on whole held-out sessions, beside the first items of the model's ranking:
    recall and NDCG of the session, order, diversity, novelty, repeats and legality."""
    from sidtool.evaluation import LISTS, check_names, check_thresholds, list_metric_names
    from sidtool.evaluation import evaluate_lists as evaluate_split

    thresholds = numbers(fail_under or [], option="--fail-under")
    check_names(thresholds, list_metric_names(settings.length))
    loaded = inference.load_model(model, use, memory)
    with progress("evaluate") as reports:
        measured = evaluate_split(
            loaded,
            split,
            replace(settings, lists=lists),
            against=_other(against, use),
            progress=reports.get("evaluate"),
        )
    say_lists(measured, json=json)
    means = next(iter(measured.systems.values()))
    check_thresholds({name: mean.mean for name, mean in means.items()}, thresholds)
    option = "--list" if LISTS in measured.systems else "-k"
    command = f"sidtool recommend {{model}} --history ITEM,ITEM {option} {settings.length}"
    next_step(command, model=model)


def evaluate_task(
    model: options.Model,
    task: Annotated[str, typer.Argument(help="Task of make-sft.", autocompletion=complete_task)],
    questions: QuestionOptions,
    catalog: TaskCatalogOptions,
    use: ModelOptions,
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A file of training examples, or for a task about histories a split.",
        ),
    ] = None,
    fail_under: FailUnder = None,
    json: options.Json = False,
) -> None:
    """Evaluate one task of make-sft: exact and prefix accuracy and retrieval if its answer is a
    SID; accuracy, log loss and AUC if it is a label; else exact match, token F1 and perplexity."""
    from sidtool.evaluation import check_thresholds
    from sidtool.evaluation import evaluate_task as evaluate_questions

    thresholds = numbers(fail_under or [], option="--fail-under")
    settings = TaskEvaluationOptions(task=task, catalog=catalog, **vars(questions))
    loaded = inference.load_model(model, use)
    with progress("evaluate") as reports:
        answers = evaluate_questions(loaded, source, settings, progress=reports.get("evaluate"))
    say_task(answers, json=json)
    check_thresholds(answers.metrics, thresholds)


def _other(against: str | None, use: ModelOptions) -> "LoadedModel | None":
    """The model to compare with, on the same device."""
    if against is None:
        return None
    return inference.load_model(against, replace(use, bundle=None))


def _ranker(
    model: str, use: ModelOptions, memory: MemoryOptions, workers: WorkerOptions
) -> "ClusterRanker | None":
    """The workers that search, None for this process."""
    if workers.engine == "local":
        return None
    from sidtool.integrations.ray import ClusterRanker

    source = inference.model_source(model, use, memory)
    return ClusterRanker(source, workers.engine, workers.workers)
