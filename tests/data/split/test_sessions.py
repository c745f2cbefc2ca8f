"""Sessions against a brute-force division, and the protocol that holds them out. Most important: no
event of a held-out session is in training, or in the history of its own targets."""

import dataclasses
import itertools
from bisect import bisect_right
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError, IntegrityError, UsageError
from sidtool.data.fields.field_columns import FieldName, FieldOptions
from sidtool.data.split.extension import extended
from sidtool.data.split.files import read_split, split_events, user_histories, write_split
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.record import SessionRule, parse_duration
from sidtool.data.split.split import Split
from tests.data.split.cases import trained
from tests.data.split.lines import write_lines

START = 880_000_000
GAP = 100
TIMES = st.integers(0, 1500)
EVENTS = st.lists(
    st.tuples(st.sampled_from("uv"), st.sampled_from("abcdef"), TIMES, st.integers(1, 5)),
    min_size=8,
    max_size=40,
    unique_by=lambda event: (event[0], event[2]),
)
FIELDS = FieldOptions((FieldName("rating"),), (FieldName("session"),), times=True)


def write_events(path: Path, events: list[Any]) -> Path:
    """Events of (user, item, seconds, rating) and optionally a session, in order of time."""
    lines = ["user_id,item_id,timestamp,rating,session"]
    for user, item, seconds, rating, *session in sorted(events, key=lambda event: event[2]):
        lines.append(f"{user},{item},{START + seconds},{rating},{(*session, 'x')[0]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def session_numbers(seconds: list[int]) -> list[int]:
    """The session of each event, by the distance from the event before it."""
    numbers = [0]
    for earlier, later in itertools.pairwise(seconds):
        numbers.append(numbers[-1] + (later - earlier >= GAP))
    return numbers


def expected_parts(
    events: list[Any], user: str, is_target: Any
) -> tuple[int, list[Any], list[Any]]:
    """Number of training events, and the targets of validation and test, of a user's events in
    order, by hand: (position, event)."""
    log = sorted((event for event in events if event[0] == user), key=lambda event: event[2])
    numbers = session_numbers([event[2] for event in log])
    numbered = list(enumerate(zip(numbers, log, strict=True)))
    targets = [(number, (at, event)) for at, (number, event) in numbered if is_target(event)]
    with_targets = sorted({number for number, _ in targets})
    if len(with_targets) < 3:
        return len(log), [], []
    valid, test = with_targets[-2:]
    held_out = [[target for number, target in targets if number == held] for held in (valid, test)]
    return numbers.index(valid), *held_out


@settings(max_examples=15)
@given(EVENTS, st.integers(1, 4))
def test_the_last_two_sessions_are_held_out(tmp_path: Path, events: list[Any], least: int) -> None:
    users = {event[0] for event in events}
    expected = {user: expected_parts(events, user, lambda e: e[3] >= least) for user in users}
    assume(any(test for _, _, test in expected.values()))
    assume(all(n_train for n_train, _, _ in expected.values()))
    path = write_events(tmp_path / "events.csv", events)
    fields = dataclasses.replace(FIELDS, target=(f"rating>={least}",))
    options = SplitOptions("last-session", fields=fields, sessions=SessionRule(gap=GAP))
    split = make_split(path, options)
    for name, part in (("valid", split.valid), ("test", split.test)):
        for example in part:
            n_train, valid, test = expected[example.user]
            targets = valid if name == "valid" else test
            example_targets = [(target.position, target.item) for target in example.targets]
            assert [(at, e[1]) for at, e in targets] == example_targets
            assert [e[3] for _, e in targets] == [t.feedback["rating"] for t in example.targets]
            assert [START + e[2] for _, e in targets] == [t.time for t in example.targets]
            if name == "valid":
                assert len(example.history) == n_train
            assert len(example.history) <= targets[0][0]
    examples = (*split.valid, *split.test)
    repeated = sum(item in example.history for example in examples for item in example.items)
    assert split.counts.repeated_targets == repeated
    check_no_leak(split, events)
    write_split(split, tmp_path / "split", force=True)
    assert read_split(tmp_path / "split") == split


def check_no_leak(split: Split, events: list[Any]) -> None:
    """No event of a held-out session is a training event, nor in the history of its targets."""
    assert split.held_out.count(trained(split)) == 0
    assert len(split.held_out) == sum(len(e.items) for e in (*split.valid, *split.test))
    left_out = 0
    for sequence in split.train:
        log = sorted((e for e in events if e[0] == sequence.user), key=lambda e: e[2])
        numbers = session_numbers([event[2] for event in log])
        sessions = [bisect_right(sequence.sessions, at) - 1 for at in range(len(sequence.items))]
        assert sessions == numbers[: len(sessions)]
        for example in (*split.valid, *split.test):
            if example.user == sequence.user:
                held_out = {numbers[target.position] for target in example.targets}
                assert len(held_out) == 1
                if example in split.test:
                    n_before = numbers.index(*held_out)
                    left_out += len(log) - n_before - len(example.items)
                assert held_out.isdisjoint(numbers[: len(example.history)])
                assert example.history == tuple(e[1] for e in log[: len(example.history)])
    assert split.counts.left_out == left_out  # no targets, and behind the last history


SESSIONS = [
    *(("u", "abcdefg"[at], at, 5, name) for at, name in enumerate("1122334")),
    *(("v", "abcde"[at], at, 5, name) for at, name in enumerate("91292")),
]


def test_sessions_of_a_column_that_overlap_are_one(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.csv", SESSIONS)
    options = SplitOptions("last-session", sessions=SessionRule(column="session"))
    split = make_split(path, options)
    u, v = sorted(split.train, key=lambda sequence: sequence.user)
    assert (u.items, u.sessions) == (tuple("abcd"), (0, 2))
    # 9 and 2 of v surround one another: a single session, so v is trained on whole
    assert (v.items, v.sessions) == (tuple("abcde"), (0,))
    (valid,), (test,) = split.valid, split.test
    assert (valid.history, valid.items) == (tuple("abcd"), ("e", "f"))
    assert (test.history, test.items) == (tuple("abcdef"), ("g",))


def test_a_split_records_its_sessions(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.csv", SESSIONS)
    rule = SessionRule(column="session")
    assert str(rule) == "by column session"
    for protocol in ("leave-one-out", "last-session"):
        options = SplitOptions(protocol, sessions=rule)
        manifest = split_events(path, tmp_path / protocol, options)
        assert (manifest.format, manifest.sessions, manifest.protocol) == (4, rule, protocol)
        assert read_split(tmp_path / protocol).origin.sessions == rule
    history, _ = user_histories(tmp_path / "last-session")["u"]
    assert history == tuple("abcdefg")


def test_a_later_split_may_not_hold_out_sessions_that_were_trained_on(tmp_path: Path) -> None:
    options = SplitOptions("last-session", sessions=SessionRule(column="session"))
    early = make_split(write_events(tmp_path / "early.csv", SESSIONS), options)
    more = [("u", item, 10 + at, 5, "5") for at, item in enumerate("xyz")]
    late = make_split(write_events(tmp_path / "late.csv", [*SESSIONS, *more]), options)
    # the last session was test, now it is validation
    assert extended(late, early).origin.extends == (early.reference.digest,)
    with pytest.raises(Exception, match="holds out item"):
        extended(early, late)


def test_what_contradicts_the_protocol_is_refused(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.csv", SESSIONS)
    split = make_split(path, SplitOptions("last-session", sessions=SessionRule(column="session")))
    (valid,), (test,) = split.valid, split.test
    shorter = dataclasses.replace(valid, rest=())
    shown = dataclasses.replace(test, history=(*test.history, test.item))
    sequences = tuple(dataclasses.replace(sequence, sessions=()) for sequence in split.train)
    origin = dataclasses.replace(split.origin, sessions=None)
    elsewhere = dataclasses.replace(valid, history=("a",))
    for changed, message in (
        ({"valid": (shorter,)}, "has 2 targets, which are not all 3 events"),
        ({"test": (shown,)}, "history that does not end at its targets"),
        ({"valid": (elsewhere,)}, "history that does not end at its targets"),
        ({"train": sequences}, "has 0 sessions"),
        ({"protocol": "temporal"}, "malformed|several targets in one example"),
        ({"protocol": "leave-one-out"}, "several targets in one example"),
        ({"origin": origin}, "last-session split has no sessions|has 2 sessions"),
        ({"test": ()}, "empty"),
    ):
        write_lines(dataclasses.replace(split, **changed), tmp_path / "split")
        with pytest.raises(IntegrityError, match=message):
            read_split(tmp_path / "split")


@pytest.mark.parametrize(
    ("text", "seconds"), [("1800", 1800), ("30m", 1800), ("1.5h", 5400), ("2d", 172_800), ("9s", 9)]
)
def test_a_gap_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-5m", "0", "5w", "m", "1e999"])
def test_what_is_no_gap_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no time|gap must be"):
        SessionRule(gap=parse_duration(text))
    for both_or_none in ((5.0, "session"), ()):
        with pytest.raises(UsageError, match="either"):
            SessionRule(*both_or_none)


def test_events_without_a_session_or_a_time_are_refused(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.csv", [("u", "a", 0, 5, ""), ("u", "b", 1, 5, "1")])
    with pytest.raises(DataError, match="row 1: session is empty"):
        make_split(path, SplitOptions(sessions=SessionRule(column="session")))
    with pytest.raises(UsageError, match="has the ids"):
        make_split(path, SplitOptions(sessions=SessionRule(column="item_id")))
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"u,i{n},{n}\n" for n in range(9)))
    with pytest.raises(DataError, match="--session-gap needs times"):
        make_split(path, SplitOptions(sessions=SessionRule(gap=5)))
