"""`evaluate --task`: where the questions of a task come from, and how its figures are shown."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sidtool.cli.console import note, progress, say_table, say_table_aside
from sidtool.errors import UsageError


def evaluate_task(
    model: Path,
    served: Any,
    task: str,
    source: Path | None,
    on: Literal["test", "valid"],
    items: Path | None,
    *,
    only: Sequence[str] | None,
    field: Sequence[str] | None,
    queries: Path | None,
    query_text: str | None,
    columns: dict[str, str | None],
    limit: int | None,
    num_beams: int,
    seed: int,
) -> Any:
    """Ask a model the questions of a task: of a rows file, of test users, or of every item or
    query."""
    from sidtool.data.split_files import open_split
    from sidtool.evaluate.task_metrics import evaluate_questions as measure
    from sidtool.model.split_check import check_model_split
    from sidtool.sft.lineage import check_same_bundle, read_lineage, side_files
    from sidtool.sft.task_eval import questions_of_file, sample
    from sidtool.sft.tasks import named_task

    per = named_task(task).per
    if source is not None and _holds_training_examples(source):
        if any(
            value is not None
            for value in (items, only, field or None, queries, query_text, *columns.values())
        ):
            raise UsageError(
                f"{source} holds the questions already",
                hint="leave out --only-items, --items and the other options about items",
            )
        if side_files(source)[
            "meta"
        ].exists():  # a part of a file has none: its SIDs must be of the space, at least
            check_same_bundle(read_lineage(source), served.bundle, source)
        questions: Any = (questions_of_file(source, task, served.tokens.space), [])
    elif (source is not None) != (per == "user"):
        told = "a split" if per == "user" else "items or queries, not of a split"
        raise UsageError(
            f"task {task} is asked of {told}", hint="or give a file of training examples"
        )
    elif only is not None and per == "user":
        raise UsageError(f"task {task} asks users, not items", hint="leave out --only-items")
    else:
        examples: tuple[Any, ...] = ()
        if source is not None:
            split = open_split(source)
            check_model_split(model, served.contract, served.bundle, str(source), split.reference)
            examples = split.test if on == "test" else split.valid
        catalog = (items, field, queries, query_text, columns)
        questions = _made(served, task, examples, only, *catalog)
    asked, alike = sample(questions, limit, seed)
    with progress("evaluate") as report:
        return measure(
            served,
            task,
            asked,
            also_correct=alike,
            num_beams=num_beams,
            seed=seed,
            progress=report.get("evaluate"),
        )


def say_task(found: Any, *, aside: bool) -> None:
    """The table of a task's figures; on stderr where stdout holds the JSON."""
    rows = []
    for name, value in found.metrics.items():
        low, high = found.confidence_interval.get(name, (None, None))
        interval = "-" if low is None else f"{low:.4f} to {high:.4f}"
        rows.append((name, value, found.chance.get(name, "-"), interval))
    table = say_table_aside if aside else say_table
    table(["", "model", "chance", "95% interval"], rows, title=f"{found.task}: {found.n} questions")


def _made(
    served: Any,
    task: str,
    examples: Sequence[Any],
    only: Sequence[str] | None,
    items: Path | None,
    field: Sequence[str] | None,
    queries: Path | None,
    query_text: str | None,
    columns: dict[str, str | None],
) -> Any:
    from sidtool.sft.catalog import CatalogOptions, read_catalog
    from sidtool.sft.task_eval import make_questions, titles_of, unowned
    from sidtool.sft.training_examples import ExampleMaker, SftOptions

    asked: Sequence[Any]
    if items is None:
        if field or query_text is not None:
            raise UsageError("columns of the catalog need the catalog", hint="--items FILE")
        from sidtool.data.queries import read_queries

        catalog, asked = titles_of(served.bundle), read_queries(queries) if queries else ()
    else:
        catalog_options = CatalogOptions(
            **columns, fields=tuple(field or ()), queries=queries, query_text=query_text
        )
        catalog, asked = read_catalog(items, [task], catalog_options)
    history_prompt = served.contract.history_prompt
    options = SftOptions(
        tasks={task: 1.0},
        format=row_format(served),
        max_length=min(
            SftOptions.max_length,
            getattr(served.model.config, "max_position_embeddings", None) or 1024,
        ),
        history_length=history_prompt.history_length
        if history_prompt
        else SftOptions.history_length,
    )
    maker = ExampleMaker(served.bundle, catalog, options, served.tokenizer, unowned(asked))
    if lost := sum(not maker.has_item(example.item) for example in examples):
        note(
            f"{lost} of {len(examples)} users are not asked: the bundle lacks their item",
            label="warning:",
            style="yellow",
        )
    return make_questions(
        maker, task, examples, options.history_length, None if only is None else frozenset(only)
    )


def row_format(served: Any) -> Any:
    """The format of the examples that a model was last trained on. If none is recorded: chat if its
    tokenizer has a chat template."""
    default = "chat" if getattr(served.tokenizer, "chat_template", None) else "plain"
    return served.contract.example_format or default


def _holds_training_examples(path: Path) -> bool:
    from sidtool.data.tables import json_lines, suffix

    if path.is_dir() or suffix(path) not in (".jsonl", ".ndjson"):
        return False
    return any("task" in row for _, row in islice(json_lines(path), 1))
