from bisect import bisect_right
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import UsageError
from sidtool.data.fields.fields import TARGET, TARGET_VALUES, Fields, FieldTypes
from sidtool.data.split import ListTargets, UserSequence


def sequence_of(
    items: str, sessions: tuple[int, ...] = (), marks: list[bool] | None = None, ratings: Any = None
) -> UserSequence:
    event: dict[str, Any] = {}
    if marks is not None:
        event[TARGET] = tuple(TARGET_VALUES[mark] for mark in marks)
    if ratings is not None:
        event["rating"] = tuple(ratings)
    positions = tuple(range(len(items)))
    return UserSequence("u", tuple(items), positions, Fields(event=event), sessions)


def lists_of(sequence: UserSequence, **options: Any) -> list[tuple[int, tuple[int, ...]]]:
    made = ListTargets(**{"length": 10, **options}).lists_of(sequence)
    return [(target_list.start, target_list.targets) for target_list in made]


def test_without_sessions_a_list_has_the_next_events() -> None:
    sequence = sequence_of("abcdefgh")
    assert lists_of(sequence, length=3) == [(1, (1, 2, 3)), (4, (4, 5, 6)), (7, (7,))]
    overlapping = [(1, (1, 2, 3)), (3, (3, 4, 5)), (5, (5, 6, 7)), (7, (7,))]
    assert lists_of(sequence, length=3, stride=2) == overlapping
    assert lists_of(sequence_of("a"), length=3) == []


def test_a_list_ends_with_its_session_and_begins_where_it_begins() -> None:
    sequence = sequence_of("abcdefgh", (0, 2, 6))
    assert lists_of(sequence, length=3) == [(1, (1,)), (2, (2, 3, 4)), (5, (5,)), (6, (6, 7))]


def test_only_targets_are_in_lists_and_others_in_histories() -> None:
    marks = [True, True, False, True, True, False, False, True]
    sequence = sequence_of("abcdefgh", (0, 2, 5), marks)
    # the first list of a session follows on what came before the session, the second on all before
    assert lists_of(sequence, length=1) == [(1, (1,)), (2, (3,)), (4, (4,)), (5, (7,))]
    counted = {1, 4}
    made = ListTargets(2).lists_of(sequence, lambda event: event[2] in counted)
    assert [(target_list.start, target_list.targets) for target_list in made] == [
        (1, (1,)),
        (2, (4,)),
    ]


def test_a_feedback_orders_a_list() -> None:
    ratings = [5, 3, 5, None, 4, 5, 1.5]
    sequence = sequence_of("abcdefg", ratings=ratings)
    assert lists_of(sequence, length=6, order="rating") == [(1, (2, 5, 4, 1, 6, 3))]


def test_an_item_is_in_a_list_once() -> None:
    assert lists_of(sequence_of("abcbcb"), length=5) == [(1, (1, 2))]


@given(
    st.text("abcdef", min_size=1, max_size=30),
    st.sets(st.integers(1, 29), max_size=6),
    st.integers(1, 7),
    st.integers(1, 7),
)
def test_every_list_is_of_one_session_behind_its_history(
    items: str, starts: set[int], length: int, stride: int
) -> None:
    sessions = (0, *sorted(start for start in starts if start < len(items)))
    sequence = sequence_of(items, sessions)
    lists = list(ListTargets(length, stride).lists_of(sequence))
    for target_list in lists:
        assert 1 <= len(target_list.targets) <= length
        assert 0 < target_list.start <= min(target_list.targets)
        assert len({bisect_right(sessions, index) for index in target_list.targets}) == 1
        assert len({items[index] for index in target_list.targets}) == len(target_list.targets)
        first_of_session = sessions[bisect_right(sessions, target_list.targets[0]) - 1]
        assert target_list.start >= first_of_session
    if stride <= length:  # no event but the first, and repeats of its list, is left out
        covered = {items[index] for target_list in lists for index in target_list.targets}
        assert covered == set(items[1:])


@pytest.mark.parametrize("options", [{"length": 0}, {"length": 1025}, {"stride": 0}])
def test_numbers_below_1_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"must be at (least|most)"):
        ListTargets(**{"length": 10, **options})


def test_an_order_needs_a_feedback_of_numbers() -> None:
    ListTargets(10, order="rating").check(FieldTypes({"rating": "int"}))
    with pytest.raises(UsageError, match="no feedback 'rating'"):
        ListTargets(10, order="rating").check(FieldTypes())
    with pytest.raises(UsageError, match="field of texts"):
        ListTargets(10, order="mood").check(FieldTypes({"mood": "str"}))
