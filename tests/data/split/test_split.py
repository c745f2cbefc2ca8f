"""The protocols against oracles. Most important: no held-out event is in the training part."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, settings
from hypothesis import given as given_case
from hypothesis import strategies as st

from sidtool.base.errors import DataError, IntegrityError, SidtoolWarning, UsageError
from sidtool.data.coded import ArrowCodes, Coded, Texts
from sidtool.data.columns import EventColumns
from sidtool.data.interactions import Interactions
from sidtool.data.split import Event, Example, Split
from sidtool.data.split.consistency import check_parts
from sidtool.data.split.make import make_split
from sidtool.data.split.protocols import SplitEvents, given, refuse_empty
from sidtool.data.split.record import Cuts
from tests.data.split.cases import trained, windows_of, write_rows

event = st.tuples(st.sampled_from("uvwxy"), st.sampled_from("abcd"), st.integers(0, 12))
histories = st.lists(event, min_size=1, max_size=40)


def test_values_keep_their_codes() -> None:
    codes = ArrowCodes()
    first, second = pa.array("bab"), pa.array("ca")
    assert [part.tolist() for part in codes.add([first, second])] == [[0, 1, 0], [2, 1]]
    assert [part.tolist() for part in codes.add([second])] == [[2, 1]]
    assert codes.values.to_pylist() == ["b", "a", "c"]


def coded(values: Sequence[str]) -> Coded[str]:
    codes = ArrowCodes()
    [numbers] = codes.add([pa.array(values)])
    return Coded(Texts(codes.values), numbers)


def interactions(events: list[tuple[str, str, int]]) -> Interactions:
    """Events in the order of `read_interactions`."""
    ordered = sorted(events, key=lambda e: (e[0], e[2]))
    users, items, order = zip(*ordered, strict=True)
    return Interactions(
        coded(users),
        coded(items),
        np.array(order, dtype=float),
        EventColumns("user", "item", "time"),
        "0" * 64,
        np.arange(len(events)),
        {},
    )


def of_users(read: Interactions) -> dict[str, list[tuple[str, float]]]:
    """Items and order of each user, computed by the oracle."""
    result: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for user, item, order in zip(read.users, read.items, read.order, strict=True):
        result[user].append((item, float(order)))
    return result


def asked(split: Split) -> list[Event]:
    return [(e.user, e.item, e.position) for e in (*split.valid, *split.test)]


@given_case(histories)
def test_leave_one_out_holds_out_two_events_per_user(events: list[tuple[str, str, int]]) -> None:
    read = interactions(events)
    whole = {user: [item for item, _ in result] for user, result in of_users(read).items()}
    assume(any(len(items) > 2 for items in whole.values()))
    split = SplitEvents(read).leave_one_out()
    valid, test = ({target.user: target for target in part} for part in (split.valid, split.test))
    assert [sequence.user for sequence in split.train] == list(whole)
    for sequence in split.train:
        items = whole[sequence.user]
        train = items if len(items) < 3 else items[:-2]
        assert (list(sequence.items), list(sequence.positions)) == (train, list(range(len(train))))
        assert (sequence.user in valid, sequence.user in test) == (len(items) > 2,) * 2
        for example, place in (
            (valid.get(sequence.user), len(items) - 2),
            (test.get(sequence.user), len(items) - 1),
        ):
            if example is not None:
                message = (list(example.history), example.item, example.position)
                assert message == (items[:place], items[place], place)
    assert len(split.train) - len(split.test) == sum(len(items) < 3 for items in whole.values())
    check_whole(split, read)


def check_whole(split: Split, read: Interactions) -> None:
    """Every event is in one part, or is counted as an event without history."""
    whole = [
        (user, item, at)
        for user, result in of_users(read).items()
        for at, (item, _) in enumerate(result)
    ]
    missing = set(whole) - set(trained(split)) - set(asked(split))
    assert len(missing) == split.counts.left_out
    assert len(trained(split)) + len(asked(split)) + len(missing) == len(whole)
    assert split.held_out.count(trained(split)) == 0
    counts = split.counts
    assert (counts.train_events, counts.users) == (len(trained(split)), len(split.train))
    assert (counts.valid, counts.test) == (len(split.valid), len(split.test))
    repeated = [e.item for e in (*split.valid, *split.test) if e.item in e.history]
    assert counts.repeated_targets == len(repeated)
    held_out = counts.valid + counts.test
    assert split.reference.targets_repeat == (len(repeated) > held_out / 100)
    log = of_users(read)
    places = [(e.position, log[e.user]) for e in (*split.valid, *split.test)]
    assert counts.tied_targets == sum(at > 0 and log[at][1] == log[at - 1][1] for at, log in places)
    assert split.windows is None


@given_case(histories, st.integers(1, 6), st.integers(7, 12))
def test_a_temporal_cut_is_the_same_for_all_users(
    events: list[tuple[str, str, int]], first: int, second: int
) -> None:
    everywhere = [("u", "a", 0), ("u", "b", first), ("u", "b", second)]  # no part is empty
    read = interactions([*events, *everywhere])
    split = SplitEvents(read).temporal(Cuts(first, second))
    whole = of_users(read)
    moments = {
        (user, at): result[at][1] for user, result in whole.items() for at in range(len(result))
    }
    assert all(moments[user, at] < first for user, _, at in trained(split))
    assert all(first <= moments[e.user, e.position] < second for e in split.valid)
    assert all(second <= moments[e.user, e.position] for e in split.test)
    for example in (*split.valid, *split.test):
        shown = whole[example.user][: example.position]
        assert list(example.history) == [item for item, _ in shown]
        assert example.history
    check_whole(split, read)


@given_case(st.integers(20, 200), st.randoms(use_true_random=False))
def test_fractions_determine_the_cuts(n: int, random: object) -> None:
    moments = list(range(n))
    random.shuffle(moments)  # type: ignore[attr-defined]
    split = SplitEvents(
        interactions([("uvwxy"[moment % 5], "a", moment) for moment in moments])
    ).temporal()
    assert split.origin.cuts == Cuts(int(0.8 * n + 1e-9), int(0.9 * n + 1e-9))
    assert len(split.test) == n - int(0.9 * n + 1e-9)


def test_events_with_equal_timestamps_stay_together() -> None:
    moments = (0, 1, 2, 3, 4, 5, 5, 5, 5, 9)
    split = SplitEvents(interactions([("u", "a", moment) for moment in moments])).temporal()
    assert (len(split.train[0].items), len(split.valid), len(split.test)) == (5, 4, 1)


def test_validation_after_test_is_refused() -> None:
    read = interactions([("u", "a", moment) for moment in range(9)])
    with pytest.raises(UsageError, match=r"starts at 3\.0, after test, which starts at 2\.0"):
        SplitEvents(read).temporal(Cuts(3.0, 2.0))


@pytest.mark.parametrize(("repeating_users", "repeats"), [(0, False), (1, False), (2, True)])
def test_one_repeated_target_of_a_hundred_changes_no_default(
    repeating_users: int, repeats: bool
) -> None:
    histories = {f"u{n:02}": "aba" if n < repeating_users else "abc" for n in range(50)}
    events = [(user, item, t) for user, items in histories.items() for t, item in enumerate(items)]
    split = SplitEvents(interactions(events)).leave_one_out()  # 100 targets
    assert split.counts.repeated_targets == repeating_users
    assert split.reference.targets_repeat is repeats


TWO_USERS = SplitEvents(
    interactions([(u, i, t) for u in "uv" for t, i in enumerate("abcdab")])
).leave_one_out()
U_VALID, V_VALID = TWO_USERS.valid
U_TEST, V_TEST = TWO_USERS.test


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (TWO_USERS.train[0],) * 2}, "train has user 'u' twice"),
        (
            {"train": (TWO_USERS.train[0], replace(TWO_USERS.train[1], positions=(1, 0, 2, 3)))},
            "positions of user 'v' are not 0, 1, 2",
        ),
        (
            {"valid": (U_TEST, V_VALID), "test": (U_VALID, V_TEST)},
            "test: user 'u' has a target among the events of an earlier part, at position 4",
        ),
        ({"valid": (U_VALID, U_TEST, V_VALID), "test": (V_TEST,)}, "two examples of user 'u'"),
        (
            {"valid": (U_VALID, V_VALID, Example("w", (), "a", 0)), "protocol": "temporal"},
            "valid: user 'w' has a target without a history",
        ),
    ],
)
def test_parts_that_no_protocol_makes_are_refused(changes: dict[str, Any], message: str) -> None:
    assert check_parts(TWO_USERS) is not None
    with pytest.raises(IntegrityError, match=message):
        check_parts(replace(TWO_USERS, **changes))


def test_a_split_with_an_empty_part_is_refused() -> None:
    read = interactions([("u", "a", moment) for moment in range(9)])
    without_test = SplitEvents(read).temporal(Cuts(3, 99))
    with pytest.raises(DataError, match="0 test"):
        refuse_empty(without_test.protocol, without_test.counts)
    short_users_split = SplitEvents(interactions([("u", "a", 0), ("v", "b", 0)])).leave_one_out()
    with pytest.raises(DataError, match="0 valid"):
        refuse_empty(short_users_split.protocol, short_users_split.counts)


def window_events(window: Example) -> list[Event]:
    """Every event of an example: its history and its target."""
    first = window.position - len(window.history)
    items = (*window.history, window.item)
    return [(window.user, item, place) for place, item in enumerate(items, first)]


@settings(max_examples=40)
@given_case(
    st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=14), min_size=1, max_size=4),
    st.data(),
)
def test_given_windows_become_training_windows_unchanged(
    tmp_path: Path, people: list[list[int]], data: st.DataObject
) -> None:
    rows = [
        row
        for user, items in enumerate(people)
        for row in windows_of(str(user), [str(item) for item in items], 3)
    ]
    assume(len({window for window, _ in rows}) == len(rows))
    # time: everybody's first event, everybody's second event, ...
    rows.sort(key=lambda row: row[1])
    cuts = st.sets(st.integers(1, len(rows) - 1), min_size=2, max_size=2)
    first, second = sorted(data.draw(cuts))
    parts = [rows[:first], rows[first:second], rows[second:]]
    paths = [
        write_rows(tmp_path / f"{name}.csv", [(w.user, w.history, w.item) for w, _ in part])
        for name, part in zip(("train", "valid", "test"), parts, strict=True)
    ]
    split = given(*paths)
    assume(not split.origin.left_out)  # a window may show a held-out event: test_windows.py
    for result, part in zip((split.windows, split.valid, split.test), parts, strict=True):
        assert result is not None
        expected = [(window.user, window.history, window.item, at) for window, at in part]
        assert [(e.user, e.history, e.item, e.position) for e in result] == expected
    whole = {
        (str(user), str(item), at)
        for user, items in enumerate(people)
        for at, item in enumerate(items)
    }
    last = {window.user: at for window, at in parts[0]}
    expected = [event for event in whole if event[2] <= last.get(event[0], -1)]
    assert sorted(trained(split)) == sorted(expected)
    assert split.held_out.count(trained(split)) == 0
    assert split.counts.left_out == 0


def test_given_windows_that_show_held_out_events_are_left_out(tmp_path: Path) -> None:
    rows = [("u", tuple("abcdefgh"[:at]), "abcdefgh"[at]) for at in range(1, 8)]
    # the target of valid stands in a history, that of test is a target
    train = [*rows[:4], rows[5], rows[6]]
    parts = {"train": train, "valid": [rows[4]], "test": [rows[6]]}
    split = given(*(write_rows(tmp_path / f"{name}.csv", part) for name, part in parts.items()))
    assert split.counts.left_out == 2
    assert [window.position for window in split.windows] == [1, 2, 3, 4]
    assert "".join(split.train[0].items) == "abcde"
    shown = [event for window in split.windows for event in window_events(window)]
    assert split.held_out.count(shown) == 0


def test_a_split_warns_of_repeated_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidtool.data.interactions.DIGEST_VALUES", 3)
    rows = [f"u{user},{item},{time}" for user in range(13) for time, item in enumerate("aabc")]
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["user,item,time", *rows, *rows]))
    with pytest.warns(SidtoolWarning, match="^50% of events repeat user, item and time"):
        make_split(path)
