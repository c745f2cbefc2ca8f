from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError
from sidtool.model.prompt.prompts import HistoryPrompt, TextPrompt


@settings(max_examples=30)
@given(st.text(max_size=20), st.integers(1, 50))
def test_json_round_trip_ignores_unknown_keys(text: str, length: int) -> None:
    for prompt in (
        HistoryPrompt("sequence", text.replace("{", "") + "{history}", length, 99),
        TextPrompt("query-to-sid", text.replace("{", "") + "{item}", length),
    ):
        assert type(prompt).from_json({**asdict(prompt), "later": 1}) == prompt


def test_slot_and_keys_are_required() -> None:
    with pytest.raises(DataError, match=r"must contain \{history\}"):
        HistoryPrompt("sequence", "nothing", 1, 1)
    with pytest.raises(DataError, match=r"must contain \{item\}"):
        TextPrompt("query-to-sid", "{item} {item}", 1)
