import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.data import FieldTypes, Items
from sidtool.data.split import Example, Split
from sidtool.data.split.files import write_split
from sidtool.evaluation.ranking import IndexedExamples, example_queries
from sidtool.evaluation.tasks import TaskEvaluationOptions, evaluate_task
from sidtool.evaluation.tasks.questions import make_questions
from sidtool.examples import ExampleMaker, SftOptions
from sidtool.examples.example_file import segments_to_text
from sidtool.examples.task import TrainingExample
from sidtool.model import LoadedModel
from sidtool.model.contract import SftRecord, StageRecord
from sidtool.model.prompt import HistoryPrompt, PromptEncoder, Templates
from sidtool.recommendation import QuerySession
from sidtool.tokenizer import decode
from sidtool.tokenizer.bundle import Bundle
from tests.examples.cases import RATING_TASKS as TASKS
from tests.examples.test_field_prompts import (
    TEMPLATES,
    extended_tokenizer,
    random_split,
    requests_of,
    served,
    split_of,
)
from tests.loaded import HISTORY_PROMPT, loaded_model
from tests.model.contract.cases import TRAINED


@pytest.fixture
def rated(tmp_path: Path) -> Split:
    rows = [(n % 4 + 1, ("tv", "web")[n % 2], 4000) for n in range(15)]
    return split_of(rows, [(20, "Ulm"), (30, "Bonn"), (40, "Jena")], tmp_path)


@pytest.fixture
def maker_of(bundle: Bundle, catalog: Items, rated: Split) -> Callable[..., ExampleMaker]:
    def make(task: str, split: Split = rated, **options: Any) -> ExampleMaker:
        options = SftOptions({task: 1.0}, **options)
        return ExampleMaker(bundle, catalog, options, fields=split.fields)

    return make


def texts(bundle: Bundle, example: TrainingExample) -> tuple[str, str]:
    sides = (example.prompt, example.completion)
    prompt, completion = (segments_to_text(bundle.space, side)[0] for side in sides)
    for token in bundle.space.tokens:
        prompt = prompt.replace(token, "")
        completion = completion.replace(token, "")
    return prompt, completion


def test_the_built_in_templates(
    bundle: Bundle, rated: Split, maker_of: Callable[..., ExampleMaker]
) -> None:
    first = {task: next(maker_of(task).examples(rated)) for task in TASKS}
    assert texts(bundle, first["context-to-sid"])[0] == (
        "age 20, city Ulm, device web, last event hours ago\n"
        "The customer chose these items, oldest first:\n\nWhich item comes next?\n"
    )
    assert texts(bundle, first["next-item-by-rating"])[0] == (
        "A customer chose these items, oldest first:\n\nWhich item comes next, with the rating 2?\n"
    )
    assert texts(bundle, first["predict-rating"]) == (
        "A customer chose these items, oldest first:\n1;unknown;\n"
        "What is the rating of the last one?\n",
        "2",
    )
    assert len(first["predict-rating"].events) == 2


@pytest.mark.parametrize("task", [*TASKS, "next-item", "title-history-to-sid", "sequence"])
def test_no_prompt_shows_the_feedback_of_its_target(
    rated: Split, maker_of: Callable[..., ExampleMaker], task: str
) -> None:
    templates = {task: TEMPLATES[task]} if task in TEMPLATES else {}
    maker = maker_of(task, templates=templates)

    def shown(split: Split) -> list[tuple[Any, ...]]:
        made = maker.examples(split)
        return [(example.events, example.prompt, example.completion) for example in made]

    changed = []
    for sequence in rated.train:
        *earlier, _ = sequence.fields.event["rating"]
        event = {**sequence.fields.event, "rating": (*earlier, 77)}
        fields = dataclasses.replace(sequence.fields, event=event)
        changed.append(dataclasses.replace(sequence, fields=fields))
    last_events = {(user.user, user.items[-1], user.positions[-1]) for user in rated.train}
    n_targets = 0
    pairs = zip(shown(rated), shown(dataclasses.replace(rated, train=tuple(changed))), strict=True)
    for (events, prompt, completion), (_, other_prompt, other_completion) in pairs:
        is_target = events[-1] in last_events
        n_targets += is_target
        is_shown = task == "next-item-by-rating" and is_target
        assert (prompt == other_prompt) != is_shown
        assert (completion == other_completion) != (task == "predict-rating" and is_target)
    assert n_targets == len(rated.train)


@pytest.mark.parametrize("task", ["predict-rating", "next-item-by-rating"])
def test_an_event_without_the_feedback_makes_no_example(
    rated: Split, maker_of: Callable[..., ExampleMaker], task: str
) -> None:
    first, *others = rated.train
    event = {**first.fields.event, "rating": (None,) * len(first.items)}
    unrated = dataclasses.replace(first, fields=dataclasses.replace(first.fields, event=event))
    examples = maker_of(task).examples(dataclasses.replace(rated, train=(unrated, *others)))
    assert {example.events[-1][0] for example in examples} == {user.user for user in others}


def test_a_sequence_whose_fields_do_not_fit_is_refused(
    bundle: Bundle, catalog: Items, rated: Split
) -> None:
    templates = {"sequence": Templates(("{history}",), "", ("{sid} rated {event.rating};",))}
    options = SftOptions({"sequence": 1.0}, "plain", 20, 2, templates=templates)
    tokenizer, _ = extended_tokenizer(bundle.space)
    maker = ExampleMaker(bundle, catalog, options, tokenizer, (), rated.fields)
    with pytest.raises(DataError, match="items with fields does not fit 20 tokens"):
        list(maker.examples(rated))


@pytest.mark.parametrize("task", TASKS[:2])
def test_the_prompt_is_served_as_it_was_trained(
    tmp_path: Path, bundle: Bundle, catalog: Items, task: str
) -> None:
    split = random_split(4, tmp_path)
    tokenizer, tokens = extended_tokenizer(bundle.space)
    options = SftOptions({task: 1.0}, "plain", 4000, 3)
    maker = ExampleMaker(bundle, catalog, options, tokenizer, (), split.fields)
    encoder = PromptEncoder(tokenizer, tokens)
    trained = {example.events[-1]: encoder.ids(example.prompt) for example in maker.examples(split)}
    ratings = {user.user: user.fields.event["rating"] for user in split.train}
    for (user, item, position), request in requests_of(split):
        fields = dataclasses.replace(request.fields, feedback={"rating": ratings[user][position]})
        with_rating = dataclasses.replace(request, fields=fields)
        ids = served(maker, with_rating, bundle, catalog, tokenizer, tokens)
        assert ids == trained[user, item, position]
    if task == "next-item-by-rating":
        with pytest.raises(DataError, match=r"shows \{feedback.rating\}, which the request lacks"):
            served(maker, request, bundle, catalog, tokenizer, tokens)


def test_a_model_that_is_told_a_feedback_is_told_that_of_the_target(
    bundle: Bundle, rated: Split, maker_of: Callable[..., ExampleMaker]
) -> None:
    maker = maker_of("next-item-by-rating", format="plain")
    session = QuerySession.of(loaded_model(bundle, history_prompt=maker.prompts.history))
    indexed = IndexedExamples.of(bundle, rated.test, exclude_seen=False)
    for query, example in zip(example_queries(session, indexed), rated.test, strict=True):
        text = session.tokenizer.decode(query.prompt)
        assert f"with the rating {example.feedback['rating']}?" in text


@pytest.mark.parametrize(
    ("task", "types", "message"),
    [
        ("predict-stars", FieldTypes({"rating": "int"}), "no feedback 'stars', it has rating"),
        ("predict-target", FieldTypes({"rating": "int"}), "no feedback 'target'"),
        ("next-item-by-age", FieldTypes(user={"age": "int"}), "no feedback 'age', it has none"),
        ("next-item-by-target", FieldTypes({"r": "int"}, target=("r>1",)), "no feedback 'target'"),
        ("context-to-sid", FieldTypes({"rating": "int"}), "needs fields of users or contexts"),
    ],
)
def test_splits_without_the_field_are_refused(
    bundle: Bundle, catalog: Items, task: str, types: FieldTypes, message: str
) -> None:
    with pytest.raises(UsageError) as error:
        ExampleMaker(bundle, catalog, SftOptions({task: 1.0}), fields=types)
    assert message in str(error.value)


def test_a_template_of_a_question_shows_no_feedback_of_its_item(
    bundle: Bundle, rated: Split, maker_of: Callable[..., ExampleMaker]
) -> None:
    task = "predict-rating"
    mine = Templates(("{user.age}{history} {field}:",), "", ("{event.device}{sid}{event.rating}",))
    example = next(maker_of(task, templates={task: mine}).examples(rated))
    assert texts(bundle, example)[0] == "20tv1webunknown rating:\n"


def untrained_model(bundle: Bundle, history_prompt: HistoryPrompt | None = None) -> LoadedModel:
    loaded = loaded_model(bundle, history_prompt=history_prompt)
    return dataclasses.replace(loaded, contract=dataclasses.replace(loaded.contract, stages=()))


def test_tasks_are_evaluated_on_a_split(bundle: Bundle, rated: Split, tmp_path: Path) -> None:
    write_split(rated, tmp_path / "split")
    model = untrained_model(bundle)
    for task, names in (
        ("predict-rating", {"accuracy", "log_loss", "auc"}),
        ("context-to-sid", {"exact", "hr@1"}),
    ):
        options = TaskEvaluationOptions(task=task, num_beams=5)
        result = evaluate_task(model, tmp_path / "split", options)
        assert result.n == len(rated.test)
        assert names <= set(result.metrics)
        json.dumps(result.to_json(), allow_nan=False)


def test_questions_are_made_as_the_training_examples_were(bundle: Bundle, rated: Split) -> None:
    """Also of a task by which the model does not recommend."""
    task = "history-to-title"
    templates = {task: Templates(("Mine: {history} and?",), ";")}
    made = SftRecord(2, (), {}, templates, None, 0, False)
    trained = dataclasses.replace(TRAINED, task_weights={task: 1.0}, sft=made, max_length=500)
    model = loaded_model(bundle)
    contract = model.contract.with_stage(StageRecord("full", trained))
    model = dataclasses.replace(model, contract=contract)
    questions, _ = make_questions(model, rated.test, TaskEvaluationOptions(task=task), rated.fields)
    for question in questions:
        text, _ = segments_to_text(bundle.space, question.prompt)
        assert text.startswith("Mine: ")
        assert text.endswith(" and?\n")
        assert text.count(";") == 1  # between the two items of the history


def test_a_question_shows_as_many_items_as_a_prompt(bundle: Bundle) -> None:
    """Items that the bundle lacks take no place of others."""
    *history, target = [bundle.items.ids[row] for row in range(HISTORY_PROMPT.history_length + 1)]
    held_out = Example("u", (target, *history, "gone"), target, len(history) + 2)
    model = untrained_model(bundle, HISTORY_PROMPT)
    options = TaskEvaluationOptions(task="sequence", allow_unknown=True)
    ([question], _) = make_questions(model, [held_out], options, FieldTypes())
    text, _ = segments_to_text(bundle.space, (*question.prompt, *question.answer))
    assert [piece.items[0] for piece in decode(bundle, text)] == [*history, target]


def test_a_trained_template_makes_the_questions(bundle: Bundle, rated: Split) -> None:
    templates = {"next-item": TEMPLATES["next-item"]}
    catalog = Items((), (), (), {}, "{title}", "")
    options = SftOptions({"next-item": 1.0}, "plain", templates=templates)
    maker = ExampleMaker(bundle, catalog, options, fields=rated.fields)
    model = untrained_model(bundle, maker.prompts.history)
    session = QuerySession.of(model)
    task_options = TaskEvaluationOptions(task="next-item")
    questions, _ = make_questions(model, rated.test, task_options, rated.fields)
    indexed = IndexedExamples.of(bundle, rated.test, exclude_seen=False)
    encoder = PromptEncoder(model.tokenizer, model.tokens)
    for question, query in zip(questions, example_queries(session, indexed), strict=True):
        assert encoder.ids(question.prompt) == list(query.prompt)
    with pytest.raises(UsageError, match="is no field of the split"):
        make_questions(model, rated.test, task_options, FieldTypes())
