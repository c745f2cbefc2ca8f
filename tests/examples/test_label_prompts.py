import dataclasses
from pathlib import Path

import pytest

from sidtool.base.errors import DataError
from sidtool.data import NO_FIELDS, Items
from sidtool.evaluation.tasks import TaskEvaluationOptions
from sidtool.evaluation.tasks.questions import make_questions
from sidtool.examples import ExampleMaker, SftOptions, make_sft, read_lineage
from sidtool.model.prompt import LabelPrompt, PromptEncoder, Templates, label_prompt_ids
from sidtool.tokenizer.bundle import Bundle
from tests.examples.test_field_prompts import extended_tokenizer, random_split, split_of
from tests.loaded import loaded_model

TASK = "predict-rating"
MINE = Templates(("{user.city} {history} so:",), "|", ("{gap} {event.device}{sid}{event.rating}",))
PLAIN = Templates(("{history}?",), "", ())


@pytest.mark.parametrize("max_length", [150, 4000])
@pytest.mark.parametrize("templates", [{}, {TASK: MINE}, {TASK: PLAIN}])
def test_a_label_prompt_equals_that_of_the_training_example(
    bundle: Bundle, catalog: Items, tmp_path: Path, templates: dict[str, Templates], max_length: int
) -> None:
    split = random_split(5, tmp_path)
    tokenizer, tokens = extended_tokenizer(bundle.space)
    options = SftOptions({TASK: 1.0}, "plain", max_length, 3, templates=templates)
    maker = ExampleMaker(bundle, catalog, options, tokenizer, fields=split.fields)
    (prompt,) = maker.prompts.labels(split)
    assert prompt.labels == ("1", "2", "3", "4", "5")
    encoder = PromptEncoder(tokenizer, tokens)
    events = {user.user: user for user in split.train}
    made = list(maker.examples(split))
    assert len(made) > 6
    for example in made:
        user, _, position = example.events[-1]
        sequence = events[user]
        stop = sequence.positions.index(position)
        fields = NO_FIELDS
        if sequence.fields is not NO_FIELDS:
            fields = sequence.fields.before(stop, tuple(split.fields.context)).with_next()
        codes = bundle.items.codes[bundle.items.rows(sequence.items[: stop + 1])]
        ids = label_prompt_ids(prompt, tokenizer, tokens, codes, fields)
        assert ids == encoder.ids(example.prompt)


def test_labels_travel_to_the_contract(bundle: Bundle, catalog: Items, tmp_path: Path) -> None:
    rows = [(n % 4 + 1, "tv", 60) for n in range(15)]
    split = split_of(rows, [(20, "Ulm")] * 3, tmp_path)
    out = tmp_path / "train.jsonl"
    lineage = make_sft(bundle, catalog, split, out, SftOptions({TASK: 1.0, "sequence": 1.0}))
    (prompt,) = lineage.label_prompts
    assert (prompt.task, prompt.feedback, prompt.labels) == (TASK, "rating", ("1", "2", "3", "4"))
    assert read_lineage(out).label_prompts == (prompt,)
    contract = loaded_model(bundle).contract
    assert "label_prompts" not in contract.to_json()
    contract = dataclasses.replace(contract, label_prompts=(prompt,), stages=())
    stored = contract.to_json()
    assert stored["format"] == 1  # a reader that ignores it reads the same model
    assert LabelPrompt.from_json(stored["label_prompts"][0]) == prompt


def test_values_that_are_no_labels_have_no_prompt(
    bundle: Bundle, catalog: Items, tmp_path: Path
) -> None:
    for name, ratings in (("many", range(60)), ("one", [3] * 60)):
        (tmp_path / name).mkdir()
        split = split_of([(n, "tv", 60) for n in ratings], [(20, "Ulm")] * 12, tmp_path / name)
        maker = ExampleMaker(bundle, catalog, SftOptions({TASK: 1.0}), fields=split.fields)
        assert maker.prompts.labels(split) == ()
    with pytest.raises(DataError, match="the labels of rating are 3"):
        LabelPrompt(TASK, "{history}", 5, 50, feedback="rating", labels=("3",), close="")


def test_a_label_prompt_makes_the_questions(bundle: Bundle, catalog: Items, tmp_path: Path) -> None:
    split = random_split(7, tmp_path)
    model = loaded_model(bundle)
    options = SftOptions({TASK: 1.0}, "plain", templates={TASK: MINE}, history_length=4)
    maker = ExampleMaker(bundle, catalog, options, model.tokenizer, fields=split.fields)
    prompts = maker.prompts.labels(split)
    contract = dataclasses.replace(model.contract, label_prompts=prompts, stages=())
    model = dataclasses.replace(model, contract=contract)
    questions, _ = make_questions(model, split.test, TaskEvaluationOptions(task=TASK), split.fields)
    encoder = PromptEncoder(model.tokenizer, model.tokens)
    (prompt,) = prompts
    for question, example in zip(questions, split.test, strict=True):
        items = bundle.items.rows((*example.history, example.item))
        codes = bundle.items.codes[items]
        fields = example.fields.with_next()
        ids = label_prompt_ids(prompt, model.tokenizer, model.tokens, codes, fields)
        assert encoder.ids(question.prompt) == ids
    short = dataclasses.replace(prompt, max_length=4)
    with pytest.raises(DataError, match=r"of task .* does not fit 4 tokens"):
        label_prompt_ids(short, model.tokenizer, model.tokens, codes, fields)
