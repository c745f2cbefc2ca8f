"""The evaluate command."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sidtool.cli import inference, options
from sidtool.cli.console import next_step, note, progress, say_json, say_table, say_table_aside
from sidtool.cli.evaluate_task import evaluate_task, say_task
from sidtool.cli.inputs import read_ids
from sidtool.errors import UsageError


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
        typer.Option(help="Measure this task in place of recommending: one of make-sft's."),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(help="Catalog whose items a task asks about; else the bundle's titles."),
    ] = None,
    only_items: Annotated[
        Path | None,
        typer.Option(help="File of item ids, a line each: a task asks about these alone."),
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="Catalog column that item-text tells.")
    ] = None,
    queries: options.Queries = None,
    query_text: options.QueryText = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column of item ids in the catalog.")
    ] = None,
    title_column: Annotated[str | None, typer.Option(help="Column of titles.")] = None,
    num_beams: inference.NumBeams = 50,
    exclude_seen: inference.ExcludeSeen = False,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Ask only so many: users evenly spread over the file, or questions of a task "
            "at random."
        ),
    ] = None,
    minimum: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            envvar="SIDTOOL_EVALUATE_FAIL_UNDER",
            help="Least value, like ndcg@10=0.03: exit 3 below it.",
        ),
    ] = None,
    bundle: inference.OtherBundle = None,
    device: inference.Device = None,
    dtype: inference.Dtype = None,
    trust_remote_code: options.Trust = False,
    seed: options.Seed = 0,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Measure a model on held-out users over the full catalog, beside popularity and item-kNN.

    With --task, measure how well it does one task: exact and prefix accuracy and retrieval where
    the answer is a SID, exact match, token F1 and perplexity where it is a text."""
    from sidtool.cli.models import numbers
    from sidtool.data.split_files import open_split
    from sidtool.evaluate.evaluation import (
        EvaluationOptions,
        check_thresholds,
        evaluate_examples,
    )
    from sidtool.evaluate.metrics import check_names, metric_names
    from sidtool.model.split_check import check_model_split

    minima = numbers(minimum, option="--fail-under")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is 1 or more, not {limit}")
    of_tasks = {
        "--items": items,
        "--only-items": only_items,
        "--field": field or None,
        "--queries": queries,
        "--query-text": query_text,
        "--id-column": id_column,
        "--title-column": title_column,
    }
    of_recommending = {"--exclude-seen": exclude_seen or None}
    if task is None:
        _refuse_idle(of_tasks, "without --task")
    else:
        _refuse_idle(of_recommending, "with --task")
    if num_beams < 1:
        raise UsageError(f"--num-beams must be at least 1, not {num_beams}")
    if task is not None:
        measured = evaluate_task(
            model,
            inference.load_model(model, bundle, device, dtype, trust_remote_code),
            task,
            split,
            on,
            items,
            only=_ids(only_items),
            field=field,
            queries=queries,
            query_text=query_text,
            columns={"id_column": id_column, "title_column": title_column},
            limit=limit,
            num_beams=num_beams,
            seed=seed,
        )
        if json:
            say_json(measured.to_json())
        say_task(measured, aside=json)
        return check_thresholds(measured, minima)
    if split is None:
        raise UsageError("there is nothing to evaluate on", hint="give a split, or --task")
    check_names(minima, metric_names())
    held_out = open_split(split)
    examples = held_out.test if on == "test" else held_out.valid
    if limit is not None and limit < len(examples):
        # evenly spread, for the first users of a file may be the oldest
        examples = tuple(examples[at * len(examples) // limit] for at in range(limit))
    served = inference.load_model(model, bundle, device, dtype, trust_remote_code)
    check_model_split(model, served.contract, served.bundle, str(split), held_out.reference)
    with progress("evaluate") as report:
        found = evaluate_examples(
            served,
            examples,
            held_out.train,
            EvaluationOptions(num_beams=num_beams, exclude_seen=exclude_seen, seed=seed),
            progress=report.get("evaluate"),
        )
    value = found.to_json()
    if value["settings"]["num_beams"] != num_beams:
        note(
            f"{value['settings']['num_beams']} beams in place of {num_beams}: as many as the "
            "largest cut-off",
            label="warning:",
            style="yellow",
        )
    if json:
        say_json(value)
    _say_evaluation(value, aside=json)
    check_thresholds(found, minima)
    return next_step(f"sidtool recommend {model} --history ITEM,ITEM -k 10")


def _refuse_idle(options: dict[str, Any], where: str) -> None:
    """Raise UsageError for an option that was given and would change nothing."""
    if given := [name for name, value in options.items() if value is not None]:
        raise UsageError(f"{given[0]} means nothing {where}")


def _ids(path: Path | None) -> list[str] | None:
    return None if path is None else read_ids(path)


def _say_evaluation(value: dict[str, Any], *, aside: bool) -> None:
    """The table of an evaluation; on stderr where stdout holds the JSON."""
    names = [
        f"{kind}@{k}"
        for kind in ("hr", "ndcg", "mrr")
        for k in (1, 5, 10, 20, 50)
        if f"{kind}@{k}" in value["metrics"]
    ]
    systems = {
        "model": value["metrics"],
        **value["baselines"],
        "model, SID level": value["sid_level"],
    }
    rows: list[list[object]] = [
        [name, *(metrics[name] for metrics in systems.values())] for name in names
    ]
    for row, name in zip(rows, names, strict=True):
        low, high = value["confidence_interval"][name]
        row.append(f"{low:.4f} to {high:.4f}")
    table = say_table_aside if aside else say_table
    columns = ["", *systems, "95% interval of the model"]
    table(columns, rows, title=f"{value['n']} examples, full ranking, item level")
