"""Rows: every training event a target, none held out, serving as training, every template whole and
within length."""

import dataclasses
from collections.abc import Sequence
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from sidtool.bundle.bundle import Bundle
from sidtool.data.items import Items
from sidtool.data.queries import Query
from sidtool.data.splits import Example, Split, UserSequence
from sidtool.errors import DataError, UsageError
from sidtool.prompt.assemble import history_prompt_ids, text_prompt_ids
from sidtool.prompt.encoder import PromptEncoder
from sidtool.prompt.segments import segments_to_text
from sidtool.prompt.tokens import SidTokens
from sidtool.sft.example_file import example_json
from sidtool.sft.example_kinds import TrainingExample
from sidtool.sft.histories import sequence_windows
from sidtool.sft.task_mix import token_budgets
from sidtool.sft.tasks import TEXT_PROMPT_TASKS, history_prompt_task, named_task, prompt_frames
from sidtool.sft.training_examples import ExampleMaker, SftOptions
from sidtool.train.dataset import encode_example
from tests.bundles import small_bundle
from tests.models import tiny_tokenizer
from tests.sft.mixes import ALL_TASKS, QUERIES


@given(st.integers(0, 200), st.integers(1, 30))
def test_windows_make_every_item_a_target_once(length: int, history: int) -> None:
    spans = sequence_windows(length, history)
    targets = [place for _, first, stop in spans for place in range(first, stop)]
    assert targets == list(range(length))
    for start, first, stop in spans:
        assert start <= first < stop
        assert stop - start <= history + 1
        if (
            start
        ):  # served with this history cut off, so at least half of what serving shows must be there
            assert first - start >= history / 2
    if length:
        assert spans[-1][2] - spans[-1][0] == min(
            length, history + 1
        )  # the last target sees what serving shows


def test_next_item_rows_ask_as_serving_does(bundle: Bundle, catalog: Items, split: Split) -> None:
    for task in ("next-item", "title-history-to-sid"):
        for kind in ("plain", "chat"):
            tokenizer = tiny_tokenizer(chat=True)
            tokens = SidTokens(bundle.space, len(tokenizer))
            tokenizer.add_tokens(list(bundle.space.tokens))
            options = SftOptions({task: 1.0}, format=kind, history_length=4, max_length=90)
            maker = ExampleMaker(bundle, catalog, options, tokenizer)
            history_prompt, encoder = maker.history_prompt, PromptEncoder(tokenizer, tokens)
            assert history_prompt is not None
            wanted = {}
            for sequence in split.train:
                rows = bundle.items.rows(sequence.items)
                titles = [catalog.titles[int(item[1:])] for item in sequence.items]
                for at in range(1, len(rows)):
                    asked = history_prompt_ids(
                        history_prompt,
                        tokenizer,
                        tokens,
                        bundle.items.codes[rows[:at]],
                        titles[:at],
                    )
                    wanted[(sequence.user, sequence.items[at], at)] = asked
            made = {row.events[-1]: encoder.ids(row.prompt) for row in maker.examples(split)}
            assert made == wanted


def test_a_sequence_row_begins_with_every_served_prompt(
    bundle: Bundle, catalog: Items, split: Split
) -> None:
    tokenizer = tiny_tokenizer()
    tokens = SidTokens(bundle.space, len(tokenizer))
    tokenizer.add_tokens(list(bundle.space.tokens))
    maker = ExampleMaker(bundle, catalog, SftOptions(history_length=20), tokenizer)
    encoder = PromptEncoder(tokenizer, tokens)
    for row, sequence in zip(maker.examples(split), split.train, strict=True):
        ids = encoder.ids(row.completion)
        for at in range(1, len(sequence.items)):
            codes = bundle.items.codes[bundle.items.rows(sequence.items[:at])]
            asked = history_prompt_ids(maker.history_prompt, tokenizer, tokens, codes)
            assert ids[: len(asked)] == asked


@pytest.mark.parametrize("kind", ["plain", "chat"])
@pytest.mark.parametrize("max_length", [110, 256])
def test_every_row_fits_and_ends_with_its_whole_answer(
    bundle: Bundle, catalog: Items, split: Split, kind: str, max_length: int
) -> None:
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.add_tokens(list(bundle.space.tokens))
    if max_length == 110:  # too short for descriptions
        tasks = {
            task: 3.0 for task in ALL_TASKS if "description" not in task and task != "item-text"
        }
    else:
        tasks = dict.fromkeys(ALL_TASKS, 3.0)
    options = SftOptions(tasks, format=kind, history_length=12, max_length=max_length)
    maker = ExampleMaker(bundle, catalog, options, tokenizer, QUERIES)
    seen = set()
    for row in maker.examples(split):
        assert maker.length(row.segments) <= max_length
        seen.add(row.task)
        kinds = {piece.kind for piece in row.completion if piece.text or piece.sid_tokens}
        assert ("catalog" in kinds) == (named_task(row.task).target != "sid")
        if row.task != "sequence":
            last = row.completion[-1].text
            running = named_task(row.task).target == "text"  # asks nothing, so it is plain
            assert last == ("<eos>" if kind == "plain" or running else "<|im_end|>")
            assert bool(row.prompt) != running
        for left, right in zip(row.segments, row.segments[1:], strict=False):
            assert not (right.kind == "sid" and right.sid_tokens and left.text.endswith(" "))
    assert seen == set(tasks)


def test_a_row_that_cannot_fit_is_an_error(bundle: Bundle, catalog: Items, split: Split) -> None:
    with pytest.raises(DataError, match="does not fit 20"):
        list(
            ExampleMaker(
                bundle, catalog, SftOptions({"next-item": 1}, max_length=20), tiny_tokenizer()
            ).examples(split)
        )
    with pytest.raises(UsageError, match="take 105 tokens"):
        ExampleMaker(bundle, catalog, SftOptions({"sequence": 1}, max_length=100), tiny_tokenizer())
    ExampleMaker(bundle, catalog, SftOptions({"sequence": 1}, max_length=105), tiny_tokenizer())
    beginning = tiny_tokenizer()
    beginning.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    with pytest.raises(UsageError, match="take 106 tokens"):
        ExampleMaker(bundle, catalog, SftOptions({"sequence": 1}, max_length=105), beginning)


@given(st.floats(0.1, 3.0), st.integers(0, 5))
def test_weights_take_shares_deterministically(weight: float, seed: int) -> None:
    bundle = small_bundle(40)
    ids = tuple(f"i{row}" for row in range(40))
    items = Items(ids, ids, ids, {}, "", "")
    maker = ExampleMaker(bundle, items, SftOptions({"title-to-sid": weight}, seed=seed))
    users = Split("leave-one-out", (UserSequence("u", ("i0", "i1"), (0, 1)),), (), ())
    first, second = (list(maker.examples(users)) for _ in range(2))
    assert first == second
    assert int(weight) * 40 <= len(first) <= (int(weight) + 1) * 40


def test_unknown_items_are_dropped_and_counted(bundle: Bundle, catalog: Items) -> None:
    split = Split("leave-one-out", (UserSequence("u", ("i0", "gone", "i1"), (0, 1, 2)),), (), ())
    maker = ExampleMaker(bundle, catalog, SftOptions({"next-item": 1}))
    assert [row.events for row in maker.examples(split)] == [(("u", "i0", 0), ("u", "i1", 2))]
    assert maker.count_dropped_events(split) == 1
    nothing = Split("leave-one-out", (UserSequence("u", ("gone",), (0,)),), (), ())
    with pytest.raises(DataError, match="none of the items in 1 training events"):
        list(maker.examples(nothing))


def test_given_windows_are_the_rows(bundle: Bundle, catalog: Items, split: Split) -> None:
    asked = (
        Example("u", ("i0", "i1"), "i2", 2),
        Example("u", ("i5", "gone"), "i2", 7),
        Example("u", ("i1",), "gone", 3),
    )
    given_split = dataclasses.replace(split, windows=asked)
    rows = list(ExampleMaker(bundle, catalog, SftOptions({"next-item": 1})).examples(given_split))
    assert [row.events for row in rows] == [
        (("u", "i0", 0), ("u", "i1", 1), ("u", "i2", 2)),
        (("u", "i5", 5), ("u", "i2", 7)),
    ]


def test_the_served_task_follows_the_weights() -> None:
    assert history_prompt_task({"sequence": 1, "next-item": 2, "title-to-sid": 9}) == "next-item"
    assert (
        history_prompt_task({"title-history-to-sid": 1, "sid-to-title": 1})
        == "title-history-to-sid"
    )
    assert history_prompt_task({"sid-to-title": 1}) is None


def test_chat_frames_need_a_template_that_shows_both_texts() -> None:
    with pytest.raises(UsageError, match="chat template"):
        prompt_frames("next-item", tiny_tokenizer(), "chat")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(UsageError, match="once each"):
        prompt_frames("next-item", tokenizer, "chat")
    assert prompt_frames("next-item", tiny_tokenizer(chat=True), "chat")[0].before.startswith(
        "<|im_start|>user\n"
    )


def test_unknown_tasks_and_weights_are_refused() -> None:
    for tasks in (
        {"nonsense": 1.0},
        {},
        {"sequence": 0.0},
        {"query-to-title": 1.0},
        {"prefix-to-sid": 1.0},
    ):
        with pytest.raises(UsageError):
            SftOptions(tasks)


def test_no_description_no_description_task(bundle: Bundle, catalog: Items) -> None:
    with pytest.raises(UsageError, match="catalog column 'description'"):
        ExampleMaker(
            bundle, dataclasses.replace(catalog, fields={}), SftOptions({"sid-to-description": 1})
        )


def made(
    bundle: Bundle,
    catalog: Items,
    split: Split,
    options: SftOptions,
    queries: Sequence[Query] = QUERIES,
) -> tuple[ExampleMaker, list[TrainingExample]]:
    maker = ExampleMaker(bundle, catalog, options, tiny_tokenizer(), queries)
    return maker, list(maker.examples(split))


@pytest.mark.parametrize("task", ["brand-to-sid", "sid-to-brand", "prefix-to-brand"])
def test_a_column_and_a_sid_are_told_of_each_other(
    bundle: Bundle, catalog: Items, split: Split, task: str
) -> None:
    _, rows = made(bundle, catalog, split, SftOptions({task: 2.0}))
    assert len(rows) == 2 * len(bundle.items)
    depths = set()
    for at, row in enumerate(rows):
        text, _ = segments_to_text(bundle.space, row.segments)
        item = at // 2
        assert catalog.fields["brand"][int(bundle.items.ids[item][1:])] in text
        sid = bundle.space.spell(bundle.items.codes[item], markers=True)
        if task == "prefix-to-brand":
            shown = next(piece for piece in row.prompt if piece.kind == "sid")
            prefix = "".join(bundle.space.tokens[place] for place in shown.sid_tokens)
            assert sid.startswith(prefix)
            assert len(prefix) < len(sid) - len(bundle.space.end or "")
            depths.add(len(shown.sid_tokens) - 1)
        else:
            assert sid in text
        assert "brand" in text
    assert depths == ({1, 2} if task == "prefix-to-brand" else set())


def test_running_text_tells_every_event_once(bundle: Bundle, catalog: Items, split: Split) -> None:
    _, rows = made(bundle, catalog, split, SftOptions({"history-text": 1.0}, history_length=3))
    assert [event for row in rows for event in row.events] == [
        (sequence.user, item, place)
        for sequence in split.train
        for item, place in zip(sequence.items, sequence.positions, strict=True)
    ]
    for row in rows:
        text, _ = segments_to_text(bundle.space, row.completion)
        for _, item, _ in row.events:
            assert (
                bundle.space.spell(bundle.items.codes[bundle.items.row(item)], markers=True) in text
            )
            assert catalog.titles[int(item[1:])] in text


def test_item_text_tells_the_columns_as_data(bundle: Bundle, catalog: Items, split: Split) -> None:
    _, rows = made(bundle, catalog, split, SftOptions({"item-text": 1.0}))
    for row, item in zip(rows, bundle.items.ids, strict=True):
        told = "".join(piece.text for piece in row.completion if piece.kind == "catalog")
        assert catalog.titles[int(item[1:])] in told
        assert f"\ndescription: {catalog.fields['description'][int(item[1:])]}" in told
        assert f"\nbrand: {catalog.fields['brand'][int(item[1:])]}" in told


def test_a_query_of_a_user_is_an_event_of_the_training_set(
    bundle: Bundle, catalog: Items, split: Split
) -> None:
    user, asked = split.train[0], split.test[0]
    queries = (
        Query(user.items[1], "of the training set", user.user),
        Query(asked.item, "of the test set", asked.user),
        Query("gone", "of no item"),
        Query("i7", "of nobody"),
    )
    maker, rows = made(bundle, catalog, split, SftOptions({"query-to-sid": 2.0}), queries)
    assert maker.count_dropped_queries(split) == 2
    assert [row.events for row in rows] == [((user.user, user.items[1], 1),)] * 2 + [()] * 2
    assert all("test set" not in segments_to_text(bundle.space, row.prompt)[0] for row in rows)
    with pytest.raises(UsageError, match="needs queries"):
        ExampleMaker(bundle, catalog, SftOptions({"query-to-sid": 1.0}))


def test_a_model_asked_in_words_is_asked_as_its_rows_were(
    bundle: Bundle, catalog: Items, split: Split
) -> None:
    for task in TEXT_PROMPT_TASKS:
        for kind in ("plain", "chat"):
            tokenizer = tiny_tokenizer(chat=True)
            tokens = SidTokens(bundle.space, len(tokenizer))
            tokenizer.add_tokens(list(bundle.space.tokens))
            options = SftOptions({task: 3.0, "sid-to-title": 1.0}, format=kind)
            maker = ExampleMaker(bundle, catalog, options, tokenizer, QUERIES)
            text_prompt = maker.text_prompt
            assert text_prompt is not None
            assert (text_prompt.task, text_prompt.format) == (task, kind)
            asked = [row.prompt for row in maker.examples(split) if row.task == task]
            texts = {
                next(piece.text for piece in prompt if piece.kind == "catalog") for prompt in asked
            }
            prompts = [PromptEncoder(tokenizer, tokens).ids(prompt) for prompt in asked]
            for text in texts:
                assert text_prompt_ids(text_prompt, tokenizer, tokens, text) in prompts
            long = text_prompt_ids(
                dataclasses.replace(text_prompt, max_length=99), tokenizer, tokens, "soft " * 2000
            )
            assert len(long) == 99
            assert long[-1] == tokens.begin
    assert ExampleMaker(bundle, catalog, SftOptions({"sid-to-title": 1.0})).text_prompt is None


budgets = st.integers(1, 15_000)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(("title-to-sid", "sid-to-title", "next-item")),
        st.floats(0.1, 3),
        min_size=1,
    ),
    budgets,
    st.integers(0, 3),
)
def test_a_mix_within_a_budget(weights: dict[str, float], tokens: int, seed: int) -> None:
    bundle = small_bundle(40)
    ids = tuple(f"i{row}" for row in range(40))
    items = Items(ids, ids, ids, {}, "", "")
    users = Split("leave-one-out", (UserSequence("u", ids[:9], tuple(range(9))),), (), ())
    maker = ExampleMaker(
        bundle, items, SftOptions(weights, seed=seed, max_tokens=tokens), tiny_tokenizer()
    )
    first, second = (list(maker.examples(users)) for _ in range(2))
    assert first == second
    total = sum(weights.values())
    for task, weight in weights.items():
        lengths = [maker.length(row.segments) or 0 for row in first if row.task == task]
        share = int(tokens * weight / total)
        assert sum(lengths) <= share
        if lengths:  # no room for one more, but for the other templates of repeated rows
            repeats = 1 + len(lengths) // 8
            assert share - sum(lengths) <= max(lengths) * (1 + repeats)


def test_budgets_that_cannot_be(bundle: Bundle, catalog: Items) -> None:
    mix = {"title-to-sid": 1.0, "sid-to-title": 1.0}
    for tokens, budgets in (
        (0, {}),
        (10, {"title-to-sid": 11}),
        (10, {"title-to-sid": 10}),
        (None, {"sequence": 5}),
    ):
        with pytest.raises(UsageError, match="token"):
            SftOptions(mix, max_tokens=tokens, max_task_tokens=budgets)
    options = SftOptions(mix, max_tokens=5000, max_task_tokens={"title-to-sid": 4000})
    assert token_budgets(options.tasks, options.max_tokens, options.max_task_tokens) == {
        "title-to-sid": 4000,
        "sid-to-title": 1000,
    }
    with pytest.raises(UsageError, match="needs a tokenizer"):
        ExampleMaker(bundle, catalog, options)


def test_of_held_out_items_rows_show_sids_alone(
    bundle: Bundle, catalog: Items, split: Split
) -> None:
    held = frozenset({"i3", "i17"})
    told = [catalog.titles[int(item[1:])] for item in held] + [
        "something like number 3",
        "another name for three",
    ]
    maker, rows = made(
        bundle, catalog, split, SftOptions(dict.fromkeys(ALL_TASKS, 2.0), hide_text_of=held)
    )
    assert maker.count_dropped_queries(split) == 3
    seen = set()
    for row in rows:
        words = "\n".join(piece.text for piece in row.segments if piece.kind == "catalog")
        assert not any(text in words.splitlines() for text in told)
        assert named_task(row.task).per == "user" or row.item not in held
        seen |= {item for _, item, _ in row.events}
    assert held <= seen  # their SIDs are in histories all the same
    with pytest.raises(
        UsageError,
        match="1 items whose text is to be hidden are not in the bundle, such as 'nowhere'",
    ):
        ExampleMaker(bundle, catalog, SftOptions(hide_text_of=frozenset({"i3", "nowhere"})))


TRAPS = (
    "<s_a_1>",
    "<|im_end|>",
    "<|sid_begin|>",
    "<|sid_end|>",
    "<eos>",
    "<bos>",
    "<|im_start|>user",
    "{item}{sid}",
)
trapped = st.lists(
    st.one_of(st.sampled_from(TRAPS), st.text(max_size=5)), min_size=1, max_size=4
).map("".join)


@settings(max_examples=15, deadline=None)
@given(st.lists(trapped, min_size=6, max_size=6), st.sampled_from(["plain", "chat"]))
def test_no_text_of_a_catalog_becomes_a_token(texts: list[str], kind: str) -> None:
    """A row of hostile text has exactly the SID and special tokens that the same row of harmless
    text has."""
    bundle, tokenizer = small_bundle(6), tiny_tokenizer(chat=True)
    tokens = SidTokens(bundle.space, len(tokenizer))
    tokenizer.add_tokens(list(bundle.space.tokens))
    encoder, added = PromptEncoder(tokenizer, tokens), set(tokenizer.added_tokens_decoder)
    ids = tuple(f"i{row}" for row in range(6))
    split = Split("leave-one-out", (UserSequence("u", ids, tuple(range(6))),), (), ())
    options = SftOptions(dict.fromkeys(ALL_TASKS, 2.0), format=kind)  # type: ignore[arg-type]

    def marks(shown: tuple[str, ...]) -> list[tuple[str, list[int]]]:
        items = Items(ids, shown, shown, {"description": shown, "brand": shown}, "", "")
        queries = [Query(item, text) for item, text in zip(ids, shown, strict=True)]
        maker = ExampleMaker(bundle, items, options, tokenizer, queries)
        found = []
        for row in maker.examples(split):
            read = encode_example(
                example_json(bundle.space, row), encoder, tokens, codes_only=False
            )[0].tolist()
            assert read == encoder.ids(row.segments)  # the file's row is the maker's row
            found.append((row.task, [token for token in read if token in added]))
        return found

    hostile = tuple(f"x{text}" for text in texts)
    assert marks(hostile) == marks(("harmless",) * 6)


def test_no_file_of_templates_is_left_out() -> None:
    names = {
        path.name.removesuffix(".json")
        for path in (files("sidtool.prompt") / "templates").iterdir()
    }
    assert names == {named_task(task).templates for task in ALL_TASKS}
