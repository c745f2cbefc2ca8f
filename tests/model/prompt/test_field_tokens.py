from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Fields
from sidtool.examples.prompts import with_field_tokens
from sidtool.model.prompt import HistoryPrompt, PromptFrame, history_prompt_ids
from sidtool.model.prompt.template_slots import Slot, parse, parse_field_tokens, value_text
from sidtool.model.vocabulary.tokenizer import add_block
from sidtool.model.vocabulary.tokens import FieldTokenLookup, FieldTokens, SidTokens
from tests.model.prompt.cases import SPACE, catalog_texts
from tests.models import tiny_tokenizer

VALUES = {"user.age": ("18", "25"), "event.rating": ("1", "5", "<field_0>"), "gap": ("hours",)}
PROMPT = HistoryPrompt(
    "next-item",
    "{user.age:token}{user.age} {history} {gap:token}",
    20,
    1000,
    item="{event.rating:token}{sid};",
    field_tokens=VALUES,
)
SERVED_FIRST = [0, 3, 7]
"""the first token of each field"""


@cache
def with_tokens() -> tuple[Any, SidTokens, FieldTokens]:
    tokenizer = tiny_tokenizer(chat=True)
    start = len(tokenizer)
    tokenizer.add_tokens(list(SPACE.tokens), special_tokens=False)
    fields = FieldTokens.of(len(tokenizer), VALUES)
    add_block(tokenizer, fields, "--field-token")
    return tokenizer, SidTokens(SPACE, start), fields


def test_every_value_has_its_token_and_all_others_share_one() -> None:
    lookup = FieldTokenLookup(VALUES)
    assert lookup.text("user.age", "18") == "<field_0>"
    assert lookup.text("user.age", "25") == "<field_1>"
    assert {lookup.text("user.age", value) for value in ("", "unknown", "5")} == {"<field_2>"}
    assert lookup.text("event.rating", "5") == "<field_4>"
    assert lookup.text("gap", "days") == "<field_8>"
    assert FieldTokens.of(100, VALUES).stop == 109
    assert FieldTokens.of(100, VALUES).texts[-1] == "<field_8>"


values = st.none() | catalog_texts | st.sampled_from(["18", 18, 5.0, "<field_0>", "<field_7>"])


@settings(deadline=None, max_examples=60)
@given(st.lists(values, min_size=4, max_size=4), st.integers(0, 10_000))
def test_a_value_chooses_a_token_of_its_field_and_no_other(some: list[Any], waited: int) -> None:
    tokenizer, tokens, block = with_tokens()
    age, *ratings = some
    fields = Fields({"age": age}, {"rating": tuple(ratings)}, {}, (0, 0, 0), waited)
    codes = np.zeros((3, 3), dtype=np.uint16)
    ids = np.array(history_prompt_ids(PROMPT, tokenizer, tokens, codes, None, fields))
    shown = ids[(ids >= block.start) & (ids < block.stop)] - block.start

    def expected(name: str, value: Any) -> int:
        listed = VALUES[name]
        text = value_text(value)
        place = listed.index(text) if text in listed else len(listed)
        return SERVED_FIRST[list(VALUES).index(name)] + place

    gap = "hours" if waited >= 3600 else None
    ratings = [expected("event.rating", rating) for rating in ratings]
    assert shown.tolist() == [expected("user.age", age), *ratings, expected("gap", gap)]
    is_sid = (ids >= tokens.start) & (ids < tokens.stop)
    assert ids[is_sid].tolist() == [*tokens.ids(codes).ravel().tolist(), tokens.begin]


def test_slots_say_whether_they_show_tokens() -> None:
    age, gap, column = Slot("user", "a", True), Slot("gap", "", True), Slot("event", "a:b")
    parsed = parse("{user.a:token}{gap:token}{event.a:b}{sid}{sid:token}")
    assert parsed == (age, gap, column, Slot("sid"), "{sid:token}")
    assert [str(slot) for slot in (age, Slot("gap"))] == ["{user.a:token}", "{gap}"]


def test_fields_and_their_values_are_given_as_texts() -> None:
    field_tokens = parse_field_tokens(["user.job=writer,artist", "event.a=1"])
    assert field_tokens == {"user.job": ("writer", "artist"), "event.a": ("1",)}
    # as prompts show them: numbers without zeros at their end, texts without space around them
    field_tokens = parse_field_tokens(["event.rating=1.0,2.50,10", "user.job=writer, artist"])
    assert field_tokens == {"event.rating": ("1", "2.5", "10"), "user.job": ("writer", "artist")}
    lookup = FieldTokenLookup(parse_field_tokens(["event.rating=1.0,2.5"]))
    shown = [value_text(value) for value in (1.0, 1, 2.5, "1.0", 3)]
    assert [lookup.text("event.rating", text)[-2] for text in shown] == ["0", "0", "1", "0", "2"]
    assert parse_field_tokens(["gap"])["gap"][:2] == ("seconds", "minutes")
    assert parse_field_tokens(["ago"])["ago"][-1] == "years"
    for texts in (["user.job"], ["gap=days"], ["user.job=a", "user.job=b"]):
        with pytest.raises(UsageError, match=r"no field with its values|job are given twice"):
            parse_field_tokens(texts)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        *(({name: ("a",)}, f"'{name}' is no field") for name in ("job", "user.", "user.a:token")),
        *(({"user.a": bad}, "different texts") for bad in ((), ("b", "b"), ("",), (1, 2), "ab")),
        ({"user.a": tuple(map(str, range(1 << 16)))}, "fields have 65537 tokens, at most 65536"),
    ],
)
def test_impossible_tokens_are_refused(bad: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FieldTokens.of(0, bad)


def test_a_template_shows_only_tokens_that_the_model_has() -> None:
    plain = PromptFrame("{user.age} ", "")
    shows = PromptFrame("{user.age:token} ", "", item="{gap:token}{sid}")
    assert with_field_tokens(plain, VALUES) == plain
    assert with_field_tokens(shows, VALUES) == replace(shows, field_tokens=VALUES)
    with pytest.raises(UsageError, match=r"\{gap:token\} needs a model with tokens for gap"):
        with_field_tokens(shows, {"user.age": ("18",)})
    with pytest.raises(DataError, match=r"shows tokens of gap, which it does not list"):
        HistoryPrompt("next-item", "{gap:token}{history}", 1, 9)


def test_a_prompt_without_tokens_is_stored_as_before() -> None:
    assert "field_tokens" not in HistoryPrompt("next-item", "{history}", 1, 9).to_json()
    assert HistoryPrompt.from_json(PROMPT.to_json()) == PROMPT
