"""Fields of training examples' events against those of the split, event by event."""

from dataclasses import replace
from pathlib import Path

import pytest

from sidtool.base.errors import DataError
from sidtool.data.items import Items
from sidtool.data.split.list_targets import ListTargets
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.sft_run import make_sft
from sidtool.model.prompt.segments import PromptEncoder
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.training.reinforcement.examples import EventFields, read_rl_examples
from tests.examples.test_field_prompts import extended_tokenizer, random_split


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


def test_another_split_is_refused(bundle: Bundle, catalog: Items, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    split = random_split(3, tmp_path)
    tokenizer, tokens = extended_tokenizer(bundle.space)
    out = tmp_path / "train.jsonl"
    make_sft(bundle, catalog, split, out, SftOptions({"sequence": 1.0}), tokenizer=tokenizer)
    encoder = PromptEncoder(tokenizer, tokens)
    examples = read_rl_examples(out, "sequence", encoder, bundle)
    examples = replace(examples, fields=EventFields(bundle, (), {}))
    with pytest.raises(DataError, match="shows events that user 'u0' has not in the split"):
        examples.fields_before(0)
