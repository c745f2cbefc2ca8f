from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.data.split.windows import JoinedWindows, Window, join_windows, read_windows
from tests.data.split.cases import windows_of
from tests.data.tables.files import write_table

LENGTH = 3
NO_HISTORIES = ("[1, [2]]", "[1, 2", "[1.0]", "[true]", "['a' 'b']", "[1 2]", "[1_0]", "[1,,2]")
NO_HISTORIES += ("['\\ud800']",)
sequence = st.lists(st.sampled_from("abcde"), min_size=2, max_size=12)
sequences = st.lists(sequence, min_size=1, max_size=3)


def test_minionerec_rows_are_read(tmp_path: Path) -> None:
    table = {
        "user_id": ["u", "v", "w", "x"],
        "history_item_title": ["['it\\'s']", "[]", "", ""],
        "history_item_id": ["[3437, 642]", '["a", "b"]', "7 8", ""],
        "item_id": ["5", "6", "9", "1"],
    }
    windows = (Window("u", ("3437", "642"), "5"), Window("v", ("a", "b"), "6"))
    windows += (Window("w", ("7", "8"), "9"), Window("x", (), "1"))
    assert read_windows(write_table(tmp_path / "x.csv", table)) == windows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("", "[1]", "2"), "row 1: the user id is empty"),
        (("u", "[1]", ""), "row 1: the item id is empty"),
        *((("u", cell, "2"), "row 1: the history") for cell in NO_HISTORIES),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: tuple[str, str, str], message: str) -> None:
    names = ("user_id", "history_item_id", "item_id")
    table = {name: [cell] for name, cell in zip(names, row, strict=True)}
    for name in ("x.csv", "x.jsonl"):
        with pytest.raises(DataError, match=message):
            read_windows(write_table(tmp_path / name, table))
    with pytest.raises(DataError, match="holds no rows"):
        read_windows(write_table(tmp_path / "x.csv", {name: [] for name in names}))


def test_a_file_of_events_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="looks like the history"):
        read_windows(write_table(tmp_path / "x.csv", {"user_id": ["u"], "item_id": ["1"]}))


def positions(windows: list[Window]) -> list[int]:
    at, _ = join_windows(windows, [], [])
    return [at[window] for window in windows]


@given(sequences)
def test_positions_are_exact_when_no_row_is_missing(sequences: list[list[str]]) -> None:
    rows = [
        row for user, items in enumerate(sequences) for row in windows_of(str(user), items, LENGTH)
    ]
    # the same full window twice is taken for one
    assume(len({window for window, _ in rows}) == len(rows))
    grams = [(window.user, window.history) for window, _ in rows]
    assume(len({*grams}) == len(grams))  # it is not known which of two follows
    assert positions([window for window, _ in rows]) == [at for _, at in rows]
    rows.reverse()
    assert positions([window for window, _ in rows]) == [at for _, at in rows]


@given(sequences, st.data())
def test_positions_below_the_cut_are_exact_in_any_order_with_any_rows_missing(
    sequences: list[list[str]], data: st.DataObject
) -> None:
    rows = [
        row for user, items in enumerate(sequences) for row in windows_of(str(user), items, LENGTH)
    ]
    part = data.draw(st.permutations(rows))[: data.draw(st.integers(1, len(rows)))]
    longest = max(len(window.history) for window, _ in part)
    for (window, true), result in zip(part, positions([window for window, _ in part]), strict=True):
        assert result == true or len(window.history) == longest
        assert result >= len(window.history)


@given(st.integers(1, 9), st.randoms(use_true_random=False))
def test_a_window_that_skips_rows_still_overlaps(skipped: int, random: Random) -> None:
    rows = windows_of("u", [str(n) for n in range(30)], length=10)
    gapped = [*rows[:9], rows[9 + skipped], *rows[11 + skipped :]]  # histories of 1 to 9, then full
    random.shuffle(gapped)
    assert positions([window for window, _ in gapped]) == [at for _, at in gapped]


def test_the_same_full_window_is_one_event() -> None:
    window = Window("u", ("a", "b", "c"), "d")
    assert positions([window, Window("u", ("b", "c", "d"), "e"), window]) == [3, 4, 3]


Placed = tuple[Window, int]


@st.composite
def files_of_windows(draw: st.DrawFn, is_whole: bool) -> tuple[int, list[list[Placed]]]:
    """Windows of a few users in three files, in any order: the number of different items, and the
    windows of each file with their positions."""
    n_items = draw(st.sampled_from([2, 3, 5, 20, 1000]))
    length = draw(st.sampled_from([2, 3, 4, 10]))
    random = draw(st.randoms(use_true_random=False))
    files: list[list[Placed]] = [[], [], []]
    for user in range(draw(st.integers(1, 3))):
        n = random.randint(4, 25)
        whole = range(n_items)
        items = random.sample(whole, n) if n_items > n else random.choices(whole, k=n)
        for row in windows_of(str(user), [str(item) for item in items], length):
            if is_whole or random.random() < 0.7:
                files[random.choice([0, 0, 0, 1, 2])].append(row)
    for rows in files:
        random.shuffle(rows)
    return n_items, files


def shown_targets(files: list[list[Placed]]) -> set[Window]:
    """By brute force: the training windows that show a held-out target."""
    held_out = {(window.user, at) for rows in files[1:] for window, at in rows}
    return {
        window
        for window, at in files[0]
        if any((window.user, at - back) in held_out for back in range(len(window.history) + 1))
    }


@settings(max_examples=60)
@given(files_of_windows(is_whole=True))
def test_no_training_window_shows_a_held_out_event(case: tuple[int, list[list[Placed]]]) -> None:
    n_items, files = case
    at, leaking = join_windows(*([window for window, _ in rows] for rows in files))
    assert leaking >= shown_targets(files)
    if n_items == 1000:  # no item is repeated
        assert leaking == shown_targets(files)
        cut = max(len(window.history) for window in at)
        for window, true in (row for rows in files for row in rows):
            assert at[window] == true or len(window.history) == cut
    events = {
        (window.user, item, at[window] - back)
        for window, _ in files[0]
        if window not in leaking
        for back, item in enumerate(reversed(window.events))
    }
    targets = {(window.user, window.item, at[window]) for rows in files[1:] for window, _ in rows}
    assert events.isdisjoint(targets)


@settings(max_examples=60)
@given(files_of_windows(is_whole=False))
def test_missing_windows_hide_no_held_out_event(case: tuple[int, list[list[Placed]]]) -> None:
    n_items, files = case
    at, leaking = join_windows(*([window for window, _ in rows] for rows in files))
    longest = max((len(window.history) for window in at), default=0)
    for window in shown_targets(files) - leaking:
        # what is left is all of another sequence, in which the window does not show the target
        user_windows = [other for other in at if other.user == window.user]
        assert JoinedWindows.of(user_windows, longest, set()).is_complete
        assert n_items < 6
    if n_items == 1000:
        assert leaking == shown_targets(files)


def windows(*texts: str) -> list[Window]:
    return [Window("u", tuple(text[:-1]), text[-1]) for text in texts]


def test_windows_of_two_sequences_are_refused() -> None:
    message = "user 'u' are not of one sequence: event 2 is 'b' in one .* 'c' in another"
    with pytest.raises(DataError, match=message):
        join_windows(windows("ab", "acd", "efghij"), [], [])
    with pytest.raises(DataError, match=message):
        join_windows(windows("ab"), windows("acdb", "efghij"), [])
    # no item that is held out is in training, as where training lacks the new items
    assert join_windows(windows("ab"), windows("acbd", "efghij"), [])[1] == set()


def test_a_file_may_cut_its_histories_shorter_than_another() -> None:
    """`def` is no beginning, although the history is not the longest of all files."""
    train, test = windows("def"), windows("abcde")
    assert join_windows(train, test, [])[1] == {*train}
    with pytest.raises(DataError, match="are not of one sequence"):
        join_windows(train, windows("ab", "abd"), windows("vwxyz"))


def test_repeated_items_are_events_of_their_own() -> None:
    """`a` is held out at the end; windows that begin with the earlier `a` stay."""
    rows = [window for window, _ in windows_of("u", list("bcadefgaha"), LENGTH)]
    _, leaking = join_windows(rows[:-2], rows[-2:-1], rows[-1:])
    assert leaking == set()
    # without (e, f, g) -> a, the window (f, g, a) -> h may begin elsewhere
    _, leaking = join_windows(windows("def", "aha"), windows("zya"), windows("q"))
    assert leaking == {*windows("aha")}
