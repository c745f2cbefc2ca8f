import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Items, Query
from sidtool.data.split import Example, Split, UserSequence
from sidtool.examples import ExampleMaker, SftOptions, TaskCatalogOptions, named_task, read_catalog
from sidtool.examples.example_file import encode_example, example_json, segments_to_text
from sidtool.examples.task import TrainingExample
from sidtool.model.prompt import PromptEncoder
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.data.split.cases import trained
from tests.examples.cases import ALL_TASKS, QUERIES
from tests.model.prompt.cases import extended_tokenizer
from tests.models import tiny_tokenizer


def test_examples_that_cannot_fit_are_errors(bundle: Bundle, catalog: Items, split: Split) -> None:
    with pytest.raises(DataError, match="does not fit 20"):
        make_examples(bundle, catalog, split, SftOptions({"next-item": 1}, max_length=20))
    with pytest.raises(UsageError, match="take 105 tokens"):
        ExampleMaker(bundle, catalog, SftOptions({"sequence": 1}, max_length=100), tiny_tokenizer())
    ExampleMaker(bundle, catalog, SftOptions({"sequence": 1}, max_length=105), tiny_tokenizer())
    beginning = tiny_tokenizer()
    processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    beginning.backend_tokenizer.post_processor = processor
    with pytest.raises(UsageError, match="take 106 tokens"):
        ExampleMaker(bundle, catalog, SftOptions({"sequence": 1}, max_length=105), beginning)


def test_unknown_items_are_dropped_and_counted(bundle: Bundle, catalog: Items) -> None:
    split = Split("leave-one-out", (UserSequence("u", ("i0", "gone", "i1"), (0, 1, 2)),), (), ())
    maker = ExampleMaker(bundle, catalog, SftOptions({"next-item": 1}))
    events = [example.events for example in maker.examples(split)]
    assert events == [(("u", "i0", 0), ("u", "i1", 2))]
    assert maker.events(split).n_dropped == 1
    nothing = Split("leave-one-out", (UserSequence("u", ("gone",), (0,)),), (), ())
    with pytest.raises(DataError, match="none of the items in 1 training events"):
        list(maker.examples(nothing))


def test_given_windows_become_the_examples(bundle: Bundle, catalog: Items, split: Split) -> None:
    windows = (
        Example("u", ("i0", "i1"), "i2", 2),
        Example("u", ("i5", "gone"), "i2", 7),
        Example("u", ("i1",), "gone", 3),
    )
    given_split = dataclasses.replace(split, windows=windows)
    _, examples = make_examples(bundle, catalog, given_split, SftOptions({"next-item": 1}))
    assert [example.events for example in examples] == [
        (("u", "i0", 0), ("u", "i1", 1), ("u", "i2", 2)),
        (("u", "i5", 5), ("u", "i2", 7)),
    ]


def test_a_task_needs_its_column(bundle: Bundle, catalog: Items) -> None:
    bare = dataclasses.replace(catalog, fields={})
    with pytest.raises(UsageError, match="catalog column 'description'"):
        ExampleMaker(bundle, bare, SftOptions({"sid-to-description": 1}))


def make_examples(
    bundle: Bundle, catalog: Items, split: Split, options: SftOptions, queries: Any = QUERIES
) -> tuple[ExampleMaker, list[TrainingExample]]:
    maker = ExampleMaker(bundle, catalog, options, tiny_tokenizer(), queries)
    return maker, list(maker.examples(split))


@pytest.mark.parametrize("task", ["brand-to-sid", "sid-to-brand", "prefix-to-brand"])
def test_a_column_task_shows_column_and_sid(
    bundle: Bundle, catalog: Items, split: Split, task: str
) -> None:
    _, examples = make_examples(bundle, catalog, split, SftOptions({task: 2.0}))
    assert len(examples) == 2 * len(bundle.items)
    depths = set()
    for at, example in enumerate(examples):
        text, _ = segments_to_text(bundle.space, example.segments)
        item = at // 2
        assert catalog.fields["brand"][int(bundle.items.ids[item][1:])] in text
        sid = bundle.space.spell(bundle.items.codes[item], begin_end_tokens=True)
        if task == "prefix-to-brand":
            shown = next(segment for segment in example.prompt if segment.kind == "sid")
            prefix = "".join(bundle.space.tokens[place] for place in shown.sid_tokens)
            assert sid.startswith(prefix)
            assert len(prefix) < len(sid) - len(bundle.space.end or "")
            depths.add(len(shown.sid_tokens) - 1)
        else:
            assert sid in text
        assert "brand" in text
    assert depths == ({1, 2} if task == "prefix-to-brand" else set())


def test_running_text_has_every_event_once(bundle: Bundle, catalog: Items, split: Split) -> None:
    options = SftOptions({"history-text": 1.0}, history_length=3)
    _, examples = make_examples(bundle, catalog, split, options)
    assert [event for example in examples for event in example.events] == trained(split)
    for example in examples:
        text, _ = segments_to_text(bundle.space, example.completion)
        for _, item, _ in example.events:
            assert bundle.sid(item, begin_end_tokens=True) in text
            assert catalog.titles[int(item[1:])] in text


def test_what_a_task_cannot_show_is_refused(bundle: Bundle, catalog: Items, split: Split) -> None:
    with pytest.raises(UsageError, match="needs SIDs of two levels or more, these have 1"):
        ExampleMaker(small_bundle(4, (4,)), catalog, SftOptions({"prefix-to-brand": 1.0}))
    with pytest.raises(DataError, match="an example of task title-to-sid does not fit 12 tokens"):
        make_examples(bundle, catalog, split, SftOptions({"title-to-sid": 1.0}, max_length=12))


def test_item_text_shows_catalog_numbers(bundle: Bundle, split: Split, tmp_path: Path) -> None:
    rows = [
        {"item_id": item, "title": f"title {number}", "price": 9.5 + number, "rating": number % 5}
        for number, item in enumerate(bundle.items.ids)
    ]
    rows[3]["price"] = None  # unknown
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    columns = ("price", "rating")
    options = TaskCatalogOptions(fields=columns, query_text="{title} for {price} dollars")
    tasks = {"item-text": 1.0, "sid-to-price": 1.0, "query-to-sid": 1.0}
    catalog, queries = read_catalog(path, tasks, options)
    _, examples = make_examples(bundle, catalog, split, SftOptions(tasks), queries)
    texts: dict[str, list[str]] = {task: [] for task in tasks}
    for example in examples:
        catalog_text = [segment.text for segment in example.segments if segment.kind == "catalog"]
        texts[example.task].append("".join(catalog_text))
    assert texts["item-text"][0] == "title 0\nprice: 9.5\nrating: 0"
    assert texts["item-text"][3] == "title 3\nrating: 3"
    prices = [f"{9.5 + number}" for number in range(len(rows)) if number != 3]
    assert texts["sid-to-price"] == prices
    assert texts["query-to-sid"][:2] == ["title 0 for 9.5 dollars", "title 1 for 10.5 dollars"]


def test_a_user_query_needs_a_training_event(bundle: Bundle, catalog: Items, split: Split) -> None:
    user = split.train[0]
    test_event = split.test[0]
    queries = (
        Query(user.items[1], "of the training set", user.user),
        Query(test_event.item, "of the test set", test_event.user),
        Query("gone", "of no item"),
        Query("i7", "without user"),
    )
    options = SftOptions({"query-to-sid": 2.0})
    maker, examples = make_examples(bundle, catalog, split, options, queries)
    assert maker.count_dropped_queries(split) == 2
    shown = [((user.user, user.items[1], 1),)] * 2 + [()] * 2
    assert [example.events for example in examples] == shown
    texts = [segments_to_text(bundle.space, example.prompt)[0] for example in examples]
    assert not any("test set" in text for text in texts)
    with pytest.raises(UsageError, match="needs queries"):
        ExampleMaker(bundle, catalog, SftOptions({"query-to-sid": 1.0}))


def test_a_user_query_for_an_item_that_is_held_out_again_is_left_out(
    bundle: Bundle, catalog: Items, split: Split
) -> None:
    """It may be the query of the held-out event: queries have no time."""
    user = split.train[0]
    item = user.items[1]
    repeated = dataclasses.replace(split, test=(Example(user.user, user.items, item, 99),))
    queries = (
        *(Query(item, text, user.user) for text in ("when trained on", "when held out")),
        Query(user.items[2], "of the training set", user.user),
    )
    options = SftOptions({"query-to-sid": 1.0})
    maker, examples = make_examples(bundle, catalog, repeated, options, queries)
    assert maker.count_dropped_queries(repeated) == 2
    assert [example.events for example in examples] == [((user.user, user.items[2], 2),)]


def test_items_with_hidden_text_are_shown_as_sids_only(
    bundle: Bundle, catalog: Items, split: Split
) -> None:
    hidden = frozenset({"i3", "i17"})
    hidden_texts = {catalog.titles[int(item[1:])] for item in hidden}
    hidden_texts |= {"something like number 3", "another name for three"}
    options = SftOptions(dict.fromkeys(ALL_TASKS, 2.0), hide_text_of=hidden)
    maker, examples = make_examples(bundle, catalog, split, options)
    assert maker.count_dropped_queries(split) == 3
    items_in_histories = set()
    for example in examples:
        texts = "\n".join(segment.text for segment in example.segments if segment.kind == "catalog")
        assert not hidden_texts & set(texts.splitlines())
        assert named_task(example.task).of_users or example.item not in hidden
        items_in_histories |= {item for _, item, _ in example.events}
    assert hidden <= items_in_histories
    options = SftOptions(hide_text_of=frozenset({bundle.items.ids[0], "nowhere"}))
    with pytest.raises(UsageError, match=r"1 items whose text .* in the bundle, such as 'nowhere'"):
        ExampleMaker(bundle, catalog, options)


TRAPS = ("<s_a_1>", "<|im_end|>", "<|sid_begin|>", "<|sid_end|>", "<eos>", "<bos>")
pieces = st.sampled_from((*TRAPS, "<|im_start|>user", "{item}{sid}")) | st.text(max_size=5)
trapped = st.lists(pieces, min_size=1, max_size=4).map("".join)


@settings(max_examples=8, deadline=None)
@given(st.lists(trapped, min_size=6, max_size=6), st.sampled_from(["plain", "chat"]))
def test_catalog_text_never_becomes_a_token(texts: list[str], format_: str) -> None:
    """An example of hostile text has exactly the SID and special tokens of the same example with
    harmless text."""
    bundle = small_bundle(6)
    tokenizer, tokens = extended_tokenizer(bundle.space)
    encoder = PromptEncoder(tokenizer, tokens)
    added = set(tokenizer.added_tokens_decoder)
    ids = tuple(f"i{number}" for number in range(6))
    split = Split("leave-one-out", (UserSequence("u", ids, tuple(range(6))),), (), ())
    options = SftOptions(dict.fromkeys(ALL_TASKS, 2.0), format=format_)  # type: ignore[arg-type]

    def added_tokens(texts: tuple[str, ...]) -> list[tuple[str, list[int]]]:
        """Task and added tokens of every example, for a catalog of these texts."""
        items = Items(ids, texts, texts, {"description": texts, "brand": texts}, "", "")
        queries = [Query(item, text) for item, text in zip(ids, texts, strict=True)]
        maker = ExampleMaker(bundle, items, options, tokenizer, queries)
        tokens_by_example = []
        for example in maker.examples(split):
            value = example_json(bundle.space, example)
            example_ids = encode_example(value, encoder, codes_only=False)[0].tolist()
            assert example_ids == encoder.ids(example.segments)
            tokens_by_example.append((example.task, [id_ for id_ in example_ids if id_ in added]))
        return tokens_by_example

    assert added_tokens(tuple(f"x{text}" for text in texts)) == added_tokens(("harmless",) * 6)
