"""The commands evaluate, evaluate-lists, evaluate-task and report."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from sidtool import evaluation
from sidtool.base.given_options import given_words
from sidtool.base.options import numbers, option, parse_bytes
from sidtool.cli.evaluation_tables import say_evaluation, say_lists, say_task
from sidtool.cli.recommend import load_model, model_source
from sidtool.cli.reports.report import ReportOptions
from sidtool.cli.reports.report import report as write_report
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, say
from sidtool.cli.terminal.pace import progress
from sidtool.data.split import Split
from sidtool.evaluation import EvaluationOptions, lists, tasks
from sidtool.evaluation.lists import ListEvaluationOptions
from sidtool.evaluation.tasks import QuestionOptions, TaskEvaluationOptions
from sidtool.examples import TaskCatalogOptions
from sidtool.integrations import cluster
from sidtool.integrations.cluster import WorkerOptions
from sidtool.memory.mixture import MemoryOptions
from sidtool.model import LoadedModel, ModelOptions


@dataclass(frozen=True)
class Thresholds:
    """Metrics that decide the exit code."""

    fail_under: tuple[str, ...] = option(())
    """Threshold of a metric, like ndcg@10=0.03; repeatable. Exit code 3 below it."""

    def values(self) -> dict[str, float]:
        """The thresholds by metric. Raises UsageError for a value that is no number."""
        return numbers(list(self.fail_under), option="--fail-under")


@dataclass(frozen=True)
class Comparison(Thresholds):
    """What an evaluation of recommendations is compared with."""

    against: str | None = option(None, metavar="OTHER")
    """Another model of the same items, or the same model without --normalize: print by how much
    MODEL is better than OTHER, with paired intervals; evaluate does so in each slice, too."""

    def load(self, model_options: ModelOptions) -> LoadedModel | None:
        """The other model, on the same device."""
        if self.against is None:
            return None
        return load_model(self.against, replace(model_options, bundle=None))


def evaluate(
    model: options.LoadedModel,
    split: options.Split,
    settings: EvaluationOptions,
    compared: Comparison,
    memory: MemoryOptions,
    model_options: ModelOptions,
    workers: WorkerOptions,
    details: Annotated[
        bool,
        "Print also the metrics by training events of the target, the mean over items, the "
        "survival of prefixes in the beam, and coverage. --json always has them.",
    ] = False,
    memory_limit: Annotated[
        int | None,
        typer.Option(
            parser=parse_bytes,
            metavar="SIZE",
            help="Memory for the pairs of item-kNN, like 4GiB: more than fits is put into "
            "temporary files.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Evaluate recommendations on held-out users over the full catalog, beside popularity and
    item-kNN; of a model with a memory also the model alone, the memory alone and,
    with a re-ranker, the mixture."""
    thresholds = compared.values()
    ranker = None
    if workers.on_cluster:
        source = model_source(model, model_options, memory)
        ranker = cluster.ClusterRanker(source, workers.engine, workers.workers)
        model, memory = ranker.source.model, ranker.source.memory  # with the same versions
        model_options = replace(model_options, bundle=ranker.source.bundle)
    events = _open_split(model, split, model_options)
    loaded = load_model(model, model_options, memory)
    names = evaluation.model_metric_names(loaded.bundle.space.levels)
    evaluation.check_names(thresholds, names)
    with progress("evaluate") as reports:
        measured = evaluation.evaluate(
            loaded,
            events,
            settings,
            against=compared.load(model_options),
            memory_limit=memory_limit,
            ranker=ranker,
            progress=reports.get("evaluate"),
        )
    say_evaluation(measured, details=details, json=json)
    evaluation.check_thresholds(measured.metrics, thresholds)
    prompt = loaded.contract.history_prompt
    used = (*given_words(memory), *given_words(model_options))
    next_step(evaluation.verdict(measured).next_step(measured, str(model), prompt, used))


def _open_split(model: str, split: Path, model_options: ModelOptions) -> Split:
    """The split that a model is evaluated on, before its weights are read."""
    trust = model_options.trust_remote_code
    return evaluation.open_model_split(model, split, model_options.bundle, trust_remote_code=trust)


def evaluate_lists(
    model: options.LoadedModel,
    split: options.Split,
    settings: ListEvaluationOptions,
    compared: Comparison,
    memory: MemoryOptions,
    model_options: ModelOptions,
    json: options.Json = False,
) -> None:
    """Evaluate lists on whole held-out sessions, beside the first items of the model's ranking:
    recall and NDCG of the session, order, diversity, novelty, repeats and legality."""
    thresholds = compared.values()
    evaluation.check_names(thresholds, lists.list_metric_names(settings.length))
    events = _open_split(model, split, model_options)
    loaded = load_model(model, model_options, memory)
    with progress("evaluate") as reports:
        other = compared.load(model_options)
        measured = lists.evaluate_lists(
            loaded, events, settings, against=other, progress=reports.get("evaluate")
        )
    say_lists(measured, json=json)
    means = next(iter(measured.systems.values()))
    evaluation.check_thresholds({name: mean.mean for name, mean in means.items()}, thresholds)
    option = "--list" if lists.LISTS in measured.systems else "-k"
    command = f"sidtool recommend {{model}} --history ITEM,ITEM {option} {settings.length}"
    next_step(command, model=model)


def evaluate_task(
    model: options.LoadedModel,
    task: Annotated[
        str, typer.Argument(help="Task of make-sft.", autocompletion=options.complete_task)
    ],
    questions: QuestionOptions,
    limits: Thresholds,
    catalog: TaskCatalogOptions,
    model_options: ModelOptions,
    source: Annotated[
        Path | None,
        typer.Argument(help="A file of training examples, or for a task about histories a split."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Evaluate one task of make-sft: exact and prefix accuracy and retrieval if its answer is a
    SID; accuracy, log loss and AUC if it is a label; else exact match, token F1 and perplexity."""
    thresholds = limits.values()
    settings = TaskEvaluationOptions(task=task, catalog=catalog, **vars(questions))
    loaded = load_model(model, model_options)
    levels = loaded.bundle.space.levels
    names = tasks.task_metric_names(task, levels, questions.num_beams)
    evaluation.check_names(thresholds, names)
    with progress("evaluate") as reports:
        answers = tasks.evaluate_task(loaded, source, settings, progress=reports.get("evaluate"))
    say_task(answers, json=json)
    evaluation.check_thresholds(answers.metrics, thresholds)


def report(
    what: Annotated[
        list[str],
        "A bundle, a model folder of train or rl, or the JSON of `evaluate --json`; several of one "
        "kind are compared, bundles each with the one before (and a published one with the version "
        "that it was made from).",
        "WHAT...",
    ],
    out: options.Out,
    shown: ReportOptions,
    force: options.Force = False,
) -> None:
    """Write an HTML page that shows a bundle, a training or an evaluation.

    The page is one file without scripts that opens from disk and loads nothing."""
    write_report(what, out, shown, force=force)
    say(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
