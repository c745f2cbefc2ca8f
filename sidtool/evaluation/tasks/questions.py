"""The questions of one task, read from training examples or made of users, items and queries."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from sidtool.base.errors import DataError, UsageError
from sidtool.base.options import group, option, read_ids
from sidtool.data import FieldTypes, UnknownOptions
from sidtool.data.split import Example, Split, UserSequence
from sidtool.evaluation.held_out import check_targets
from sidtool.evaluation.options import HeldOutOptions
from sidtool.examples import (
    ExampleMaker,
    SftOptions,
    TaskCatalogOptions,
    named_task,
    prompt_and_completion,
    read_catalog,
    read_lineage,
    read_training_examples,
    side_files,
)
from sidtool.model import LoadedModel
from sidtool.model.network import max_positions
from sidtool.model.prompt import Format, Segment
from sidtool.recommendation.search import BeamOptions


@dataclass(frozen=True, kw_only=True)
class QuestionOptions(UnknownOptions, HeldOutOptions, BeamOptions):
    """Which questions of a task are evaluated. Raises UsageError for a number out of range."""

    items: Path | None = option(None)
    """Catalog that the task's questions are made of; default: the bundle's titles."""
    only_items: frozenset[str] | None = option(None, reads=read_ids)
    """File of item ids, one per line: questions about these items only."""


@dataclass(frozen=True, kw_only=True)
class TaskEvaluationOptions(QuestionOptions):
    """Which questions of which task are evaluated. Raises UsageError for an unknown task."""

    task: str
    catalog: TaskCatalogOptions = group(TaskCatalogOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if named_task(self.task).target == "list":
            raise UsageError(
                "lists are no questions with one answer", hint="sidtool evaluate-lists MODEL SPLIT"
            )


@dataclass(frozen=True)
class Question:
    """A prompt and the correct answer. Without a prompt it is running text, all of which the model
    has to predict."""

    prompt: tuple[Segment, ...]
    answer: tuple[Segment, ...]
    group: tuple[Segment, ...] | None = None
    """Questions of one group show the model the same, so an answer that is correct for one of them
    is correct for all (items may share a title)."""

    @property
    def ends_in_sid(self) -> bool:
        """Whether the answer is a SID rather than a text."""
        return all(segment.kind != "catalog" for segment in self.answer)

    @property
    def text(self) -> str:
        """The catalog text of the answer."""
        return "".join(segment.text for segment in self.answer if segment.kind == "catalog")

    @property
    def closing(self) -> tuple[Segment, ...]:
        """What the answer has beside catalog text."""
        return tuple(segment for segment in self.answer if segment.kind != "catalog")


def read_questions(
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
        read_lineage(path).check_bundle(loaded.bundle, path)
    task = options.task
    questions = [
        _question(task, *prompt_and_completion(value, loaded.tokens.space))
        for value in read_training_examples(path)
        if value.get("task") == task
    ]
    if not questions:
        raise DataError(f"{path} has no training example of task {task}")
    return questions


def make_questions(
    loaded: LoadedModel,
    examples: Sequence[Example],
    options: TaskEvaluationOptions,
    types: FieldTypes,
) -> tuple[list[Question], list[Question]]:
    """The questions of a task, made as its training examples are: each user's whole history with
    its last item, or every item or query; and others, which are not evaluated, but whose answers
    are correct for their groups too."""
    lacking = loaded.tokens.lacking(loaded.bundle.items.codes)
    loaded = replace(loaded, bundle=loaded.bundle.only(~lacking))
    maker, history_length = _example_maker(loaded, options, types)
    rows = loaded.bundle.items.rows([example.item for example in examples])
    in_bundle = [example for example, row in zip(examples, rows, strict=True) if row >= 0]
    problem = "users are left out, for the bundle lacks their item"
    check_targets(loaded.bundle, [example.item for example in examples], options, problem)
    histories = []
    for held_out in in_bundle:
        # the newest items that a prompt can show, and the target
        in_history = np.flatnonzero(loaded.bundle.items.rows(held_out.history) >= 0).tolist()
        n_before = len(held_out.history)
        places = [*in_history[-history_length:], n_before]
        # the position of an example is that of its target
        positions = tuple(held_out.position - n_before + place for place in places)
        fields = held_out.all_fields.take(places)
        items = (*(held_out.history[place] for place in places[:-1]), held_out.item)
        histories.append(UserSequence(held_out.user, items, positions, fields))
    split = Split.of("given", histories, windows=in_bundle, fields=types)
    questions: list[Question] = []
    also_correct: list[Question] = []
    for example in maker.examples(split):
        question = _question(example.task, example.prompt, example.completion)
        only_items = options.only_items
        is_evaluated = only_items is None or example.item is None or example.item in only_items
        (questions if is_evaluated else also_correct).append(question)
    if not questions:
        raise DataError(
            f"there are no questions of task {options.task}",
            hint="are the ids of --only-items those of the bundle?",
        )
    return questions, also_correct


def _example_maker(
    loaded: LoadedModel, options: TaskEvaluationOptions, types: FieldTypes
) -> tuple[ExampleMaker, int]:
    """The maker of the task's examples for a model, and its history length: as its training
    examples were made, as far as the model's contract records it."""
    contract, task = loaded.contract, options.task
    # the prompt of the task if it predicts labels, else that by which the model recommends
    label_prompts = (prompt for prompt in contract.label_prompts if prompt.task == task)
    prompt = next(label_prompts, contract.history_prompt)
    columns = options.catalog.fields
    max_length, sft, format = SftOptions.max_length, None, contract.example_format
    if (trained := contract.training_of(task)) is not None:
        max_length, sft = trained.max_length or max_length, trained.sft
        format = trained.example_format
    if sft is not None and named_task(task).target == "text":
        columns = columns or sft.columns
    templates = {} if sft is None else sft.templates
    sft_options = SftOptions(
        tasks={task: 1.0},
        format=cast(Format | None, format) or "auto",
        max_length=min(max_length, max_positions(loaded.model) or max_length),
        history_length=(sft or prompt or SftOptions).history_length,
        templates={name: template for name, template in templates.items() if name == task},
        columns=columns or None,
    )
    bundle = loaded.bundle
    if options.items is not None:
        recorded = bundle.manifest.made_from.columns
        catalog = replace(options.catalog, fields=columns)
        items, queries = read_catalog(options.items, [task], catalog, recorded)
    else:
        if replace(options.catalog, queries=None) != TaskCatalogOptions():
            raise UsageError("columns of the catalog need the catalog", hint="--items FILE")
        items = bundle.catalog
        queries = options.catalog.queries_of(items)
    # a query of a user may not be trained on before its event, but may be evaluated: drop the users
    anonymous = tuple(replace(query, user=None) for query in queries)
    tokenizer, field_tokens = loaded.tokenizer, contract.field_tokens
    maker = ExampleMaker(
        bundle, items, sft_options, tokenizer, anonymous, types, prompt, field_tokens
    )
    return maker, sft_options.history_length


def _question(task: str, prompt: Iterable[Segment], answer: Iterable[Segment]) -> Question:
    """A question. Questions about items that show the same text are one group, whatever the
    template."""
    prompt = tuple(prompt)
    catalog_text = tuple(segment for segment in prompt if segment.kind == "catalog")
    grouped = not named_task(task).of_users and bool(catalog_text)
    return Question(prompt, tuple(answer), catalog_text if grouped else None)
