"""The commands that teach a model: make-sft and train."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sidtool.cli import options, split
from sidtool.cli.console import next_step, note, progress, say, say_json, say_table
from sidtool.cli.models import numbers
from sidtool.cli.sources import read_ids
from sidtool.errors import UsageError


def make_sft(
    bundle: options.Bundle,
    items: Annotated[Path, typer.Argument(help="Catalogue that the bundle was built from.")],
    interactions: Annotated[
        Path, typer.Argument(help="Events: CSV, TSV, JSONL, Parquet, RecBole .inter; training windows under `given`.")
    ],
    out: options.Out,
    protocol: split.Protocol = "leave-one-out",
    valid: split.Valid = None,
    test: split.Test = None,
    hold_back: split.HoldBack = None,
    task: Annotated[list[str] | None, typer.Option(help="Task and weight, like next-item=1; may be repeated.")] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens of the whole mix: weights are then the tasks' shares in them.")
    ] = None,
    task_tokens: Annotated[
        list[str] | None, typer.Option(help="Tokens of one task, like title-to-sid=20000; may be repeated.")
    ] = None,
    queries: options.Queries = None,
    query_text: options.QueryText = None,
    held_out: Annotated[
        Path | None, typer.Option(help="File of item ids, a line each, of which rows show SIDs but no text.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Extended model: its tokenizer measures rows and gives the chat format.")
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            envvar="SIDTOOL_MAKE_SFT_FORMAT",
            help="Rows as plain text or chat; auto: chat where the model has a template.",
        ),
    ] = "auto",
    history_length: Annotated[int, typer.Option(help="Items of a history that are shown.")] = 20,
    max_length: Annotated[int, typer.Option(help="Tokens of a row; a longer history loses its oldest items.")] = 1024,
    text: Annotated[str | None, typer.Option(help="Text of an item, if not its title.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of item ids in the catalogue.")] = None,
    title_column: Annotated[str | None, typer.Option(help="Column of titles.")] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="Catalogue column that item-text tells; columns of other tasks are read.")
    ] = None,
    user_column: split.UserColumn = None,
    item_column: split.ItemColumn = None,
    order_column: split.OrderColumn = None,
    valid_from: split.ValidFrom = None,
    test_from: split.TestFrom = None,
    seed: options.Seed = 0,
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Write training rows, validation and test users, and their lineage."""
    from sidtool.bundle import Bundle
    from sidtool.tune.rows import SftOptions
    from sidtool.tune.sft import make_sft as make
    from sidtool.tune.sft import side_files

    opened = Bundle.open(bundle)
    tokenizer = _tokenizer(model, opened)
    weights = numbers(task, option="--task") or {"sequence": 1.0}
    chat = format_ == "auto" and getattr(tokenizer, "chat_template", None) and set(weights) != {"sequence"}
    wanted = SftOptions(
        tasks=weights,
        format="chat" if chat else "plain" if format_ == "auto" else format_,  # type: ignore[arg-type]
        max_length=max_length,
        history_length=history_length,
        seed=seed,
        tokens=tokens,
        budgets={name: int(value) for name, value in numbers(task_tokens, option="--task-tokens").items()},
        held_out=frozenset(read_ids(held_out) if held_out else ()),
    )
    catalogue, asked = read_shown(
        items, weights, field, queries, query_text, id_column=id_column, title_column=title_column, text_template=text
    )
    columns = {"user_column": user_column, "item_column": item_column, "order_column": order_column}
    events = split.read_split(interactions, protocol, (valid, test), (valid_from, test_from), columns, hold_back)
    with progress("rows") as report:
        lineage = make(
            opened,
            catalogue,
            events,
            out,
            wanted,
            tokenizer=tokenizer,
            queries=asked,
            dry_run=dry_run,
            force=force,
            progress=report.get("rows"),
        )
    if json:
        say_json(lineage)
    else:
        _say_lineage(lineage)
    if dry_run:
        return note(f"nothing written; it would be {out}, " + ", ".join(path.name for path in side_files(out).values()))
    return next_step(f"sidtool train {model or 'MODEL+sid'} {out} -o tuned")


def train(
    model: options.Model,
    rows: Annotated[
        Path, typer.Argument(help="Training rows that make-sft wrote; its valid and meta files lie beside.")
    ],
    out: options.Out,
    stage: Annotated[
        str | None,
        typer.Option(help="What learns: full (all weights), rows (those of the new tokens), lora (rows and adapters)."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of training settings; may list `stages`.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            envvar="SIDTOOL_TRAIN_SET",
            help="Training setting, key=value: sidtool's own or any SFTConfig field.",
        ),
    ] = None,
    valid: Annotated[Path | None, typer.Option(help="Validation users, if not those beside the rows.")] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="Trained model of the same bundle to learn from beside the rows; several teach their mean."),
    ] = None,
    trust_remote_code: options.Trust = False,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Train a model on rows, and keep the checkpoint that recommends best on validation.

    A killed run leaves OUT.partial, and the same command goes on from there. Where the configuration lists stages,
    each trains what the one before it made, which stays beside the output as OUT-1-rows, OUT-2-full ...
    """
    from sidtool.model.contract import read_contract
    from sidtool.output import refuse_existing
    from sidtool.tune.settings import read_stages
    from sidtool.tune.sft import read_lineage, side_files
    from sidtool.tune.stages import between
    from sidtool.tune.stages import train_stages as run

    stages = read_stages(config, set_ or (), stage)
    if dry_run:
        refuse_existing(out, force)
        read_contract(model)
        trained = model
        for number, one in enumerate(stages, start=1):
            read_lineage(one.rows or rows)
            own, fields = one.options, one.fields or "no further settings"
            made = out if number == len(stages) else between(out, number, one)
            note(f"would train {trained} on {one.rows or rows} with {own} and {fields}; output {made}")
            trained = made
        return None
    bars = {number: f"{number} {one.options.stage}" for number, one in enumerate(stages, start=1)}
    with progress(*bars.values()) as report:
        summaries = run(
            model,
            rows,
            out,
            stages,
            valid=valid,
            teachers=teacher or (),
            trust_remote_code=trust_remote_code,
            force=force,
            progress=lambda number: report.get(bars[number]),
            tell=partial(typer.echo, err=True),
        )
    if json:
        say_json(summaries[0] if len(summaries) == 1 else {"stages": summaries})
    else:
        say(*(f"{key}: {value}" for summary in summaries for key, value in summary.items()))
    return next_step(f"sidtool evaluate {out} {side_files(rows)['test']}")


def _tokenizer(model: Path | None, bundle: Any) -> Any:
    """The tokenizer of a model, which must be one that was extended with a bundle like this."""
    if model is None:
        return None
    from sidtool.model.load import check_folder
    from sidtool.model.pretrained import Checkpoint, load_tokenizer

    check_folder(model, bundle)
    return load_tokenizer(Checkpoint(model))


def read_shown(
    items: Path,
    tasks: Iterable[str],
    field: Sequence[str] | None,
    queries: Path | None,
    query_text: str | None,
    **columns: str | None,
) -> tuple[Any, Sequence[Any]]:
    """The catalogue, with every column that a task or a query shows, and the queries."""
    from sidtool.catalog.items import read_items, template_columns
    from sidtool.catalog.queries import compose_queries, read_queries
    from sidtool.tune.tasks import named_task

    if queries is not None and query_text is not None:
        raise UsageError("--queries are somebody's words, --query-text composes them: give one of the two")
    wanted = [*(field or ()), *(name for task in tasks for name in named_task(task).fields)]
    wanted += [name for name in template_columns(query_text) if name != "title"] if query_text else []
    catalogue = read_items(items, fields=tuple(dict.fromkeys(wanted)), **columns)  # type: ignore[arg-type]
    if query_text is not None:
        return catalogue, compose_queries(catalogue, query_text)
    return catalogue, () if queries is None else read_queries(queries)


def _say_lineage(lineage: dict[str, Any]) -> None:
    tasks, weights, budgets = lineage["tasks"], lineage["weights"], lineage["budgets"]
    rows = [
        (task, weights[task], budgets.get(task, "-"), n["rows"], n["tokens"], f"{n['share']:.1%}", n["longest"])
        for task, n in tasks.items()
    ]
    say_table(["task", "weight", "budget", "rows", "tokens", "share", "longest row"], rows)
    dropped = f", {lineage['dropped_queries']} queries left out" * bool(lineage["dropped_queries"])
    dropped += f", no text of {lineage['held_out_items']} items" * bool(lineage["held_out_items"])
    say(
        f"protocol {lineage['protocol']}: {lineage['valid']} validation and {lineage['test']} test users; "
        f"{lineage['held_out_events']} held-out events in training rows, "
        f"{lineage['dropped_events']} events of unknown items left out{dropped}"
    )
