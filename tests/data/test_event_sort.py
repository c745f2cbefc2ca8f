"""Events sorted within a budget equal those that are sorted in memory, value for value."""

import random
from pathlib import Path

import numpy as np
import pytest

from sidtool.base.errors import UsageError
from sidtool.base.output import folder_beside
from sidtool.data.event_sort import EVENT_BYTES, Spill
from sidtool.data.interactions import read_interactions
from tests.data.tables.files import write_table


def test_partitions_and_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a few rows of two files, distributed to several partitions: ids and digest, too,
    are those of one partition."""
    monkeypatch.setattr("sidtool.data.tables.parquet.BATCH_ROWS", 7)
    (tmp_path / "events").mkdir()
    rng = random.Random(0)
    for number in (0, 1):
        table = {
            "user_id": [f"u{rng.randrange(5)}" for _ in range(40)],
            "item_id": [f"i{rng.randrange(9)}" for _ in range(40)],
            "timestamp": [str(rng.randrange(20)) for _ in range(40)],
            "rating": [rng.choice(["", "1", "2.5", " 3"]) for _ in range(40)],
        }
        write_table(tmp_path / f"events/{number}.parquet", table)
    whole = read_interactions(tmp_path / "events", further=["rating"])
    largest = int((whole.stops - whole.starts).max())
    with folder_beside(tmp_path / "out") as folder:
        spill = Spill(folder, largest * EVENT_BYTES)
        spilled = read_interactions(tmp_path / "events", further=["rating"], spill=spill)
        assert (spilled.digest, spilled.columns) == (whole.digest, whole.columns)
        np.testing.assert_array_equal(spilled.rows, whole.rows)
        for one, other in (
            (spilled.users, whole.users),
            (spilled.items, whole.items),
            (spilled.cells["rating"], whole.cells["rating"]),
        ):
            assert one.names.tolist() == other.names.tolist()
            np.testing.assert_array_equal(one.codes, other.codes)
        assert isinstance(spilled.order, np.memmap)
        assert not list(spill.folder.glob("part-*"))
    assert {path.name for path in tmp_path.iterdir()} == {"events"}


def test_a_budget_below_the_events_of_one_user_is_refused(tmp_path: Path) -> None:
    table = {"user": ["u"] * 30 + ["v"], "item": ["a"] * 31, "timestamp": ["1"] * 31}
    path = write_table(tmp_path / "x.parquet", table)
    with pytest.raises(UsageError, match="31 events do not fit") as refusal:
        read_interactions(path, spill=Spill(tmp_path, 29 * EVENT_BYTES))
    assert f"--memory of at least {30 * EVENT_BYTES} bytes" in str(refusal.value.shell_hint)
