from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError
from sidtool.data import NO_FIELDS, EventColumns
from sidtool.data.split import SplitOptions, split_events, user_histories
from tests.data.split.cases import write_rows
from tests.data.tables.files import write_table


def items_of(source: Path) -> dict[str, tuple[str, ...]]:
    return {user: items for user, (items, _) in user_histories(source).items()}


event = st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(0, 9))


@pytest.mark.parametrize("protocol", ["leave-one-out", "temporal"])
@settings(max_examples=12)
@given(events=st.lists(event, min_size=6, max_size=20))
def test_a_split_has_the_histories_of_its_events(
    tmp_path: Path, protocol: Any, events: list[tuple[str, str, int]]
) -> None:
    users, items, times = (list(column) for column in zip(*events, strict=True))
    table = {"user": users, "item": items, "time": list(map(str, times))}
    path = write_table(tmp_path / "events.csv", table)
    in_order = sorted(events, key=lambda event: event[2])
    histories = {user: tuple(item for u, item, _ in in_order if u == user) for user in set(users)}
    assert items_of(path) == histories
    try:
        split_events(path, tmp_path / "split", SplitOptions(protocol), force=True)
    except DataError:
        return  # a part is empty
    split_histories = items_of(tmp_path / "split")
    # a temporal split leaves out users with one event that is held out
    assert split_histories.items() <= histories.items()
    assert all(len(histories[user]) == 1 for user in histories.keys() - split_histories.keys())


def test_recorded_columns_are_read(tmp_path: Path) -> None:
    table = {"who": ["u", "u"], "what": ["a", "b"], "when": ["2", "1"]}
    path = write_table(tmp_path / "x.csv", table)
    histories = user_histories(path, recorded=EventColumns("who", "what", "when"))
    assert histories == {"u": (("b", "a"), NO_FIELDS)}


def test_windows_show_events_that_no_window_has_as_its_target(tmp_path: Path) -> None:
    """The windows of a sample of targets: b and e are targets of none."""
    parts = {"train": (["a"], "c"), "valid": (["a", "b", "c"], "d"), "test": (list("abcdef"), "g")}
    for part, (history, item) in parts.items():
        write_rows(tmp_path / f"{part}.csv", [("u", history, item)])
    options = SplitOptions("given", tmp_path / "valid.csv", tmp_path / "test.csv")
    split_events(tmp_path / "train.csv", tmp_path / "split", options)
    assert items_of(tmp_path / "split") == {"u": tuple("abcdefg")}
