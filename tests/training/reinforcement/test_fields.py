"""Fields of training examples' events against those of the split, event by event, and training with
them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Items
from sidtool.data.split import ListTargets, Split
from sidtool.data.split.files import read_split, write_split
from sidtool.examples import SftOptions, encode_example, make_sft, read_training_examples
from sidtool.model import load_model_folder
from sidtool.model.prompt import PromptEncoder, Templates, prompt_encoder
from sidtool.recommendation import QuerySession
from sidtool.tokenizer.bundle import Bundle
from sidtool.training import train
from sidtool.training.reinforcement.examples import EventFields, read_rl_examples
from tests.examples.test_field_prompts import extended_tokenizer, random_split
from tests.models import tiny_tokenizer
from tests.training.runs import Make, short_rl
from tests.training_fixtures import rated_split

TEMPLATES = Templates(("{user.age}:{history}",), "", ("{gap} {sid}{event.rating};",))
STEP: dict[str, Any] = {"max_steps": 1, "eval_steps": 1, "save_steps": 1}


@pytest.fixture(scope="module")
def rated(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The split of the shop with ages, ratings and times."""
    folder = tmp_path_factory.mktemp("rated") / "split"
    write_split(rated_split(split), folder)
    return folder


@pytest.fixture(scope="module")
def with_fields(
    bundle: Bundle,
    catalog: Items,
    rated: Path,
    models: Make,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A model whose prompt shows fields, and its training examples."""
    folder = tmp_path_factory.mktemp("with-fields")
    made = folder / "train.jsonl"
    templates = {"sequence": TEMPLATES}
    options = SftOptions({"sequence": 1.0}, max_length=200, history_length=6, templates=templates)
    make_sft(bundle, catalog, rated, made, options, tokenizer=tiny_tokenizer())
    train(models("llama"), made, folder / "model", max_steps=2, per_device_train_batch_size=16)
    return folder / "model", made


def test_a_prompt_is_the_part_of_its_training_example_before_the_target(
    with_fields: tuple[Path, Path], rated: Path, bundle: Bundle
) -> None:
    model, made = with_fields
    loaded = load_model_folder(model)
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    examples = read_rl_examples(made, "sequence", encoder, bundle)
    session = QuerySession.of(loaded)
    fields = EventFields.of(examples.users, read_split(rated), bundle)
    examples = replace(examples, fields=fields)
    expected = []
    for row in read_training_examples(made):
        ids, targets, *_ = encode_example(row, encoder, codes_only=True)
        # the first code of each target behind the first item
        starts = np.flatnonzero(loaded.tokens.is_code(ids, 0))[1:]
        expected += [ids[:start].tolist() for start in starts.tolist() if targets[start]]
    assert len(expected) == len(examples) > 100
    queries = [examples.query(session, number) for number in range(len(examples))]
    assert [query.prompt for query in queries] == expected


def test_such_a_model_is_trained_further(
    with_fields: tuple[Path, Path], rated: Path, tmp_path: Path
) -> None:
    model, made = with_fields
    summary = short_rl(model, made, tmp_path / "out", split=rated, **STEP)
    assert summary.steps == 1
    assert summary.start is not None
    trained = load_model_folder(tmp_path / "out")
    assert trained.contract.history_prompt == load_model_folder(model).contract.history_prompt
    with pytest.raises(UsageError, match="shows fields, which the training examples do not repeat"):
        short_rl(model, made, tmp_path / "none", **STEP)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("task", "lists"),
    [
        ("sequence", None),
        ("next-item", None),
        ("list", ListTargets(length=2)),
        ("list", ListTargets(length=2, order="rating")),
    ],
)
def test_fields_are_those_before_the_event(
    bundle: Bundle, catalog: Items, tmp_path: Path, task: str, lists: ListTargets | None
) -> None:
    split = random_split(4, tmp_path)
    tokenizer, tokens = extended_tokenizer(bundle.space)
    options = SftOptions({task: 1.0}, history_length=2, max_length=400, lists=lists)
    out = tmp_path / "train.jsonl"
    make_sft(bundle, catalog, split, out, options, tokenizer=tokenizer)
    encoder = PromptEncoder(tokenizer, tokens)
    examples = read_rl_examples(out, None if lists else task, encoder, bundle)
    examples = replace(examples, fields=EventFields.of(examples.users, split, bundle))
    train = {user.user: user for user in split.train}
    assert len(examples) >= 6
    for number in range(len(examples)):
        user = train[examples.users[number]]
        rows = bundle.items.rows(user.items).tolist()
        # in this shop no user has an item twice
        stop = rows.index(examples.history(number)[-1]) + 1
        expected = user.fields.before(stop, tuple(split.fields.context))
        assert examples.fields_before(number) == expected
    others = replace(examples, fields=EventFields(bundle, (), {}))
    with pytest.raises(DataError, match="shows events that user 'u0' has not in the split"):
        others.fields_before(0)
