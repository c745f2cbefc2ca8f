from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError
from sidtool.data.fields.fields import Fields
from sidtool.data.split.examples import read_events, read_examples, write_examples
from sidtool.data.split.values import Example, UserSequence
from tests.data.split.lines import write_events

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
many = st.lists(ids, max_size=4).map(tuple)
examples = st.builds(Example, ids, many, ids, st.integers(0, 99))
events = st.builds(
    lambda user, items: UserSequence(user, items, tuple(range(3, 3 + len(items)))), ids, many
)

RESTED = '{{"user": "u", "history": [], "item": "b", "rest": {}}}'


@settings(max_examples=40)
@given(st.lists(examples, max_size=4), st.lists(events, max_size=4))
def test_written_examples_are_read_back(
    tmp_path: Path, asked: list[Example], known: list[UserSequence]
) -> None:
    write_examples(tmp_path / "test.jsonl", asked)
    write_events(tmp_path / "events.jsonl", known)
    assert list(read_examples(tmp_path / "test.jsonl")) == asked
    assert list(read_events(tmp_path / "events.jsonl")) == known


def test_fields_of_an_example_without_times_end_with_its_target() -> None:
    example = Example("u", ("a",), "b", 1, Fields(event={"rating": (5,)}), {"rating": 4})
    assert example.all_fields == Fields(event={"rating": (5, 4)})


def test_ids_may_be_numbers_and_the_position_is_optional(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"user": 7, "history": [1, "b"], "item": 3}\n')
    assert list(read_examples(tmp_path / "test.jsonl")) == [Example("7", ("1", "b"), "3", 2)]


@pytest.mark.parametrize(
    ("read", "line"),
    [
        (read_examples, "{}"),
        (read_examples, '{"user": "u", "history": "a", "item": "b"}'),
        (read_examples, '{"user": "u", "history": [null], "item": "b"}'),
        (read_examples, '{"user": "u", "history": [], "item": ""}'),
        (read_examples, '{"user": true, "history": [], "item": "b"}'),
        (read_examples, '{"user": "u", "history": [], "item": "b", "position": "1"}'),
        (read_examples, '{"user": "u", "history": [], "item": "b", "position": -1}'),
        (read_events, '{"user": "u", "items": ["a"], "positions": []}'),
        (read_events, '{"user": "u", "items": ["a"]}'),
        (read_events, "nothing"),
        (read_events, '{"user": "u", "items": ["a", "b"], "positions": [1, 0]}'),
        (read_events, '{"user": "u", "items": ["a"], "positions": [true]}'),
        (read_events, '{"user": "u", "items": ["a"], "positions": [1e3]}'),
        (read_events, '{"user": "u", "items": ["a"], "positions": [' + "9" * 400 + "]}"),
        (read_events, '{"user": "u", "items": ["a"], "positions": [0], "sessions": [1]}'),
        (read_events, '{"user": "u", "items": ["a"], "positions": [0], "sessions": "0"}'),
        (read_examples, '{"user": "u", "user": "v", "history": ["a"], "item": "b"}'),
        (read_examples, '{"user": "u", "history": [1.0], "item": "b"}'),
        (read_examples, '{"user": "\\ud800", "history": ["a"], "item": "b"}'),
        (read_examples, '{"user": "u", "history": ["a"], "item": false}'),
        (read_examples, "[" * 100_000),
        (read_examples, RESTED.format('[{"item": "b", "position": 0}]')),
        (read_examples, RESTED.format('{"item": "b"}')),
        (read_examples, RESTED.format('[{"item": "", "position": 9}]')),
        (read_examples, RESTED.format('[{"item": "b", "position": 9, "time": "x"}]')),
    ],
)
def test_a_malformed_line_is_named(
    tmp_path: Path, read: Callable[[Path], Iterator[Any]], line: str
) -> None:
    good = '{"user": "u", "history": ["a"], "item": "b", "items": ["a"], "positions": [0]}'
    (tmp_path / "x.jsonl").write_text(f"{good}\n\n{line}\n")
    rows = read(tmp_path / "x.jsonl")
    next(rows)
    with pytest.raises(DataError, match="line 3") as caught:
        next(rows)
    assert "\n" not in str(caught.value)
