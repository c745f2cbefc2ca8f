"""Packed parts are the values that were packed, in memory and in files; a split within a budget is
that without one, byte for byte."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError
from sidtool.data.fields.field_columns import FieldName, FieldOptions
from sidtool.data.fields.fields import Fields
from sidtool.data.split.files import SplitOptions, read_split, split_events
from sidtool.data.split.packed import Packer
from sidtool.data.split.split import Example, HeldOutEvents, UserSequence
from tests.data.tables.files import write_table

FIELDS = Fields({"age": 3}, {"rating": (5, 5.0, None)}, times=(1.0, 2.0, 3.0))
SEQUENCES = (
    UserSequence("u", ("a", "b", "a"), (0, 1, 2), FIELDS),
    UserSequence("v", (), ()),
    UserSequence("w", ("c",), (0,)),
)
EXAMPLES = (
    Example("w", ("c",), "a", 1),
    Example("new", (), "d", 0, Fields({}, {}, {"device": "tv"}), {"rating": 2}),
)


@pytest.mark.parametrize("in_files", [False, True])
def test_packed_parts_equal_what_was_packed(
    tmp_path: Path, in_files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidtool.data.split.packed.BLOCK", 2)
    packer = Packer(tmp_path if in_files else None)
    train = packer.sequences(iter(SEQUENCES))
    valid = packer.examples(iter(EXAMPLES))
    assert train() == SEQUENCES
    assert valid() == EXAMPLES
    assert train() == SEQUENCES
    assert train() != SEQUENCES[:2]
    assert train()[-1] == SEQUENCES[-1]
    assert train()[:2] == SEQUENCES[:2]
    # equal values of different types stay what they are
    assert [type(value) for value in train()[0].fields.event["rating"]][:2] == [int, float]
    assert isinstance(train().items.values, np.memmap) == in_files
    with pytest.raises(IndexError):
        valid()[2]


def test_positions_with_gaps_are_kept() -> None:
    sequences = (UserSequence("u", ("a", "b"), (3, 7)),)
    assert Packer().sequences(sequences)() == sequences


@given(st.lists(st.tuples(st.sampled_from("uv"), st.sampled_from("ab"), st.integers(0, 3))))
def test_held_out_events_are_a_set(events: list[tuple[str, str, int]]) -> None:
    half = len(events) // 2
    parts = [
        [Example(user, (), item, at) for user, item, at in part]
        for part in (events[:half], events[half:])
    ]
    held_out = HeldOutEvents(parts)
    possible = [(user, item, at) for user in "uvw" for item in "abc" for at in range(5)]
    assert [event in held_out for event in possible] == [event in events for event in possible]
    assert held_out.count(possible) == len(set(events))
    assert "no event" not in held_out


def test_an_equal_hash_is_no_held_out_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidtool.data.split.split.hash", lambda event: 7, raising=False)
    held_out = HeldOutEvents([[Example("u", (), "a", 1), Example("v", (), "b", 2)]])
    assert ("v", "b", 2) in held_out
    assert ("v", "b", 1) not in held_out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    protocol=st.sampled_from(["leave-one-out", "temporal"]),
    with_fields=st.booleans(),
    target=st.booleans(),
)
def test_a_split_within_a_budget_is_the_same_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    protocol: str,
    with_fields: bool,
    target: bool,
) -> None:
    folder = tmp_path_factory.mktemp("split")
    rng = random.Random(seed)
    n = 60
    table = {
        "user_id": [f"u{rng.randrange(6)}" for _ in range(n)],
        "item_id": [f"i{rng.randrange(9)}" for _ in range(n)],
        "timestamp": [str(1_700_000_000 + rng.randrange(20)) for _ in range(n)],
        "rating": [rng.choice(["", "1", "4", "5"]) for _ in range(n)],
        "device": [rng.choice(["tv", "phone", ""]) for _ in range(n)],
    }
    events = write_table(folder / "events.parquet", table)
    fields = FieldOptions(
        (FieldName("rating"),) if with_fields else (),
        (FieldName("device"),) if with_fields else (),
        times=with_fields,
        target=("rating>=4",) if target else (),
    )
    options = SplitOptions(protocol, fields=fields)  # type: ignore[arg-type]
    try:
        manifest = split_events(events, folder / "plain", options)
    except DataError:  # a part is empty
        return
    assert split_events(events, folder / "bounded", options, memory=30 * 160) == manifest
    assert contents(folder / "bounded") == contents(folder / "plain")
    (folder / "arrays").mkdir()
    mapped = read_split(folder / "plain", folder / "arrays")
    assert mapped == read_split(folder / "plain")
    assert {path.name for path in folder.iterdir()} == {
        *("events.parquet", "plain", "bounded", "arrays")
    }
