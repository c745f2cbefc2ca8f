from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import UsageError
from sidtool.data import FieldName, FieldOptions, Items
from sidtool.data.split import ListTargets, SessionRule, Split
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.examples import ExampleMaker, SftOptions, make_sft, read_lineage
from sidtool.examples.event_weights import WeightOptions
from sidtool.examples.example_file import encode_example, example_json, read_training_examples
from sidtool.model.prompt import Format, PromptEncoder, Templates, history_prompt_ids
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.examples.cases import shown_items
from tests.model.prompt.cases import extended_tokenizer
from tests.models import tiny_tokenizer

START = 880_000_000


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Users of five sessions of one to six items, a minute apart; i90 is not in the bundle."""
    rng = np.random.default_rng(7)
    lines = ["user_id,item_id,timestamp,rating"]
    for user in range(8):
        items = iter(rng.permutation(40).tolist())
        for session in range(5):
            for at in range(int(rng.integers(1, 7))):
                item = 90 if (session, at) == (2, 1) else next(items)
                time = START + 3600 * session + 60 * at
                lines.append(f"u{user},i{item},{time},{rng.integers(1, 6)}")
    path = tmp_path_factory.mktemp("sessions") / "events.csv"
    path.write_text("\n".join(lines) + "\n")
    fields = FieldOptions(feedback=(FieldName("rating"),))
    rule = SessionRule(gap=1800)
    return make_split(path, SplitOptions("last-session", fields=fields, sessions=rule))


def maker_of(
    bundle: Bundle, catalog: Items, split: Split, lists: ListTargets, **options: Any
) -> tuple[ExampleMaker, Any, SidTokens]:
    tokenizer, tokens = extended_tokenizer(bundle.space)
    sft_options = SftOptions({"list": 1.0}, lists=lists, **options)
    maker = ExampleMaker(bundle, catalog, sft_options, tokenizer, fields=split.fields)
    return maker, tokenizer, tokens


def lists_by_hand(split: Split, bundle: Bundle, length: int) -> list[tuple[str, list[str]]]:
    """User and items of every list, from the training events alone."""
    user_lists = []
    for sequence in split.train:
        stops = (*sequence.sessions[1:], len(sequence.items))
        for start, stop in zip(sequence.sessions, stops, strict=True):
            indexes = list(range(max(start, 1), stop))
            for first in range(0, len(indexes), length):
                items = [sequence.items[index] for index in indexes[first : first + length]]
                items = [item for item in items if item in bundle.items.ids]
                if items:
                    user_lists.append((sequence.user, items))
    return user_lists


@pytest.mark.parametrize("begin_end_tokens", [True, False])
@pytest.mark.parametrize("format_", ["plain", "chat"])
@pytest.mark.parametrize("max_length", [72, 512])
def test_lists_are_trained_as_they_are_served(
    catalog: Items, sessions: Split, format_: Format, max_length: int, begin_end_tokens: bool
) -> None:
    bundle = small_bundle(40, begin_end_tokens=begin_end_tokens)
    options = {"format": format_, "history_length": 5, "max_length": max_length}
    maker, tokenizer, tokens = maker_of(bundle, catalog, sessions, ListTargets(3), **options)
    encoder = PromptEncoder(tokenizer, tokens)
    prompt = maker.prompts.list
    assert prompt.list_length == 3
    assert "Which 3 items come next?" in prompt.template
    assert maker.prompts.history.task == "list"
    examples = list(maker.examples(sessions))
    by_hand = lists_by_hand(sessions, bundle, 3)
    assert [(e.events[0][0], shown_items(bundle, e.completion)) for e in examples] == by_hand
    user_items = {sequence.user: sequence.items for sequence in sessions.train}
    for example in examples:
        shown = shown_items(bundle, example.completion)
        assert [item for _, item, _ in example.events[-len(shown) :]] == shown
        user, _, first = example.events[-len(shown)]
        before = [item for item in user_items[user][:first] if item in bundle.items.ids]
        codes = bundle.items.codes[bundle.items.rows(before)]
        served = history_prompt_ids(prompt, tokenizer, tokens, codes, None)
        assert encoder.ids(example.prompt) == served
        assert maker.length(example.segments) <= max_length
        value = example_json(bundle.space, example)
        encoded = encode_example(value, encoder, codes_only=True)
        # the codes of the list are the targets, in the order of its items
        rows = bundle.items.rows(shown)
        expected = tokens.ids(bundle.items.codes[rows], begin_end_tokens=False).ravel().tolist()
        assert encoded.ids[encoded.targets].tolist() == expected


def test_lists_without_items_of_the_bundle_are_left_out(catalog: Items, sessions: Split) -> None:
    bundle = small_bundle(12)
    maker, _, _ = maker_of(bundle, catalog, sessions, ListTargets(1))
    examples = list(maker.examples(sessions))
    assert 0 < len(examples) <= len(lists_by_hand(sessions, bundle, 1))
    assert all(shown_items(bundle, example.prompt) for example in examples)
    assert all(shown_items(bundle, example.completion) for example in examples)


@pytest.mark.filterwarnings("ignore::sidtool.base.errors.SidtoolWarning")
def test_an_event_of_weight_0_is_in_no_list_and_a_feedback_orders(
    tmp_path: Path, bundle: Bundle, catalog: Items, sessions: Split
) -> None:
    lists = ListTargets(4, order="rating")
    options = SftOptions({"list": 1.0}, lists=lists)
    ratings = {}
    for s in sessions.train:
        users = [(s.user, item) for item in s.items]
        ratings |= zip(users, s.fields.event["rating"], strict=True)
    weights = WeightOptions("rating")
    out = tmp_path / "train.jsonl"
    lineage = make_sft(bundle, catalog, sessions, out, options, weights=weights)
    assert lineage.lists == lists
    assert read_lineage(out).list_prompt == lineage.list_prompt
    maker, _, _ = maker_of(bundle, catalog, sessions, lists)
    made = list(maker.examples(sessions))
    for example, stored in zip(made, read_training_examples(out), strict=True):
        values = [ratings[user, item] for user, item, _ in example.events]
        assert stored["weight"] == values
        answer = values[-len(shown_items(bundle, example.completion)) :]
        assert answer == sorted(answer, reverse=True)
    without_low = list(maker.examples(sessions, counts=lambda event: ratings[event[:2]] > 2))
    n_shown = [(e.events, len(shown_items(bundle, e.completion))) for e in without_low]
    shown = [event for events, n in n_shown for event in events[-n:]]
    assert min(ratings[event[:2]] for event in shown) == 3
    assert len(shown) < sum(len(shown_items(bundle, example.completion)) for example in made)


def test_templates_of_a_user_name_the_length_and_show_fields(
    bundle: Bundle, catalog: Items, sessions: Split
) -> None:
    templates = Templates(("Rated: {history} Next {length}:",), "", ("{sid}{event.rating};",))
    lists = ListTargets(2)
    maker, _, _ = maker_of(bundle, catalog, sessions, lists, templates={"list": templates})
    assert "Next 2:" in maker.prompts.list.template
    (example, *_) = maker.examples(sessions)
    first = sessions.train[0]
    texts = [segment.text for segment in example.prompt if segment.kind == "catalog"]
    assert texts == [str(first.fields.event["rating"][0])]


def test_options_of_lists_need_the_task() -> None:
    with pytest.raises(UsageError, match="without the task list"):
        SftOptions({"sequence": 1.0}, lists=ListTargets(3))
    assert SftOptions({"sequence": 1.0}).list_targets is None
    assert SftOptions({"list": 1.0}).list_targets == ListTargets(10)


def test_a_mix_keeps_a_prompt_for_items_and_one_for_lists(bundle: Bundle, catalog: Items) -> None:
    options = SftOptions({"list": 3.0, "next-item": 1.0})
    maker = ExampleMaker(bundle, catalog, options, tiny_tokenizer())
    assert (maker.prompts.history.task, maker.prompts.list.list_length) == ("next-item", 10)
