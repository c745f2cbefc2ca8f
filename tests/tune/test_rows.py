"""Rows: every training event a target, none held out, serving as training, every template whole and within length."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.bundle.bundle import Bundle
from sidtool.catalog.items import Items
from sidtool.catalog.splits import Example, Split, UserSequence
from sidtool.errors import DataError, UsageError
from sidtool.prompt.render import PromptEncoder, prompt_ids
from sidtool.prompt.tokens import SidTokens
from sidtool.tune.rows import RowMaker, SftOptions, windows
from sidtool.tune.tasks import TASKS, frames, served_task
from tests.models import tiny_tokenizer


@given(st.integers(0, 200), st.integers(1, 30))
def test_windows_make_every_item_a_target_once(length: int, history: int) -> None:
    spans = windows(length, history)
    targets = [place for _, first, stop in spans for place in range(first, stop)]
    assert targets == list(range(length))
    for start, first, stop in spans:
        assert start <= first < stop
        assert stop - start <= history + 1
        if start:  # served with this history cut off, so at least half of what serving shows must be there
            assert first - start >= history / 2
    if length:
        assert spans[-1][2] - spans[-1][0] == min(length, history + 1)  # the last target sees what serving shows


def test_next_item_rows_ask_as_serving_does(bundle: Bundle, catalogue: Items, split: Split) -> None:
    for task in ("next-item", "title-history-to-sid"):
        for kind in ("plain", "chat"):
            tokenizer = tiny_tokenizer(chat=True)
            tokens = SidTokens(bundle.space, len(tokenizer))
            tokenizer.add_tokens(list(bundle.space.tokens))
            options = SftOptions({task: 1.0}, format=kind, history_length=4, max_length=90)
            maker = RowMaker(bundle, catalogue, options, tokenizer)
            serving, encoder = maker.serving, PromptEncoder(tokenizer, tokens)
            assert serving is not None
            wanted = {}
            for sequence in split.train:
                rows = bundle.items.rows(sequence.items)
                titles = [catalogue.titles[int(item[1:])] for item in sequence.items]
                for at in range(1, len(rows)):
                    asked = prompt_ids(serving, tokenizer, tokens, bundle.items.codes[rows[:at]], titles[:at])
                    wanted[(sequence.user, sequence.items[at], at)] = asked
            made = {row.events[-1]: encoder.ids(row.prompt) for row in maker.rows(split)}
            assert made == wanted


def test_a_sequence_row_begins_with_every_served_prompt(bundle: Bundle, catalogue: Items, split: Split) -> None:
    tokenizer = tiny_tokenizer()
    tokens = SidTokens(bundle.space, len(tokenizer))
    tokenizer.add_tokens(list(bundle.space.tokens))
    maker = RowMaker(bundle, catalogue, SftOptions(history_length=20), tokenizer)
    encoder = PromptEncoder(tokenizer, tokens)
    for row, sequence in zip(maker.rows(split), split.train, strict=True):
        ids = encoder.ids(row.answer)
        for at in range(1, len(sequence.items)):
            codes = bundle.items.codes[bundle.items.rows(sequence.items[:at])]
            asked = prompt_ids(maker.serving, tokenizer, tokens, codes)
            assert ids[: len(asked)] == asked


@pytest.mark.parametrize("kind", ["plain", "chat"])
@pytest.mark.parametrize("max_length", [110, 256])
def test_every_row_fits_and_ends_with_its_whole_answer(
    bundle: Bundle, catalogue: Items, split: Split, kind: str, max_length: int
) -> None:
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.add_tokens(list(bundle.space.tokens))
    if max_length == 110:  # too short for descriptions
        tasks = {task: 3.0 for task in TASKS if "description" not in task}
    else:
        tasks = dict.fromkeys(TASKS, 3.0)
    options = SftOptions(tasks, format=kind, history_length=12, max_length=max_length)
    maker = RowMaker(bundle, catalogue, options, tokenizer)
    seen = set()
    for row in maker.rows(split):
        assert maker.length([*row.prompt, *row.answer]) <= max_length
        seen.add(row.task)
        kinds = {piece.kind for piece in row.answer if piece.text or piece.places}
        assert ("catalogue" in kinds) == (TASKS[row.task].target != "sid")
        if row.task != "sequence":
            last = row.answer[-1].text
            assert last == ("<|im_end|>" if kind == "chat" else "<eos>")
        for left, right in zip([*row.prompt, *row.answer], [*row.prompt, *row.answer][1:], strict=False):
            assert not (right.kind == "sid" and right.places and left.text.endswith(" "))
    assert seen == set(tasks)


def test_a_row_that_cannot_fit_is_an_error(bundle: Bundle, catalogue: Items, split: Split) -> None:
    with pytest.raises(DataError, match="does not fit 20"):
        list(RowMaker(bundle, catalogue, SftOptions({"next-item": 1}, max_length=20), tiny_tokenizer()).rows(split))
    with pytest.raises(UsageError, match="take 105 tokens"):
        RowMaker(bundle, catalogue, SftOptions({"sequence": 1}, max_length=100), tiny_tokenizer())


@given(st.floats(0.1, 3.0), st.integers(0, 5))
def test_weights_take_shares_deterministically(weight: float, seed: int) -> None:
    from tests.bundles import small_bundle

    bundle = small_bundle(40)
    ids = tuple(f"i{row}" for row in range(40))
    items = Items(ids, ids, ids, {}, "", "")
    maker = RowMaker(bundle, items, SftOptions({"title-to-sid": weight}, seed=seed))
    users = Split("x", (UserSequence("u", ("i0", "i1"), (0, 1)),), (), (), {})
    first, second = (list(maker.rows(users)) for _ in range(2))
    assert first == second
    assert int(weight) * 40 <= len(first) <= (int(weight) + 1) * 40


def test_unknown_items_are_dropped_and_counted(bundle: Bundle, catalogue: Items) -> None:
    split = Split("x", (UserSequence("u", ("i0", "gone", "i1"), (0, 1, 2)),), (), (), {})
    maker = RowMaker(bundle, catalogue, SftOptions({"next-item": 1}))
    assert [row.events for row in maker.rows(split)] == [(("u", "i0", 0), ("u", "i1", 2))]
    assert maker.dropped == 1
    nothing = Split("x", (UserSequence("u", ("gone",), (0,)),), (), (), {})
    with pytest.raises(DataError, match="none of 1 training events"):
        list(maker.rows(nothing))


def test_given_windows_are_the_rows(bundle: Bundle, catalogue: Items, split: Split) -> None:
    asked = (
        Example("u", ("i0", "i1"), "i2", 2),
        Example("u", ("i5", "gone"), "i2", 7),
        Example("u", ("i1",), "gone", 3),
    )
    given_split = dataclasses.replace(split, windows=asked)
    rows = list(RowMaker(bundle, catalogue, SftOptions({"next-item": 1})).rows(given_split))
    assert [row.events for row in rows] == [
        (("u", "i0", 0), ("u", "i1", 1), ("u", "i2", 2)),
        (("u", "i5", 5), ("u", "i2", 7)),
    ]


def test_the_served_task_follows_the_weights() -> None:
    assert served_task({"sequence": 1, "next-item": 2, "title-to-sid": 9}) == "next-item"
    assert served_task({"title-history-to-sid": 1, "sid-to-title": 1}) == "title-history-to-sid"
    assert served_task({"sid-to-title": 1}) is None


def test_chat_frames_need_a_template_that_shows_both_texts() -> None:
    with pytest.raises(UsageError, match="chat template"):
        frames("next-item", tiny_tokenizer(), "chat")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(UsageError, match="once each"):
        frames("next-item", tokenizer, "chat")
    assert frames("next-item", tiny_tokenizer(chat=True), "chat")[0].before.startswith("<|im_start|>user\n")


def test_unknown_tasks_and_weights_are_refused() -> None:
    for tasks in ({"nonsense": 1.0}, {}, {"sequence": 0.0}):
        with pytest.raises(UsageError):
            SftOptions(tasks)


def test_no_description_no_description_task(bundle: Bundle, catalogue: Items) -> None:
    with pytest.raises(UsageError, match="descriptions"):
        RowMaker(bundle, dataclasses.replace(catalogue, fields={}), SftOptions({"sid-to-description": 1}))
