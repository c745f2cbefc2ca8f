"""A split of grown data extends the earlier split only if nothing that it holds out was trained
on."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import CompatibilityError, SidtoolWarning
from sidtool.data import EventNames, FieldName, FieldOptions
from sidtool.data.split.extension import extended
from sidtool.data.split.files import open_split, read_split, split_events, write_split
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.record import Protocol, SessionRule
from sidtool.data.split.split import Split
from sidtool.data.split.values import Example
from tests.data.split.cases import sequence_of
from tests.data.split.lines import write_lines

Sequences = dict[str, list[str]]
DROPS_EVENTS = pytest.mark.filterwarnings("ignore:events that split .* learned from are missing")


def leave_one_out(users: Sequences) -> Split:
    """The leave-one-out split of users with at least three events each."""
    return Split(
        "leave-one-out",
        tuple(sequence_of(user, items[:-2]) for user, items in users.items()),
        tuple(Example(u, tuple(i[:-2]), i[-2], len(i) - 2) for u, i in users.items()),
        tuple(Example(u, tuple(i[:-1]), i[-1], len(i) - 1) for u, i in users.items()),
    )


def test_new_events_users_and_items_extend_a_split() -> None:
    earlier = leave_one_out({"ann": ["a", "b", "c", "d"], "bob": ["b", "a", "c"]})
    users = {"ann": ["a", "new", "b", "c", "d", "e"], "bob": ["b", "a", "c"]}
    later = leave_one_out(users | {"cat": ["new", "a", "b"]})
    reference = extended(later, earlier).reference
    assert reference.digest == later.reference.digest
    assert earlier.reference.excludes_held_out(reference)
    assert not reference.excludes_held_out(earlier.reference)
    assert not earlier.reference.excludes_held_out(later.reference)


def test_a_split_of_lines_is_extended_by_one_in_columns(tmp_path: Path) -> None:
    """What was made from it stays usable, under the digest of its format."""
    users = {"ann": ["a", "b", "c", "d"], "bob": ["b", "a", "c"]}
    digest = write_lines(leave_one_out(users), tmp_path / "lines").digest
    earlier = read_split(tmp_path / "lines")
    later = leave_one_out({"ann": [*users["ann"], "e"], "bob": [*users["bob"], "d"]})
    reference = extended(later, earlier).reference
    assert reference.extends == (digest,)
    assert earlier.reference.excludes_held_out(reference)
    with pytest.raises(CompatibilityError, match="may be a training event"):
        extended(earlier, later)


def test_a_split_extends_what_the_earlier_one_extends() -> None:
    first = leave_one_out({"ann": ["a", "b", "c"]})
    second = extended(leave_one_out({"ann": ["a", "b", "c", "d"]}), first)
    third = extended(leave_one_out({"ann": ["a", "b", "c", "d", "e"]}), second)
    assert third.reference.extends == (second.reference.digest, first.reference.digest)
    assert first.reference.excludes_held_out(third.reference)


def test_a_file_of_new_events_alone_is_warned_of() -> None:
    earlier = leave_one_out({user: ["a", "b", "c", "d", "e"] for user in ("ann", "bob", "cat")})
    new = {"ann": ["f", "g", "h"], "bob": ["f", "g", "h"], "cat": ["a", "b", "c", "d", "e", "f"]}
    message = "training events of 2 of the 3 users of the earlier split are missing"
    with pytest.warns(SidtoolWarning, match=message):
        extended(leave_one_out(new), earlier)
    new["bob"] = new["cat"]  # one user's old events were dropped
    with pytest.warns(SidtoolWarning, match=f"events that split {earlier.reference.digest[:12]}"):
        extended(leave_one_out(new), earlier)


@pytest.mark.parametrize("protocol", ["leave-one-out", "last-session"])
@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("bc", "bcd", ("bc", "", "d")),  # users with two events are trained on
        ("bc", "bcde", ("bc", "d", "e")),
        ("bc", "abc", ("abc", "", "")),  # a arrived late
        ("bcde", "bcd", ("bcd", "", "")),  # e was taken back
        ("bcde", "bcdef", ("bcd", "e", "f")),
    ],
)
def test_a_learned_event_stays_a_training_event(
    tmp_path: Path, protocol: Protocol, old: str, new: str, parts: tuple[str, ...]
) -> None:
    rule = SessionRule(gap=1.0) if protocol == "last-session" else None
    options = SplitOptions(protocol, sessions=rule)
    lines = [
        "".join(f"u,{item},{'abcdef'.index(item)}00000000\n" for item in items)
        for items in (old, new)
    ]
    paths = write_days(tmp_path, old=lines[0], new=lines[1])
    earlier = split_events(paths[0], tmp_path / "earlier", options)
    options = replace(options, extends=(tmp_path / "earlier",))
    message = f"1 users have no validation target, and {1 - len(parts[2])} of them no test target"
    with nullcontext() if parts[1] else pytest.warns(SidtoolWarning, match=message):
        split_events(paths[1], tmp_path / "later", options)
    later = read_split(tmp_path / "later")
    train = "".join(item for user in later.train if user.user == "u" for item in user.items)
    valid, test = (
        "".join(example.item for example in part if example.user == "u")
        for part in (later.valid, later.test)
    )
    assert (train, valid, test) == parts
    assert later.reference.extends == (earlier.digest,)


def test_a_file_of_which_the_last_events_were_lost_is_refused(tmp_path: Path) -> None:
    """Of every user all is learned, so nothing would be left to hold out."""
    whole, torn = (tmp_path / f"{name}.csv" for name in ("whole", "torn"))
    for path, count in ((whole, 8), (torn, 5)):
        rows = (f"{user},i{at},{at}\n" for user in "uv" for at in range(count))
        path.write_text(f"user_id,item_id,timestamp\n{''.join(rows)}", encoding="utf-8")
    options = SplitOptions(extends=(whole,))
    with pytest.raises(CompatibilityError, match="may be a training event of the earlier split"):
        split_events(torn, tmp_path / "torn", options)


@DROPS_EVENTS
def test_what_an_earlier_split_lacks_is_not_extended_through_it() -> None:
    """Weekly splits of windows of time: the third may hold out what only the first trained on."""
    others = {user: ["a", "b", "c", "d"] for user in ("bob", "cat", "dan")}
    first = leave_one_out({**others, "ann": list("abcdefgh")})
    second = extended(leave_one_out(others), first)
    assert second.origin.drops_events
    assert first.reference.excludes_held_out(second.reference)
    third = extended(leave_one_out({**others, "ann": list("abcdef")}), second)
    assert third.reference.extends == (second.reference.digest,)
    assert not first.reference.excludes_held_out(third.reference)
    with pytest.raises(CompatibilityError, match="a training event of the earlier split"):
        extended(leave_one_out({**others, "ann": list("abcdef")}), first)


@DROPS_EVENTS
def test_a_split_may_extend_several() -> None:
    """Each is checked, so a chain that has dropped events can be joined again."""
    others = {user: ["a", "b", "c", "d"] for user in ("bob", "cat", "dan")}
    first = leave_one_out({**others, "ann": ["a", "b", "c"]})
    second = extended(leave_one_out(others), first)
    third = leave_one_out({**others, "ann": ["a", "b", "c", "d"]})
    both = extended(extended(third, second), first)
    assert both.reference.extends == (second.reference.digest, first.reference.digest)
    assert not both.origin.drops_events
    joined = extended(extended(third, first), second).reference
    assert joined.extends == (first.reference.digest, second.reference.digest)


@DROPS_EVENTS
def test_validation_events_that_are_missing_are_dropped_events() -> None:
    first = leave_one_out({"ann": ["a", "b", "c", "d"], "bob": ["a", "b", "c"]})
    complete = extended(leave_one_out({"ann": ["a", "b", "c", "e"], "bob": ["a", "b", "c"]}), first)
    assert not complete.origin.drops_events  # a test event was never learned
    lacking = extended(leave_one_out({"ann": ["a", "b", "f", "e"], "bob": ["a", "b", "c"]}), first)
    assert lacking.origin.drops_events


@DROPS_EVENTS
def test_dropped_events_are_recorded_in_the_folder(tmp_path: Path) -> None:
    first = leave_one_out({user: ["a", "b", "c", "d"] for user in ("ann", "bob", "cat")})
    second = extended(leave_one_out({user: ["a", "b", "c", "d"] for user in ("ann", "bob")}), first)
    write_split(second, tmp_path / "second")
    assert read_split(tmp_path / "second").origin.drops_events
    assert "drops_events" not in write_split(first, tmp_path / "first").to_json()


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (["a", "c", "b"], "'c' of user 'ann', which may be a training event"),  # now validation
        (["d", "e", "c"], "'c' of user 'ann', which may be a training event"),  # now test
        (["a", "c", "f", "d"], "'d' of user 'ann', which may be a training or validation event"),
    ],
)
def test_a_learned_event_that_is_held_out_now_is_refused(later: list[str], message: str) -> None:
    earlier = leave_one_out({"ann": ["a", "c", "d", "e"]})
    with pytest.raises(CompatibilityError, match=message):
        extended(leave_one_out({"ann": later}), earlier)


histories = st.lists(st.sampled_from("abcd"), min_size=3, max_size=7)


@given(st.lists(st.tuples(histories, st.integers(3, 7)), min_size=1, max_size=4))
def test_a_grown_history_always_extends_its_beginning(users: list[tuple[list[str], int]]) -> None:
    later = {f"u{number}": items for number, (items, _) in enumerate(users)}
    earlier = {f"u{number}": items[:length] for number, (items, length) in enumerate(users)}
    beginning = leave_one_out(earlier)
    origin = extended(leave_one_out(later), beginning).origin
    assert origin.extends == (beginning.reference.digest,)


def write_days(folder: Path, **lines: str) -> list[Path]:
    """Files of events, by name: nine events of the user v, and further lines."""
    days = "".join(f"v,i{day},{day}00000000\n" for day in range(9))
    paths = [folder / f"{name}.csv" for name in lines]
    for path, more in zip(paths, lines.values(), strict=True):
        path.write_text(f"user_id,item_id,timestamp\n{days}{more}")
    return paths


Log = list[tuple[int, str]]
"""Each event of a user as a number and its item."""


def split_of_logs(users: dict[str, Log]) -> Split:
    """Leave-one-out; all events of users with fewer than three are training events."""
    items = {user: [item for _, item in log] for user, log in users.items()}
    split = leave_one_out({user: ids for user, ids in items.items() if len(ids) > 2})
    short = (sequence_of(user, ids) for user, ids in items.items() if len(ids) in (1, 2))
    return replace(split, train=(*split.train, *short))


def seen(earlier: Log, later: Log) -> bool:
    """By the numbers of events: whether leave-one-out holds out of `later` what it learned of
    `earlier`."""
    n_train, n_valid = (len(earlier) - 2, len(earlier) - 1) if len(earlier) > 2 else (9, 9)
    held_out = later[-2:] if len(later) > 2 else []
    train, train_valid = {*earlier[:n_train]}, {*earlier[:n_valid]}
    return not (train.isdisjoint(held_out) and train_valid.isdisjoint(held_out[-1:]))


@st.composite
def grown_logs(draw: st.DrawFn) -> tuple[Log, Log]:
    """Events of one user, and the same with others that arrived anywhere between them."""
    earlier = list(enumerate(draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=6))))
    later = list(earlier)
    for number, item in enumerate(draw(st.lists(st.sampled_from("abc"), max_size=4)), 9):
        later.insert(draw(st.integers(0, len(later))), (number, item))
    return earlier, later


@settings(max_examples=100)
@given(st.lists(grown_logs(), min_size=1, max_size=3))
def test_no_learned_event_is_held_out_whatever_arrived_late(users: list[tuple[Log, Log]]) -> None:
    others = {"other": list(enumerate("xyz"))}
    earlier, later = (
        others | {f"u{user}": logs[index] for user, logs in enumerate(users)} for index in (0, 1)
    )
    try:
        extended(split_of_logs(later), split_of_logs(earlier))
    except CompatibilityError:
        return
    assert not any(seen(*logs) for logs in users)


def test_a_late_repeat_is_not_taken_for_the_event_that_was_learned(tmp_path: Path) -> None:
    """Times distinguish repeats: `a` of day 5 was learned, the one of day 1 arrived late."""
    old = "u,a,500000000\n"
    late = old + "u,a,100000000\nu,x,200000000\n"
    again = old + "u,x,600000000\nu,a,700000000\n"
    paths = write_days(tmp_path, old=old, late=late, again=again)
    for times, path in ((False, paths[1]), (True, paths[1]), (False, paths[2])):
        options = SplitOptions(fields=FieldOptions(times=times))
        earlier, later = (make_split(events_file, options) for events_file in (paths[0], path))
        with pytest.raises(CompatibilityError, match="'a' of user 'u', which may be a training"):
            extended(later, earlier)
    options = SplitOptions(fields=FieldOptions(times=True))
    before, after = (make_split(events_file, options) for events_file in (paths[0], paths[2]))
    assert before.reference.excludes_held_out(extended(after, before).reference)


def test_an_event_behind_the_last_target_is_in_no_part_and_may_be_learned(tmp_path: Path) -> None:
    """`a` and `b` of days 1 and 2 arrived late. `b` of day 5, which was learned behind the `a` of
    day 4, is behind the last target: the later split does not show it."""
    rows = "".join(f"v,i{day},{day}00000000,5\n" for day in range(9))
    header = f"user_id,item_id,timestamp,rating\n{rows}"
    learned = "u,a,400000000,5\nu,b,500000000,1\n"
    late = "u,a,100000000,5\nu,b,200000000,1\nu,x,300000000,5\n"
    (tmp_path / "old.csv").write_text(header + learned)
    (tmp_path / "new.csv").write_text(header + learned + late)
    earlier = make_split(tmp_path / "old.csv")
    fields = FieldOptions(feedback=(FieldName("rating"),), target=("rating>=4",))
    later = make_split(tmp_path / "new.csv", SplitOptions(fields=fields))
    with pytest.raises(CompatibilityError, match="'a' of user 'u', which may be a training event"):
        extended(later, earlier)


@DROPS_EVENTS
def test_a_repeat_does_not_stand_for_an_event_that_was_dropped(tmp_path: Path) -> None:
    """The second split has an `a` of another day in place of that of day 3; the third has both."""
    learned = "u,a,0\nu,a,300000000\n"
    dropped = "u,a,0\nu,a,100000000\nw,b,0\n"
    both = learned + "u,a,100000000\nu,a,200000000\n"
    options = SplitOptions(fields=FieldOptions(times=True))
    paths = write_days(tmp_path, first=learned, second=dropped, third=both)
    first, second, third = (make_split(path, options) for path in paths)
    second = extended(second, first)
    assert second.origin.drops_events
    assert not first.reference.excludes_held_out(extended(third, second).reference)


@pytest.mark.parametrize("times", [False, True])
def test_times_of_two_columns_are_not_compared(tmp_path: Path, times: bool) -> None:
    """`a` was made on day 1 and changed on day 13: learned by one column, held out by the other."""
    days = [("u", f"i{day}", day, day) for day in range(20)] + [("v", "b", 0, 0), ("v", "a", 1, 13)]
    lines = [f"{user},{item},{one}00000000,{two}00000000\n" for user, item, one, two in days]
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,created,updated\n" + "".join(lines))
    created, updated = (
        make_split(
            path,
            SplitOptions(
                "temporal",
                valid_from=start * 1e8,
                test_from=(start + 2) * 1e8,
                columns=EventNames(order=order),
                fields=FieldOptions(times=times),
            ),
        )
        for order, start in (("created", 10), ("updated", 12))
    )
    assert not created.reference.excludes_held_out(updated.reference)
    with pytest.raises(CompatibilityError, match="'a' of user 'v', which may be a training event"):
        extended(updated, created)


def test_cuts_in_time_show_that_a_repeated_item_was_not_seen(tmp_path: Path) -> None:
    """A week later, with two weeks of validation: validation overlaps, and the user's only item of
    the earlier split is held out again. Another user is new in the earlier validation."""
    lines = [f"u,i{day},{day}" for day in range(1, 40)] + ["v,a,1", "v,b,21", "v,a,31"]
    lines += ["w,c,12", "w,d,13"]
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(lines))
    earlier, later, back = (
        make_split(path, SplitOptions("temporal", valid_from=start, test_from=start + 14))
        for start in (10, 17, 9)
    )
    assert not earlier.reference.excludes_held_out(later.reference)
    grown = extended(later, earlier)
    assert earlier.reference.excludes_held_out(grown.reference)
    assert not grown.origin.drops_events
    with pytest.raises(CompatibilityError, match="which may be a training event"):
        extended(back, earlier)


@pytest.mark.parametrize("kind", ["folder", "events"])
def test_an_extension_is_the_same_within_a_memory_budget(tmp_path: Path, kind: str) -> None:
    header = "user_id,item_id,timestamp\n"
    old = [f"u{user},i{(n + user) % 7},{n}\n" for user in range(4) for n in range(5)]
    leaks = [f"new,i{n},{n}\n" for n in range(4)] + old[:4] + old[5:]
    grown = [f"new,i{n},{n}\n" for n in range(4)] + old + ["u0,i9,9\n"]
    for name, lines in (("old", old), ("leaks", leaks), ("grown", grown)):
        (tmp_path / f"{name}.csv").write_text(header + "".join(lines))
    digest = split_events(tmp_path / "old.csv", tmp_path / "old").digest
    extends = tmp_path / ("old" if kind == "folder" else "old.csv")
    options = SplitOptions(extends=(extends,))
    for memory in (None, 1 << 30):
        out = tmp_path / f"grown-{memory}"
        manifest = split_events(tmp_path / "grown.csv", out, options, memory_limit=memory)
        assert manifest.extends == open_split(out).reference.extends == (digest,)
        leaks = tmp_path / f"leaks-{memory}"
        with pytest.warns(SidtoolWarning, match="1 users have no validation target, and 1 of"):
            manifest = split_events(tmp_path / "leaks.csv", leaks, options, memory_limit=memory)
        assert (manifest.counts.valid, manifest.counts.test) == (4, 4)
        assert read_split(leaks).reference.extends == (digest,)
