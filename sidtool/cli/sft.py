"""The command make-sft."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sidtool.cli import options
from sidtool.cli.console import next_step, note, progress, say, say_json, say_table
from sidtool.cli.inputs import read_ids
from sidtool.cli.models import numbers
from sidtool.errors import UsageError


def make_sft(
    bundle: options.Bundle,
    items: Annotated[Path, typer.Argument(help="Catalog that the bundle was built from.")],
    split: options.Split,
    out: options.Out,
    task: Annotated[
        list[str] | None, typer.Option(help="Task and weight, like next-item=1; may be repeated.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of the whole mix: weights are then the tasks' shares in them."),
    ] = None,
    task_tokens: Annotated[
        list[str] | None,
        typer.Option(help="Tokens of one task, like title-to-sid=20000; may be repeated."),
    ] = None,
    queries: options.Queries = None,
    query_text: options.QueryText = None,
    hide_text_of: Annotated[
        Path | None,
        typer.Option(help="File of item ids, one per line, whose text is in no training example."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Extended model: its tokenizer measures rows and gives the chat format."),
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
    max_length: Annotated[
        int, typer.Option(help="Tokens of a row; a longer history loses its oldest items.")
    ] = 1024,
    text: Annotated[str | None, typer.Option(help="Text of an item, if not its title.")] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column of item ids in the catalog.")
    ] = None,
    title_column: Annotated[str | None, typer.Option(help="Column of titles.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(help="Catalog column that item-text tells; columns of other tasks are read."),
    ] = None,
    seed: options.Seed = 0,
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Write training rows, validation and test users, and their lineage."""
    from sidtool.data.split_files import open_split
    from sidtool.registry.references import open_bundle
    from sidtool.sft.make_sft import make_sft as make
    from sidtool.sft.make_sft import side_files
    from sidtool.sft.training_examples import SftOptions

    opened = open_bundle(bundle)
    tokenizer = _tokenizer(model, opened)
    weights = numbers(task, option="--task") or {"sequence": 1.0}
    chat = (
        format_ == "auto"
        and getattr(tokenizer, "chat_template", None)
        and set(weights) != {"sequence"}
    )
    wanted = SftOptions(
        tasks=weights,
        format="chat" if chat else "plain" if format_ == "auto" else format_,  # type: ignore[arg-type]
        max_length=max_length,
        history_length=history_length,
        seed=seed,
        max_tokens=tokens,
        max_task_tokens={
            name: int(value) for name, value in numbers(task_tokens, option="--task-tokens").items()
        },
        hide_text_of=frozenset(read_ids(hide_text_of) if hide_text_of else ()),
    )
    catalog, asked = read_shown(
        items,
        weights,
        field,
        queries,
        query_text,
        id_column=id_column,
        title_column=title_column,
        text_template=text,
    )
    events = open_split(split)
    with progress("rows") as report:
        lineage = make(
            opened,
            catalog,
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
        return note(
            f"nothing written; it would be {out}, "
            + ", ".join(path.name for path in side_files(out).values())
        )
    return next_step(f"sidtool train {model or 'MODEL+sid'} {out} -o tuned")


def _tokenizer(model: Path | None, bundle: Any) -> Any:
    """The tokenizer of a model, which must be one that was extended with a bundle like this."""
    if model is None:
        return None
    from sidtool.model.load import check_model_folder
    from sidtool.model.pretrained import Checkpoint, load_tokenizer

    check_model_folder(model, bundle)
    return load_tokenizer(Checkpoint(model))


def read_shown(
    items: Path,
    tasks: Iterable[str],
    field: Sequence[str] | None,
    queries: Path | None,
    query_text: str | None,
    **columns: str | None,
) -> tuple[Any, Sequence[Any]]:
    """The catalog, with every column that a task or a query shows, and the queries."""
    from sidtool.data.items import read_items, template_columns
    from sidtool.data.queries import compose_queries, read_queries
    from sidtool.sft.tasks import named_task

    if queries is not None and query_text is not None:
        raise UsageError(
            "--queries are somebody's words, --query-text composes them: give one of the two"
        )
    wanted = [*(field or ()), *(name for task in tasks for name in named_task(task).fields)]
    wanted += (
        [name for name in template_columns(query_text) if name != "title"] if query_text else []
    )

    catalog = read_items(items, fields=tuple(dict.fromkeys(wanted)), **columns)  # type: ignore[arg-type]
    if query_text is not None:
        return catalog, compose_queries(catalog, query_text)
    return catalog, () if queries is None else read_queries(queries)


def _say_lineage(lineage: dict[str, Any]) -> None:
    tasks, weights, budgets = lineage["tasks"], lineage["weights"], lineage["budgets"]
    rows = [
        (
            task,
            weights[task],
            budgets.get(task, "-"),
            n["rows"],
            n["tokens"],
            f"{n['share']:.1%}",
            n["longest"],
        )
        for task, n in tasks.items()
    ]
    say_table(["task", "weight", "budget", "rows", "tokens", "share", "longest row"], rows)
    dropped = f", {lineage['dropped_queries']} queries left out" * bool(lineage["dropped_queries"])
    dropped += f", no text of {lineage['held_out_items']} items" * bool(lineage["held_out_items"])
    say(
        f"split {lineage['split']['protocol']}: {lineage['valid']} validation examples; "
        f"{lineage['held_out_events']} held-out events in training rows, "
        f"{lineage['dropped_events']} events of unknown items left out{dropped}"
    )
