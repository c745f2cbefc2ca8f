"""Evaluation of one task: its questions, read from training examples or made of users, items and
queries, and the model's answers."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from sidtool.base.errors import DataError, SidtoolWarning, UsageError
from sidtool.base.progress import Progress
from sidtool.data.fields.fields import FieldTypes
from sidtool.data.items import Items, make_items
from sidtool.data.queries import Query, read_queries
from sidtool.data.split.files import open_split
from sidtool.data.split.split import Example, Split, UserSequence
from sidtool.data.tables.containers import suffix
from sidtool.data.tables.json_tables import json_lines
from sidtool.evaluation.options import TaskEvaluationOptions
from sidtool.evaluation.tasks.questions import Question
from sidtool.evaluation.tasks.task_metrics import TaskEvaluation, evaluate_questions
from sidtool.examples.catalog import TaskCatalogOptions, read_catalog
from sidtool.examples.example_context import TrainingExample
from sidtool.examples.example_file import prompt_and_completion, read_training_examples
from sidtool.examples.lineage import check_same_bundle, read_lineage, side_files
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.tasks import named_task
from sidtool.examples.training_examples import ExampleMaker
from sidtool.model.contract.split_check import check_model_split, event_columns
from sidtool.model.load import LoadedModel, load_model_folder
from sidtool.model.positions import max_positions
from sidtool.model.prompt.frames import Format
from sidtool.model.prompt.prompts import HistoryPrompt
from sidtool.model.prompt.segments import Segment
from sidtool.tokenizer.bundle.bundle import Bundle


class Questions(NamedTuple):
    """The questions to evaluate, and others whose answers are correct for their groups too."""

    questions: list[Question]
    also_correct: list[Question]


def evaluate_task(
    model: LoadedModel | str | Path,
    source: str | Path | None,
    options: TaskEvaluationOptions,
    *,
    progress: Progress | None = None,
) -> TaskEvaluation:
    """Evaluate a model on one task.

    `source` is a file of training examples, or for a task about histories a split (as
    `open_split`); a task about items or queries needs none. Users whose item the bundle lacks are
    left out, and a SidtoolWarning counts them. Raises UsageError if source and options do not fit
    the task, CompatibilityError if the training examples are of another bundle or the model may
    have learned from held-out events, DataError if there is no question, and as
    `evaluate_questions`.

    Examples:
        >>> options = sidtool.TaskEvaluationOptions(task="next-item", limit=4, num_beams=5)
        >>> sidtool.evaluate_task("tuned", "split", options).n
        4
    """
    loaded = load_model_folder(model) if isinstance(model, str | Path) else model
    source = None if source is None else Path(source)
    task = options.task
    per_user = named_task(task).per == "user"
    if loaded.contract.user_tokens and per_user:
        raise UsageError(
            f"the model has user tokens, and questions of task {task} have none",
            hint="sidtool evaluate measures recommendations, with them",
        )
    has_parts = per_user and source is not None and not _holds_training_examples(source)
    if options.on != "test" and not has_parts:
        raise UsageError(f"--on {options.on} has no effect without a split")
    if source is not None and _holds_training_examples(source):
        questions = Questions(_read_questions(loaded, source, options), [])
    elif per_user and source is not None:
        if options.only_items is not None:
            raise UsageError(f"task {task} is about users", hint="leave out --only-items")
        columns = event_columns(loaded.contract, loaded.bundle)
        split = open_split(source, recorded=columns)
        check_model_split(loaded.contract, loaded.bundle, str(source), split.reference)
        examples = split.test if options.on == "test" else split.valid
        questions = _make_questions(loaded, examples, options, split.fields)
    elif per_user or source is not None:
        needed = "needs a split" if per_user else "is about items or queries and takes no split"
        raise UsageError(f"task {task} {needed}", hint="or give a file of training examples")
    else:
        questions = _make_questions(loaded, (), options, FieldTypes())
    sampled = _sample(questions, options.limit, options.seed)
    return evaluate_questions(
        loaded,
        task,
        sampled.questions,
        also_correct=sampled.also_correct,
        are_labels=named_task(task).target == "feedback",
        search=options,
        seed=options.seed,
        progress=progress,
    )


def _holds_training_examples(path: Path) -> bool:
    if path.is_dir() or suffix(path) not in (".jsonl", ".ndjson"):
        return False
    return any("task" in value for _, value in islice(json_lines(path), 1))


def _read_questions(
    loaded: LoadedModel, path: Path, options: TaskEvaluationOptions
) -> list[Question]:
    """The questions of a task in a file of training examples."""
    about_items = (options.items, options.only_items)
    if any(option is not None for option in about_items) or options.catalog != TaskCatalogOptions():
        raise UsageError(
            f"{path} contains the questions already",
            hint="leave out --only-items, --items and the other options about items",
        )
    # a part of a file has no lineage: then its SIDs must at least be of the bundle's space
    if side_files(path)["meta"].exists():
        check_same_bundle(read_lineage(path), loaded.bundle, path)
    task = options.task
    questions = [
        _question(task, *prompt_and_completion(value, loaded.tokens.space))
        for value in read_training_examples(path)
        if value.get("task") == task
    ]
    if not questions:
        raise DataError(f"{path} has no training example of task {task}")
    return questions


def _make_questions(
    loaded: LoadedModel,
    examples: Sequence[Example],
    options: TaskEvaluationOptions,
    types: FieldTypes,
) -> Questions:
    """The questions of a task, made as its training examples are: each user's whole history with
    its last item, or every item or query."""
    maker, history_length = _example_maker(loaded, options, types)
    in_bundle = [example for example in examples if maker.has_item(example.item)]
    n_left_out = len(examples) - len(in_bundle)
    if n_left_out:
        warnings.warn(
            f"{n_left_out} of {len(examples)} users are left out: the bundle lacks their item",
            SidtoolWarning,
            stacklevel=3,
        )
    histories = tuple(_history_with_target(example, history_length) for example in in_bundle)
    split = Split("given", histories, (), (), windows=tuple(in_bundle))
    questions: list[Question] = []
    also_correct: list[Question] = []
    for example in maker.examples(split):
        question = _question(example.task, example.prompt, example.completion)
        chosen = _is_about(example, options.only_items)
        (questions if chosen else also_correct).append(question)
    if not questions:
        raise DataError(
            f"there are no questions of task {options.task}",
            hint="are the ids of --only-items those of the bundle?",
        )
    return Questions(questions, also_correct)


def _example_maker(
    loaded: LoadedModel, options: TaskEvaluationOptions, types: FieldTypes
) -> tuple[ExampleMaker, int]:
    """The maker of the task's examples for a model, and its history length."""
    items: Items
    queries: Sequence[Query] = ()
    if options.items is not None:
        recorded = loaded.bundle.manifest.made_from.columns
        catalog = options.catalog
        if not catalog.fields and (columns := _trained_columns(loaded, options.task)):
            catalog = replace(catalog, fields=columns)
        items, queries = read_catalog(options.items, [options.task], catalog, recorded)
    else:
        if options.catalog.fields or options.catalog.query_text is not None:
            raise UsageError("columns of the catalog need the catalog", hint="--items FILE")
        items = _titles(loaded.bundle)
        if options.catalog.queries is not None:
            queries = read_queries(options.catalog.queries)
    prompt = _trained_prompt(loaded, options.task)
    sft_options = _sft_options(loaded, options, prompt)
    # a query of a user may not be trained on before its event, but may be evaluated: drop the users
    anonymous = tuple(replace(query, user=None) for query in queries)
    field_tokens = loaded.contract.field_tokens
    made_with = (loaded.tokenizer, anonymous, types, prompt, field_tokens)
    maker = ExampleMaker(loaded.bundle, items, sft_options, *made_with)
    return maker, sft_options.history_length


def _sft_options(
    loaded: LoadedModel, options: TaskEvaluationOptions, prompt: HistoryPrompt | None
) -> SftOptions:
    """How the training examples of the task were made, as far as the model's contract records it:
    its questions are made so."""
    sft_options = SftOptions(
        tasks={options.task: 1.0},
        format=cast(Format | None, loaded.contract.example_format) or "auto",
        history_length=(prompt or SftOptions).history_length,
    )
    trained = loaded.contract.training_of(options.task)
    if trained is not None:
        made = trained.sft
        sft_options = replace(
            sft_options,
            max_length=trained.max_length or sft_options.max_length,
            history_length=made.history_length if made else sft_options.history_length,
            templates={
                name: each
                for name, each in (made.templates if made else {}).items()
                if name == options.task
            },
        )
    positions = max_positions(loaded.model) or sft_options.max_length
    columns = options.catalog.fields or _trained_columns(loaded, options.task)
    return replace(
        sft_options, max_length=min(sft_options.max_length, positions), columns=columns or None
    )


def _trained_columns(loaded: LoadedModel, task: str) -> tuple[str, ...]:
    """The columns of the catalog that the training examples of a running text show."""
    trained = loaded.contract.training_of(task)
    if trained is None or trained.sft is None or named_task(task).target != "text":
        return ()
    return trained.sft.columns


def _trained_prompt(loaded: LoadedModel, task: str) -> HistoryPrompt | None:
    """The prompt of the task if it predicts labels, else that by which the model recommends."""
    of_labels = (prompt for prompt in loaded.contract.label_prompts if prompt.task == task)
    return next(of_labels, loaded.contract.history_prompt)


def _titles(bundle: Bundle) -> Items:
    """A catalog of the titles in a bundle."""
    ids = tuple(bundle.items.ids)
    titles = tuple(bundle.items.title(index) for index in range(len(ids)))
    return make_items(ids, titles, titles, fields={}, template="{title}")


def _history_with_target(example: Example, history_length: int) -> UserSequence:
    history = example.history[-history_length:]
    # the position of an example is that of its target
    first = example.position - len(history)
    positions = tuple(range(first, example.position + 1))
    n_events = len(example.history) + 1
    fields = example.all_fields.take(range(n_events - len(positions), n_events))
    return UserSequence(example.user, (*history, example.item), positions, fields)


def _is_about(example: TrainingExample, only_items: frozenset[str] | None) -> bool:
    return only_items is None or example.item is None or example.item in only_items


def _question(task: str, prompt: Iterable[Segment], answer: Iterable[Segment]) -> Question:
    """A question. Questions about items that show the same text are one group, whatever the
    template."""
    prompt = tuple(prompt)
    catalog_text = tuple(
        (segment.kind, segment.text, segment.sid_tokens)
        for segment in prompt
        if segment.kind == "catalog"
    )
    grouped = named_task(task).per != "user" and bool(catalog_text)
    return Question(prompt, tuple(answer), catalog_text if grouped else None)


def _sample(questions: Questions, limit: int | None, seed: int) -> Questions:
    """Up to `limit` of the questions, drawn at random, in their order. The answers of the others
    stay correct for their groups."""
    count = len(questions.questions)
    if limit is None or limit >= count:
        return questions
    drawn = set(np.random.default_rng(seed).choice(count, limit, replace=False).tolist())
    sampled = [questions.questions[index] for index in sorted(drawn)]
    others = [question for index, question in enumerate(questions.questions) if index not in drawn]
    return Questions(sampled, [*questions.also_correct, *others])
