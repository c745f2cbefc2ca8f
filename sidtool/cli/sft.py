"""The make-sft command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sidtool.base.errors import UsageError
from sidtool.cli.terminal import options
from sidtool.cli.terminal.completion import complete_task
from sidtool.cli.terminal.console import next_step, note, progress, say, say_json, say_table, warn
from sidtool.cli.terminal.inputs import assignments, numbers, read_ids

if TYPE_CHECKING:
    from sidtool.data.general_text import GeneralOptions
    from sidtool.data.split.list_targets import ListTargets
    from sidtool.examples.event_weights import WeightOptions, WeightRecord
    from sidtool.examples.lineage import Lineage
    from sidtool.integrations.ray.training_examples import ClusterExamples


def make_sft(
    bundle: options.Bundle,
    items: Annotated[Path, typer.Argument(help="Catalog that the bundle was built from.")],
    split: options.Split,
    out: options.Out,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="Task and weight, like next-item=1; repeatable. Default: sequence=1.",
            autocompletion=complete_task,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Token budget of the whole mix; weights are then shares of it."),
    ] = None,
    max_task_tokens: Annotated[
        list[str] | None,
        typer.Option(help="Token budget of one task, like title-to-sid=20000; repeatable."),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=FILE",
            help="Templates of a task in place of its own; they may show fields of the split, like "
            "{user.age} or {event.rating}. Repeatable.",
        ),
    ] = None,
    list_length: Annotated[
        int | None, typer.Option(help="Items of a list (task list). Default: 10.")
    ] = None,
    list_stride: Annotated[
        int | None,
        typer.Option(
            help="Targets between the starts of two lists (task list). Default: --list-length, so "
            "that no two lists overlap."
        ),
    ] = None,
    list_order: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Feedback that orders the items of a list, the largest first (task list). "
            "Default: the order of the events.",
        ),
    ] = None,
    queries: options.Queries = None,
    query_text: options.QueryText = None,
    hide_text_of: Annotated[
        Path | None,
        typer.Option(help="File of item ids, one per line, whose text is in no training example."),
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option(
            help="Feedback of the split that weights the loss: FIELD, or exp(FIELD/NUMBER)."
        ),
    ] = None,
    weight_clip: Annotated[
        float | None, typer.Option(help="Largest weight; larger ones are lowered to it.")
    ] = None,
    general: Annotated[
        Path | None,
        typer.Option(
            help="General text to mix in, against forgetting: JSON Lines with `text`, or a text "
            "file with blank lines between documents. 1 in 20 documents is held out."
        ),
    ] = None,
    general_share: Annotated[
        float | None, typer.Option(help="Share of general text in all tokens. Default: 0.2.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Extended model whose tokenizer measures and formats the examples."),
    ] = None,
    format_: Annotated[
        Literal["auto", "plain", "chat"],
        typer.Option(
            "--format",
            # derived from the parameter's name, the variable would end in an underscore
            help="Plain text or chat turns; auto: chat if the model has a chat template.",
        ),
    ] = "auto",
    history_length: Annotated[int, typer.Option(help="Items of a history.")] = 20,
    max_length: Annotated[
        int, typer.Option(help="Tokens of an example; a longer history loses its oldest items.")
    ] = 1024,
    id_column: options.IdColumn = None,
    title_column: options.TitleColumn = None,
    field: options.Field = None,
    seed: options.Seed = 0,
    memory: options.EventMemory = None,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    config: options.Config = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Write training examples, validation users and their lineage."""
    from sidtool.examples.catalog import CatalogOptions
    from sidtool.examples.examples_run import make_sft as write_sft
    from sidtool.examples.sft_options import SftOptions
    from sidtool.model.prompt.frames import read_template_file

    budgets = numbers(max_task_tokens, option="--max-task-tokens")
    sft_options = SftOptions(
        tasks=numbers(task, option="--task") or {"sequence": 1.0},
        format=format_,
        max_length=max_length,
        history_length=history_length,
        seed=seed,
        max_tokens=max_tokens,
        max_task_tokens={name: int(value) for name, value in budgets.items()},
        hide_text_of=frozenset(read_ids(hide_text_of) if hide_text_of else ()),
        templates={
            name: read_template_file(Path(str(path)))
            for name, path in assignments(template, option="--template").items()
        },
        lists=_list_targets(list_length, list_stride, list_order),
    )
    catalog_options = CatalogOptions(
        id_column, title_column, tuple(field or ()), queries, query_text
    )
    event_weights = _weight_options(weight, weight_clip)
    inputs = (bundle, items, split, sft_options, catalog_options, model, event_weights)
    with progress("examples") as report:
        lineage = write_sft(
            bundle,
            items,
            split,
            out,
            sft_options,
            catalog_options=catalog_options,
            model=model,
            weights=event_weights,
            general=_general_options(general, general_share),
            memory=None if memory is None else options.parse_bytes(memory),
            writer=_writer(inputs, engine, workers),
            dry_run=dry_run,
            force=force,
            progress=report.get("examples"),
        )
    if json:
        say_json(lineage.to_json())
    else:
        _say_lineage(lineage)
    if model is None:
        _warn_of_open_answers(lineage)
    if dry_run:
        return note(f"nothing written to {out}")
    return next_step("sidtool train {model} {out} -o tuned", model=model or "MODEL+sid", out=out)


def _warn_of_open_answers(lineage: "Lineage") -> None:
    from sidtool.examples.tasks import named_task

    texts = [name for name in lineage.tasks if not named_task(name).writes_sids]
    if texts:
        warn(
            f"the text of {', '.join(texts)} has no end, which only a tokenizer has: a model never "
            "learns to stop (--model)"
        )


def _list_targets(
    length: int | None, stride: int | None, order: str | None
) -> "ListTargets | None":
    from sidtool.data.split.list_targets import LENGTH, ListTargets

    if length is None and stride is None and order is None:
        return None
    return ListTargets(LENGTH if length is None else length, stride, order)


def _writer(
    inputs: tuple[Any, ...], engine: Literal["local", "ray"], workers: int | None
) -> "ClusterExamples | None":
    """What writes the examples by workers, None in this process. Raises UsageError for what
    workers cannot do."""
    from sidtool.examples.examples_run import SftInputs
    from sidtool.integrations.ray.run import RunOptions
    from sidtool.integrations.ray.training_examples import ClusterExamples

    if engine == "ray":
        return ClusterExamples(SftInputs(*inputs), RunOptions(engine, workers))
    if workers is not None:
        raise UsageError("--workers requires --engine ray")
    return None


def _weight_options(expression: str | None, clip: float | None) -> "WeightOptions | None":
    from sidtool.examples.event_weights import WeightOptions

    if expression is not None:
        return WeightOptions(expression, clip)
    if clip is not None:
        raise UsageError("--weight-clip requires --weight")
    return None


def _general_options(path: Path | None, share: float | None) -> "GeneralOptions | None":
    from sidtool.data.general_text import GeneralOptions

    if path is not None:
        return GeneralOptions(path) if share is None else GeneralOptions(path, share)
    if share is not None:
        raise UsageError("--general-share requires --general")
    return None


def _say_lineage(lineage: "Lineage") -> None:
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
        say(_weight_line(lineage.weights))
    line = f"split {lineage.split}: {lineage.valid} validation examples"
    line += f"; {lineage.leaked_events} held-out events in training examples"
    line += f", {lineage.dropped_events} events of unknown items left out"
    if lineage.dropped_queries:
        line += f", {lineage.dropped_queries} queries left out"
    if lineage.hidden_items:
        line += f", text of {lineage.hidden_items} items hidden"
    say(line)


def _weight_line(weights: "WeightRecord") -> str:
    return (
        f"weight {weights.expression}: {weights.smallest:.3g} to {weights.largest:.3g}, mean "
        f"{weights.mean:.3g}, {weights.clipped} clipped; {weights.effective_events:.0f} effective "
        "events"
    )
