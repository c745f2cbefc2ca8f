"""Events sorted within a budget equal those that are sorted in memory, value for value."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import UsageError
from sidtool.data.columns import EventNames
from sidtool.data.event_sort import EVENT_BYTES, Spill, spill_beside
from sidtool.data.interactions import Interactions, read_interactions
from tests.data.tables.files import Table, write_table

ORDERS = {
    "number": lambda number: str(number),
    "date": lambda number: f"2024-01-{1 + number:02d}T00:00:00",
    "nanoseconds": lambda number: str(1_700_000_000_000_000_000 + number),
}


def table_of(seed: int, events: int, order: str) -> Table:
    """Random events of about five users; rating and device have empty cells."""
    rng = random.Random(seed)
    return {
        "user_id": [f"u{rng.randrange(5)}" for _ in range(events)],
        "item_id": [f"i{rng.randrange(9)}" for _ in range(events)],
        "timestamp": [ORDERS[order](rng.randrange(20)) for _ in range(events)],
        "rating": [rng.choice(["", "1", "2.5", " 3"]) for _ in range(events)],
    }


def check_equal(actual: Interactions, expected: Interactions) -> None:
    assert actual.digest == expected.digest
    assert actual.columns == expected.columns
    for one, other in (
        (actual.users, expected.users),
        (actual.items, expected.items),
        (actual.cells["rating"], expected.cells["rating"]),
    ):
        assert one.names.tolist() == other.names.tolist()
        np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(actual.rows, expected.rows)
    np.testing.assert_array_equal(actual.order, expected.order)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    events=st.integers(1, 60),
    order=st.sampled_from(sorted(ORDERS)),
    by_row=st.booleans(),
    budget=st.sampled_from([61, 100_000]),
    name=st.sampled_from(["x.csv", "x.csv.gz", "x.parquet", "x.jsonl"]),
)
def test_a_sort_in_files_equals_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    events: int,
    order: str,
    by_row: bool,
    budget: int,
    name: str,
) -> None:
    folder = tmp_path_factory.mktemp("spill")
    path = write_table(folder / name, table_of(seed, events, order))
    names = EventNames(order_by="row") if by_row else EventNames()
    (folder / "spilled").mkdir()
    spill = Spill(folder / "spilled", budget * EVENT_BYTES)
    expected = read_interactions(path, names, further=["rating"])
    check_equal(read_interactions(path, names, further=["rating"], spill=spill), expected)


def test_partitions_and_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a few rows of two files, distributed to several partitions."""
    monkeypatch.setattr("sidtool.data.tables.parquet.BATCH_ROWS", 7)
    (tmp_path / "events").mkdir()
    for number in (0, 1):
        write_table(tmp_path / f"events/{number}.parquet", table_of(number, 40, "number"))
    whole = read_interactions(tmp_path / "events", further=["rating"])
    largest = int((whole.stops - whole.starts).max())
    with spill_beside(tmp_path / "out", largest * EVENT_BYTES) as spill:
        spilled = read_interactions(tmp_path / "events", further=["rating"], spill=spill)
        check_equal(spilled, whole)
        assert isinstance(spilled.order, np.memmap)
        assert not list(spill.folder.glob("part-*"))
    assert {path.name for path in tmp_path.iterdir()} == {"events"}


def test_a_budget_below_the_events_of_one_user_is_refused(tmp_path: Path) -> None:
    table = {"user": ["u"] * 30 + ["v"], "item": ["a"] * 31, "timestamp": ["1"] * 31}
    path = write_table(tmp_path / "x.parquet", table)
    with (
        spill_beside(tmp_path / "out", 29 * EVENT_BYTES) as spill,
        pytest.raises(UsageError, match="31 events do not fit") as refusal,
    ):
        read_interactions(path, spill=spill)
    assert f"--memory of at least {30 * EVENT_BYTES} bytes" in str(refusal.value.shell_hint)
