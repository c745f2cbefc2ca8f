"""Packed parts are the values that were packed; a split within a budget is that without one, byte
for byte."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError, IntegrityError
from sidtool.data import NO_FIELDS, FieldName, FieldOptions, Fields, FieldTypes
from sidtool.data.event_sort import EVENT_BYTES
from sidtool.data.split import Example, Split, SplitOptions, UserSequence, read_split, split_events
from sidtool.data.split.make import make_split
from sidtool.data.split.packing import pack_parts
from sidtool.data.split.values import FurtherTarget
from tests.data.tables.files import write_table

TYPES = FieldTypes({"rating": "float"}, {"device": "str"}, {"age": "int"}, times=True)
FIELDS = Fields(
    {"age": 3}, {"rating": (5, 5.0, None), "device": ("tv",) * 3}, times=(1.0, 2.0, 3.0)
)
NOTHING = Fields({"age": None}, {"rating": (), "device": ()}, times=())
SEQUENCES = (UserSequence("u", ("a", "b", "a"), (0, 1, 2), FIELDS, (0, 2)),)
SEQUENCES += (UserSequence("v", (), (), NOTHING),)
SHOWN = Fields(
    {"age": 3}, {"rating": (5, 5.0), "device": ("tv",) * 2}, {"device": "tv"}, (1.0, 2.0), 3.0
)
FURTHER = (FurtherTarget("d", 7, {"rating": 1}, {"device": None}, 9.0),)
EXAMPLES = (Example("u", ("a", "b"), "a", 2, SHOWN, {"rating": None}, FURTHER),)


def test_packed_parts_equal_what_was_packed() -> None:
    parts = pack_parts(iter(SEQUENCES), iter(EXAMPLES), iter(()), None, TYPES)
    assert (parts.train, parts.valid, parts.test) == (SEQUENCES, EXAMPLES, ())
    assert parts.train != SEQUENCES[:1]
    assert parts.train != 2
    assert (parts.train[-1], parts.train[1:]) == (SEQUENCES[-1], SEQUENCES[1:])
    assert parts.train.take([1, 0]) == SEQUENCES[::-1]
    # equal values of different types stay what they are
    assert [type(value) for value in parts.train[0].fields.event["rating"]][:2] == [int, float]
    with pytest.raises(IndexError):
        parts.valid[1]


@pytest.mark.parametrize(
    "fields",
    [
        NO_FIELDS,
        Fields({"age": 3}, {"rating": (5,)}, times=(1.0,)),
        Fields({"age": 3}, {"rating": (5,), "device": (None,)}),
        Fields({"age": 4}, {"rating": (5,), "device": (None,)}, times=(1.0,)),
    ],
)
def test_other_fields_are_refused(fields: Fields) -> None:
    other = UserSequence("u", ("a",), (0,), fields)
    with pytest.raises(IntegrityError, match="user 'u' has other fields than the split records"):
        pack_parts((SEQUENCES[0], other), (), (), None, TYPES)


def test_positions_with_gaps_are_kept() -> None:
    sequences = (UserSequence("u", ("a", "b"), (3, 7)),)
    assert pack_parts(sequences, (), ()).train == sequences


@given(st.lists(st.tuples(st.sampled_from("uv"), st.sampled_from("ab"), st.integers(0, 3))))
def test_held_out_events_are_a_set(events: list[tuple[str, str, int]]) -> None:
    half = len(events) // 2
    parts = [
        [Example(u, (), i, at) for u, i, at in part] for part in (events[:half], events[half:])
    ]
    held_out = Split.of("given", (), *parts).held_out
    possible = [(user, item, at) for user in "uvw" for item in "abc" for at in range(5)]
    assert [held_out.count([event]) for event in possible] == [e in events for e in possible]
    assert held_out.count(possible) == len(set(events))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=16, deadline=None)
@given(
    seed=st.integers(0, 1000),
    protocol=st.sampled_from(["leave-one-out", "temporal"]),
    with_fields=st.booleans(),
    target=st.booleans(),
    memory=st.sampled_from([None, 30 * EVENT_BYTES]),
    threads=st.sampled_from([1, 3]),
)
def test_any_budget_and_number_of_threads_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    protocol: str,
    with_fields: bool,
    target: bool,
    memory: int | None,
    threads: int,
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
    events = folder / "events"
    events.mkdir()
    for number, rows in enumerate((slice(25), slice(25, None))):
        part = {name: cells[rows] for name, cells in table.items()}
        write_table(events / f"{number}.parquet", part)
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidtool.data.tables.parquet.BATCH_ROWS", 7)
        patch.setattr("sidtool.data.interactions.RUN_EVENTS", 10)
        patch.setattr("sidtool.data.event_sort.RANGE_EVENTS", 10)
        again = split_events(
            events, folder / "again", options, memory_limit=memory, threads=threads
        )
    assert again == manifest
    assert contents(folder / "again") == contents(folder / "plain")
    assert read_split(folder / "plain") == make_split(events, options)
    assert {path.name for path in folder.iterdir()} == {"events", "plain", "again"}
