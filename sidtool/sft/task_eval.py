"""The questions that a model is asked of one task: rows of a file, or rows made of users, items and
queries.

Knows which rows ask the same; knows nothing of models or of how answers are measured.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sidtool.bundle.bundle import Bundle
from sidtool.data.items import Items, make_items
from sidtool.data.queries import Query
from sidtool.data.splits import Example, Split, UserSequence
from sidtool.errors import DataError
from sidtool.evaluate.questions import Question
from sidtool.prompt.segments import Segment
from sidtool.sft.example_file import prompt_and_completion, read_training_examples
from sidtool.sft.example_kinds import TrainingExample
from sidtool.sft.tasks import named_task
from sidtool.sft.training_examples import ExampleMaker
from sidtool.sid import SidSpace

Asked = tuple[list[Question], list[Question]]
"""Questions to ask, and others whose answers are right too where they ask the same."""


def questions_of_file(path: Path, task: str, space: SidSpace) -> list[Question]:
    """The questions of a task in a rows file. Raises DataError if it has none."""
    found = [
        _question(task, *prompt_and_completion(row, space))
        for row in read_training_examples(path)
        if row.get("task") == task
    ]
    if not found:
        raise DataError(f"{path} holds no row of task {task}")
    return found


def make_questions(
    maker: ExampleMaker,
    task: str,
    examples: Sequence[Example],
    history_length: int,
    only: Collection[str] | None = None,
) -> Asked:
    """The questions of a task as its rows would ask them; those about the items of `only`, where it
    is a list.

    `examples` are asked as whole histories with their last item; one whose item the bundle lacks
    (`maker.has_item`) is not asked. Raises DataError if nothing is left to ask."""
    examples = [example for example in examples if maker.has_item(example.item)]
    whole = tuple(_sequence(example, history_length) for example in examples)
    rows = list(maker.examples(Split("given", whole, (), (), windows=tuple(examples))))
    chosen = [row for row in rows if only is None or row.item is None or row.item in only]
    if not chosen:
        raise DataError(
            f"there is nothing to ask of task {task}", hint="are the ids those of the bundle?"
        )
    kept = {id(row) for row in chosen}
    return _questions(chosen), _questions(row for row in rows if id(row) not in kept)


def sample(questions: Asked, limit: int | None, seed: int) -> Asked:
    """So many of the questions, drawn at random, in their order; the others may still be right."""
    asked, alike = questions
    if limit is None or limit >= len(asked):
        return questions
    drawn = set(np.random.default_rng(seed).choice(len(asked), limit, replace=False).tolist())
    rest = [question for place, question in enumerate(asked) if place not in drawn]
    return [asked[place] for place in sorted(drawn)], [*alike, *rest]


def titles_of(bundle: Bundle) -> Items:
    """A catalog of the titles that a bundle keeps, for tasks that show no more."""
    ids = tuple(bundle.items.ids)
    titles = tuple(bundle.items.title(row) for row in range(len(ids)))
    return make_items(ids, titles, titles, fields={}, template="{title}")


def unowned(queries: Iterable[Query]) -> tuple[Query, ...]:
    """Queries without their users: what may not be trained on may be asked."""
    return tuple(replace(query, user=None) for query in queries)


def _sequence(example: Example, history_length: int) -> UserSequence:
    history = example.history[-history_length:]
    first = example.position - len(history)
    return UserSequence(
        example.user, (*history, example.item), tuple(range(first, example.position + 1))
    )


def _questions(rows: Iterable[TrainingExample]) -> list[Question]:
    return [_question(row.task, row.prompt, row.completion) for row in rows]


def _question(task: str, prompt: Sequence[Segment], answer: Sequence[Segment]) -> Question:
    """A question; those about items that show the same ask the same, whatever the template."""
    shown = tuple(
        (piece.kind, piece.text, piece.sid_tokens) for piece in prompt if piece.kind == "catalog"
    )
    grouped = named_task(task).per != "user" and shown
    return Question(tuple(prompt), tuple(answer), shown if grouped else None)
