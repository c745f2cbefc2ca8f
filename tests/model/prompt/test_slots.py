import dataclasses
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError
from sidtool.data import Fields
from sidtool.examples.example_file import segments_to_text, text_to_segments
from sidtool.model.prompt import HistoryPrompt, PromptEncoder, catalog, history_prompt_ids, template
from sidtool.model.prompt.template_slots import (
    Slot,
    frame_segments,
    item_segments,
    joined,
    opening,
    parse,
    span,
    value_text,
)
from tests.model.prompt.cases import SPACE, all_tokenizers, catalog_texts, extended_tokenizer

PROMPT = HistoryPrompt(
    "next-item",
    "{user.age} of {user.city}: {history} on {context.device}, {gap} later\n",
    20,
    1000,
    item="{event.rating}{sid}{gap}/{ago}; ",
)
values = st.none() | catalog_texts | st.integers() | st.floats(allow_nan=False)


def test_literal_text_and_slots_alternate() -> None:
    parsed = parse("a{user.x y}{gap}{nothing} {event.}{sid}")
    slots = (Slot("user", "x y"), Slot("gap"), "{nothing} {event.}", Slot("sid"))
    assert parsed == ("a", *slots)
    assert [str(slot) for slot in parse("{user.x y}{gap}")] == ["{user.x y}", "{gap}"]
    assert opening("a{gap}{sid}b{title}") == "a{gap}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4, "4"),
        (4.0, "4"),
        (0.5, "0.5"),
        (-1e300, "-1e+300"),
        (None, "unknown"),
        (" \n ", "unknown"),
        ("two\n lines", "two lines"),
        ("w" * 500, "w" * 400),
    ],
)
def test_values_are_one_line(value: Any, text: str) -> None:
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        (-5, "seconds"),
        (59.9, "seconds"),
        (60, "minutes"),
        (3600, "hours"),
        (86_400, "days"),
        (7 * 86_400, "weeks"),
        (30 * 86_400, "months"),
        (365 * 86_400, "years"),
    ],
)
def test_spans_of_time_are_words(seconds: float, name: str) -> None:
    assert span(seconds) == name


def test_gaps_are_between_events_and_until_now() -> None:
    fields = Fields(event={"r": (1, 2, 3)}, times=(0, 30, 4000), time=4000 + 90_000)
    shown = template("X")
    items = (item_segments("{gap} {sid} {ago}", shown, fields, at) for at in (-3, -2, -1))
    texts = ["".join(segment.text for segment in segments) for segments in items]
    assert texts == ["unknown X days", "seconds X days", "hours X days"]
    (gap,) = frame_segments("{gap}", fields)
    assert gap == catalog("days")
    assert frame_segments("{gap}", Fields(times=(), time=5)) == [catalog("unknown")]


def test_neighboring_template_texts_become_one() -> None:
    texts = [template("a"), template(""), template("b"), catalog(""), template("c"), catalog("d")]
    assert joined(texts) == [template("abc"), catalog("d")]


def fields_of(values: list[Any], n: int) -> Fields:
    age, city, device, *ratings = values
    times = tuple(100 * at for at in range(n))
    user, event = {"age": age, "city": city}, {"rating": tuple(ratings[:n])}
    return Fields(user, event, {"device": device}, times, 10_000)


SPELLED = {" ", "\n", "\n\n", "\t", "\u2581\u2581"}
"""Added tokens that only spell text."""


@cache
def forbidden_ids(tokenizer: Any) -> Any:
    """The ids of special tokens, and of added ones with a meaning."""
    added = {id_: token.content for id_, token in tokenizer.added_tokens_decoder.items()}
    special = {id_ for id_, text in added.items() if text not in SPELLED}
    return np.array(sorted(special - {tokenizer.unk_token_id}))


def check_prompt(fields: Fields, n: int, tokenizer: Any, tokens: Any, prompt: Any = PROMPT) -> None:
    """The served prompt has exactly the SID tokens of the history and no special token."""
    codes = (np.arange(n)[:, None] % np.array(SPACE.sizes)).astype(np.uint16)
    ids = np.array(history_prompt_ids(prompt, tokenizer, tokens, codes, None, fields))
    is_sid = (ids >= tokens.start) & (ids < tokens.stop)
    assert ids[is_sid].tolist() == [*tokens.ids(codes).ravel().tolist(), tokens.begin]
    assert not np.isin(ids[~is_sid], forbidden_ids(tokenizer)).any()


@settings(deadline=None, max_examples=40)
@given(st.lists(values, min_size=6, max_size=6), st.integers(0, 3), st.sampled_from(range(5)))
def test_no_field_becomes_a_sid_or_a_special_token(some: list[Any], n: int, kind: int) -> None:
    tokenizer, tokens = all_tokenizers()[kind]
    check_prompt(fields_of(some, n), n, tokenizer, tokens)


PIECES = (*SPACE.tokens, "<|im_start|>", "<bos>", "<eos>", "<pad>", "{gap}", "{user.age}", "{sid}")


def random_values(rng: np.random.Generator, n_values: int) -> list[str]:
    """Up to two pieces of markup and four random characters each, less up to two characters at the
    start: half of a token is no token."""
    characters = [*map(chr, range(32, 127)), "\u2581", "\u00e9", "\u6f22", "\u200b"]
    pieces = [*PIECES, *[""] * len(PIECES)]
    markup = rng.integers(0, len(pieces), (n_values, 2)).tolist()
    letters = rng.integers(0, len(characters), (n_values, 4)).tolist()
    starts = rng.integers(0, 3, n_values).tolist()
    return [
        "".join([pieces[a], pieces[b], *[characters[letter] for letter in four]])[start:]
        for (a, b), four, start in zip(markup, letters, starts, strict=True)
    ]


@pytest.mark.parametrize("n_values", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_random_values_smuggle_no_token_in(n_values: int) -> None:
    """Most of them are the many fields of few items, which costs less than as many items."""
    rng = np.random.default_rng(n_values)
    tokenizer, tokens = extended_tokenizer(SPACE)
    n_items, n_fields = 8, 250
    names = [f"f{number}" for number in range(n_fields)]
    item = "".join(f"{{event.{name}}}" for name in names)
    item += "{sid}{gap}/{ago}; "
    prompt = dataclasses.replace(PROMPT, history_length=n_items, max_length=1 << 20, item=item)
    for _ in range(-(-n_values // (n_items * n_fields + 3))):
        age, city, device, *shown = random_values(rng, n_items * n_fields + 3)
        columns = {name: tuple(shown[at::n_fields]) for at, name in enumerate(names)}
        around = fields_of([age, city, device], n_items)
        fields = dataclasses.replace(around, event=columns)
        check_prompt(fields, n_items, tokenizer, tokens, prompt)


@settings(deadline=None, max_examples=40)
@given(st.lists(values, min_size=6, max_size=6), st.sampled_from(range(5)))
def test_a_file_of_examples_gives_the_same_tokens(some: list[Any], kind: int) -> None:
    tokenizer, tokens = all_tokenizers()[kind]
    encoder = PromptEncoder(tokenizer, tokens)
    fields = fields_of(some, 3)
    items = [item_segments(PROMPT.item, template("-"), fields, at) for at in (-3, -2, -1)]
    around = frame_segments(PROMPT.frame.before, fields)
    segments = joined([*around, *(segment for item in items for segment in item)])
    text, spans = segments_to_text(SPACE, segments)
    assert encoder.ids(text_to_segments(SPACE, text, spans)) == encoder.ids(segments)


@pytest.mark.parametrize(
    ("missing", "slot"),
    [
        ({"user": {"age": 1}}, "{user.city}"),
        ({"context": {}}, "{context.device}"),
        ({"event": {}}, "{event.rating}"),
        ({"event": {"rating": (5,)}}, "{event.rating}"),
        ({"times": None}, "{gap}"),
        ({"times": ()}, "{gap}"),
        ({"time": None}, "{ago}"),
    ],
)
def test_a_request_without_a_field_is_refused(missing: Any, slot: str) -> None:
    tokenizer, tokens = extended_tokenizer(SPACE)
    fields = fields_of([None] * 6, 2)
    codes = np.zeros((2, 3), dtype=np.uint16)
    history_prompt_ids(PROMPT, tokenizer, tokens, codes, None, fields)  # unknown values are fine
    less = dataclasses.replace(fields, **missing)
    with pytest.raises(DataError, match="which the request lacks") as error:
        history_prompt_ids(PROMPT, tokenizer, tokens, codes, None, less)
    assert slot in str(error.value)
    # an evaluation has no request: its split lacks the field
    assert "sidtool split records fields: --feedback" in (error.value.shell_hint or "")


def test_a_request_that_has_the_times_of_its_items_lacks_its_own() -> None:
    tokenizer, tokens = extended_tokenizer(SPACE)
    codes = np.zeros((2, 3), dtype=np.uint16)
    fields = dataclasses.replace(fields_of([None] * 6, 2), time=None)
    with pytest.raises(DataError) as error:
        history_prompt_ids(PROMPT, tokenizer, tokens, codes, None, fields)
    assert (error.value.shell_hint or "").startswith('"fields": {"time": now}, where')


def test_a_sequence_goes_on_with_the_context_of_the_next_item() -> None:
    tokenizer, tokens = extended_tokenizer(SPACE)
    encoder = PromptEncoder(tokenizer, tokens)
    prompt = HistoryPrompt("sequence", "{history}", 5, 99, item="{event.device} {gap}{sid}")
    codes = np.zeros((1, 3), dtype=np.uint16)
    fields = Fields(event={"device": ("tv",)}, context={"device": "web"}, times=(0,), time=70)
    ids = history_prompt_ids(prompt, tokenizer, tokens, codes, None, fields)
    text = [catalog("tv"), template(" "), catalog("unknown")]
    next_text = [catalog("web"), template(" "), catalog("minutes")]
    sid = tokens.ids(codes).ravel().tolist()
    assert ids == [*encoder.ids(text), *sid, *encoder.ids(next_text), tokens.begin]
    for less in (dataclasses.replace(fields, context={}), dataclasses.replace(fields, time=None)):
        with pytest.raises(DataError, match=r"\{context.device\}|\{gap\}"):
            history_prompt_ids(prompt, tokenizer, tokens, codes, None, less)
    assert not HistoryPrompt("sequence", "{history}", 5, 99).shows_fields
    assert prompt.shows_fields
    with pytest.raises(DataError, match=r"\{sid\} exactly once"):
        HistoryPrompt("sequence", "{history}", 5, 99, item="{gap}")
