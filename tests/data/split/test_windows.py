"""Windowed files: the parsing of a row, and the position of its target in the user's whole
sequence."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.data.split.windows import Window, positions, read_windows
from tests.data.split.cases import windows_of
from tests.data.tables.files import write_table

LENGTH = 3
sequences = st.lists(
    st.lists(st.sampled_from("abcde"), min_size=2, max_size=12), min_size=1, max_size=3
)


def test_minionerec_rows_are_read(tmp_path: Path) -> None:
    table = {
        "user_id": ["u", "v", "w", "x"],
        "history_item_title": ["['it\\'s']", "[]", "", ""],
        "history_item_id": ["[3437, 642]", '["a", "b"]', "7 8", ""],
        "item_id": ["5", "6", "9", "1"],
    }
    assert read_windows(write_table(tmp_path / "x.csv", table)) == (
        Window("u", ("3437", "642"), "5"),
        Window("v", ("a", "b"), "6"),
        Window("w", ("7", "8"), "9"),
        Window("x", (), "1"),
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("", "[1]", "2"), "row 1: the user id is empty"),
        (("u", "[1]", ""), "row 1: the item id is empty"),
        (("u", "[1, [2]]", "2"), "row 1: the history"),
        (("u", "[1, 2", "2"), "row 1: the history"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: tuple[str, str, str], message: str) -> None:
    table = {
        name: [cell]
        for name, cell in zip(("user_id", "history_item_id", "item_id"), row, strict=True)
    }
    with pytest.raises(DataError, match=message):
        read_windows(write_table(tmp_path / "x.csv", table))


def test_a_file_of_events_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="looks like the history"):
        read_windows(write_table(tmp_path / "x.csv", {"user_id": ["u"], "item_id": ["1"]}))


@given(sequences)
def test_positions_are_exact_when_no_row_is_missing(sequences: list[list[str]]) -> None:
    rows = [
        row for user, items in enumerate(sequences) for row in windows_of(str(user), items, LENGTH)
    ]
    assume(
        len({window for window, _ in rows}) == len(rows)
    )  # the same full window twice is taken for one
    assert positions([window for window, _ in rows]) == [at for _, at in rows]


@given(sequences, st.data())
def test_positions_below_the_cut_are_exact_in_any_order_with_any_rows_missing(
    sequences: list[list[str]], data: st.DataObject
) -> None:
    rows = [
        row for user, items in enumerate(sequences) for row in windows_of(str(user), items, LENGTH)
    ]
    some = data.draw(st.permutations(rows))[: data.draw(st.integers(1, len(rows)))]
    longest = max(len(window.history) for window, _ in some)
    for (window, true), result in zip(some, positions([window for window, _ in some]), strict=True):
        assert result == true or len(window.history) == longest
        assert result >= len(window.history)


@given(st.integers(1, 9))
def test_a_window_that_skips_rows_still_overlaps(skipped: int) -> None:
    rows = windows_of("u", [str(n) for n in range(20)], length=10)
    kept = [*rows[:9], rows[9 + skipped]]  # histories of 1 to 9, then a full one
    assert positions([window for window, _ in kept]) == [at for _, at in kept]


def test_the_same_full_window_is_one_event() -> None:
    window = Window("u", ("a", "b", "c"), "d")
    assert positions([window, Window("u", ("b", "c", "d"), "e"), window]) == [3, 4, 3]
