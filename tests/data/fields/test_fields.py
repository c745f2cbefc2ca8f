import dataclasses
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import (
    CompatibilityError,
    DataError,
    IntegrityError,
    SidtoolWarning,
    UsageError,
)
from sidtool.data.columns import EventColumns
from sidtool.data.fields.field_columns import FieldName, FieldOptions
from sidtool.data.fields.fields import NO_FIELDS, Condition, Fields, FieldType, FieldTypes
from sidtool.data.split.files import read_split, split_events, user_histories, write_split
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.split import Split
from tests.data.split.lines import write_lines
from tests.sealed import reseal

pytestmark = pytest.mark.filterwarnings("ignore:1 of 2 users of the events have no row")

LONG = "1234567890123456780"
LONG_TOO = "1234567890123456781"
"""Different numbers, but the same as floats."""
START = 880_000_000
EVENTS = [
    # user, item, seconds after START, rating, device
    ("a", "i1", 0, "5", "tv"),
    ("a", "i2", 60, "4", "web"),
    ("b", "i9", 5, "1", "web"),
    ("a", "i3", 120, "2", ""),
    ("a", "i4", 180, "5", "tv"),
    ("a", "i5", 240, "1", "tv"),
    ("a", "i6", 300, "4", "web"),
    ("a", "i7", 360, "3", "web"),
    ("b", "i1", 500, "", "tv"),
    ("b", "i2", 600, "5", "tv"),
]
RATING = FieldName("rating")
ALL = FieldOptions(
    feedback=(RATING,), context=(FieldName("device"),), users=Path("users.csv"), times=True
)


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The events, in a folder with a table of one of the two users, and of another one."""
    monkeypatch.chdir(tmp_path)
    Path("users.csv").write_text("user_id,age,city\na,24,Ulm\nz,80,Bonn\n")
    return write_events(Path("events.csv"), EVENTS)


def write_events(path: Path, rows: list[Any]) -> Path:
    lines = ["user_id,item_id,timestamp,rating,device"]
    lines += [
        f"{user},{item},{START + at},{rating},{kind}" for user, item, at, rating, kind in rows
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def date_of(seconds: int) -> str:
    """Seconds since 1970 as an ISO date."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def split_of(events: Path, protocol: Any = "leave-one-out", **fields: Any) -> Split:
    return make_split(events, SplitOptions(protocol, fields=FieldOptions(**fields)))


def test_every_event_keeps_its_fields(events: Path) -> None:
    with pytest.warns(SidtoolWarning, match="1 of 2 users of the events have no row in users.csv"):
        split = make_split(events, SplitOptions(fields=ALL))
    users = {"age": "int", "city": "str"}
    assert split.fields == FieldTypes({"rating": "int"}, {"device": "str"}, users, times=True)
    a, b = split.train
    assert a.fields == Fields(
        {"age": 24, "city": "Ulm"},
        {"rating": (5, 4, 2, 5, 1), "device": ("tv", "web", None, "tv", "tv")},
        times=tuple(START + 60 * step for step in range(5)),
    )
    assert b.fields.user == {"age": None, "city": None}  # not in the table
    test = split.test[0]
    devices = ("tv", "web", None, "tv", "tv", "web")
    assert test.fields.event == {"rating": (5, 4, 2, 5, 1, 4), "device": devices}
    assert (test.fields.context, test.fields.time) == ({"device": "web"}, START + 360)
    assert test.feedback == {"rating": 3}  # not among what is known before the event


def test_only_the_last_two_targets_of_a_user_are_held_out(events: Path) -> None:
    split = split_of(events, target=("rating>=4",))
    (valid,), (test,) = split.valid, split.test  # b has one target
    assert (valid.item, test.item) == ("i4", "i6")
    assert test.history == ("i1", "i2", "i3", "i4", "i5")
    assert test.fields.event["target"] == ("yes", "yes", "no", "yes", "no")
    assert split.counts.left_out == 1  # i7
    assert [user.items for user in split.train] == [("i1", "i2", "i3"), ("i9", "i1", "i2")]
    assert [split.train[0].fields.is_target(index) for index in range(3)] == [True, True, False]
    assert user_histories_of(split)["a"] == ("i1", "i2", "i3", "i4", "i5", "i6")


def test_only_targets_behind_the_cuts_are_held_out(events: Path) -> None:
    cuts = {"valid_from": START + 290, "test_from": START + 550}
    fields = FieldOptions(target=("rating>=4",))
    split = make_split(events, SplitOptions("temporal", **cuts, fields=fields))
    assert [(valid.user, valid.item) for valid in split.valid] == [("a", "i6")]
    # i1 is no target: it is in a history only
    examples = [(test.user, test.history, test.item) for test in split.test]
    assert examples == [("b", ("i9", "i1"), "i2")]
    assert [user.items[-1] for user in split.train] == ["i5", "i9"]
    assert user_histories_of(split)["b"] == ("i9", "i1", "i2")


def user_histories_of(split: Split) -> dict[str, tuple[str, ...]]:
    write_split(split, Path("written"))
    assert read_split(Path("written")) == split
    histories = user_histories(Path("written"))
    for items, fields in histories.values():
        assert all(len(values) == len(items) for values in fields.event.values())
    return {user: items for user, (items, _) in histories.items()}


def test_fields_are_stored_and_not_in_the_digest(events: Path) -> None:
    plain = split_events(events, "plain")
    manifest = split_events(events, "rich", SplitOptions(fields=ALL))
    assert (plain.format, manifest.format) == (4, 4)
    assert plain.digest == manifest.digest
    assert read_split(Path("rich")) == make_split(events, SplitOptions(fields=ALL))
    assert read_split(Path("plain")).fields == FieldTypes()
    row = pq.read_table("rich/test.parquet").to_pylist()[1]
    columns = {"user": "b", "items": ["i2"], "positions": [2], "targets": [2]}
    fields = {"event_rating": [5], "event_device": ["tv"], "user_age": None, "user_city": None}
    assert row == columns | {"times": [START + 600]} | fields
    marked = split_events(events, "marked", SplitOptions(fields=FieldOptions(target=("rating>3",))))
    assert marked.fields.feedback == {"rating": "int"}  # what a condition compares is feedback
    assert read_split(Path("marked")).train[0].fields.event["target"] == ("yes", "yes", "no")


def test_other_fields_than_the_manifest_says_are_refused(events: Path) -> None:
    split = make_split(events, SplitOptions(fields=ALL))
    first = dataclasses.replace(split.test[0], feedback={})
    with pytest.raises(IntegrityError, match="user 'a' has other fields than"):
        dataclasses.replace(split, test=(first, *split.test[1:]))
    write_lines(split, Path("less"))
    for changes, error in (({"format": 5}, CompatibilityError), ({"format": 1}, IntegrityError)):
        reseal(Path("less/split.json"), changes)
        with pytest.raises(error):
            read_split(Path("less"))


@pytest.mark.parametrize(
    ("ratings", "kind", "values"),
    [
        (["1", "-2", " 3 "], "int", [1, -2, 3]),
        (["1", "2.5", ""], "float", [1.0, 2.5, None]),
        (["good", "", "bad"], "str", ["good", None, "bad"]),
        ([LONG, "7", LONG_TOO], "str", [LONG, "7", LONG_TOO]),
        ([LONG, "7.5", "2"], "float", [float(LONG), 7.5, 2.0]),
        (["1", "1e400", "2"], None, "number '1' in row 1 and the text '1e400' in row 2"),
        (["1", "good", "2"], None, "hint"),
        (["", "", ""], None, "has no value"),
    ],
)
def test_types_follow_from_the_values(
    events: Path, ratings: list[str], kind: str | None, values: Any
) -> None:
    rows = [("a", f"i{n}", n, rating, "tv") for n, rating in enumerate(ratings)]
    write_events(events, rows)
    if kind is None:
        with pytest.raises(DataError) as error:
            split_of(events, feedback=(RATING,))
        assert values in f"{error.value} hint"
        return
    split = split_of(events, feedback=(RATING,))
    assert split.fields.feedback == {"rating": kind}
    test = split.test[0]
    assert [*test.fields.event["rating"], test.feedback["rating"]] == values


def test_a_type_can_be_named(events: Path) -> None:
    as_text = split_of(events, feedback=(FieldName.parse("rating:str"),))
    assert as_text.train[0].fields.event["rating"] == ("5", "4", "2", "5", "1")
    as_float = split_of(events, feedback=(FieldName.parse("rating:float"),))
    assert as_float.train[0].fields.event["rating"] == (5.0, 4.0, 2.0, 5.0, 1.0)
    write_events(events, [("a", f"i{n}", n, LONG, "tv") for n in range(5)])
    as_float = split_of(events, feedback=(FieldName.parse("rating:float"),))
    assert as_float.fields.feedback == {"rating": "float"}
    with pytest.raises(DataError, match=r"events.csv, row 1: rating is '1234.*', no int"):
        split_of(events, feedback=(FieldName.parse("rating:int"),))
    with pytest.raises(DataError, match=r"events.csv, row 1: device is 'tv', no int"):
        split_of(events, context=(FieldName.parse("device:int"),))
    assert FieldName.parse("a:b") == FieldName("a:b")
    with pytest.raises(UsageError, match="must be one of int, float, str, not 'number'"):
        FieldName("rating", "number")  # type: ignore[arg-type]
    assert FieldName.parse(":int") == FieldName(":int")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"feedback": (FieldName("stars"),)}, UsageError, "no column 'stars'"),
        ({"feedback": (RATING, RATING)}, UsageError, "named twice"),
        ({"feedback": (RATING,), "context": (RATING,)}, UsageError, "named twice"),
        ({"context": (FieldName("item_id"),)}, UsageError, "'item_id' has the ids"),
        ({"feedback": (FieldName("user_id"),)}, UsageError, "'user_id' has the ids"),
        ({"target": ("rating",)}, UsageError, "no comparison"),
        ({"target": ("rating>=good",)}, UsageError, "compares numbers with 'good'"),
        ({"target": ("device>=tv",)}, UsageError, "texts are equal"),
        ({"target": ("rating>5",)}, DataError, "no event of events.csv fulfills"),
        ({"target": ("device=tv",), "feedback": (FieldName("target"),)}, UsageError, "marks"),
        ({"context": (FieldName("target"),)}, UsageError, "another name|the name 'target'"),
        (
            {"users": Path("twice.csv"), "user_fields": (FieldName("user_id"),)},
            UsageError,
            "'user_id' of twice.csv has the ids of users",
        ),
        ({"user_fields": (FieldName("age"),)}, UsageError, "--user-field requires --users"),
        ({"users": Path("users.csv"), "user_fields": (RATING,)}, UsageError, "no column 'rating'"),
        ({"users": Path("twice.csv")}, DataError, "user id 'a' is in rows 1 and 2"),
        ({"users": Path("others.csv")}, DataError, "none of the 2 users"),
    ],
)
def test_bad_options_are_refused(events: Path, options: Any, error: Any, message: str) -> None:
    Path("twice.csv").write_text("user_id,age\na,1\na,2\n")
    Path("others.csv").write_text("user_id,age\nx,1\n")
    with pytest.raises(error, match=message):
        split_of(events, **options)


@pytest.mark.parametrize("name", ["", "x:token", "q{r}"])
def test_a_field_that_no_template_can_show_is_refused(events: Path, name: str) -> None:
    Path("users.csv").write_text(f"user_id,{name},age\na,1,24\n")  # pandas names no index
    with pytest.raises(UsageError, match=f"cannot have the name '{name}'"):
        split_of(events, users=Path("users.csv"))
    assert split_of(events, users=Path("users.csv"), user_fields=(FieldName("age"),))


@pytest.mark.parametrize(
    ("users", "error"), [("nothing.csv", DataError), ("users.csv", UsageError)]
)
def test_a_table_of_users_is_looked_at_before_events(
    events: Path, users: str, error: type[Exception]
) -> None:
    events.write_text("user_id,item_id,timestamp\n,i1,1\n")
    with pytest.raises(error, match=users):
        split_of(events, users=Path(users), user_fields=(RATING,))


def test_times_need_an_order_that_is_a_time(events: Path) -> None:
    events.write_text(events.read_text().replace("880000", "").replace("timestamp", "order"))
    with pytest.raises(DataError, match="some after March 1973: the order is 600"):
        split_of(events, times=True)
    text = events.read_text()
    events.write_text(text.replace("a,i1,000", "a,i1,20260301101500"))
    with pytest.raises(DataError, match=r"the order is 2\.02603e"):
        split_of(events, times=True)
    # a date of the year 9999 does not make milliseconds of the others
    dates = re.sub(r",(\d{3}),", lambda cell: f",{date_of(int(cell[1]))},", text)
    events.write_text(dates.replace(date_of(600), "9999-12-31"))
    assert split_of(events, times=True).test[0].fields.time == 360
    events.write_text(text)
    milliseconds = events.read_text().splitlines()
    cells = [line.split(",") for line in milliseconds[1:]]
    rows = [",".join([*c[:2], f"{START + int(c[2])}250", *c[3:]]) for c in cells]
    events.write_text("\n".join([milliseconds[0], *rows]))
    assert split_of(events, times=True).test[0].fields.time == START + 360.25
    events.write_text("user_id,item_id\n" + "a,i1\n" * 3)
    options = SplitOptions(fields=FieldOptions(times=True))
    with pytest.raises(DataError, match="the order is the order of the rows"):
        make_split(events, options, recorded=EventColumns("user_id", "item_id", None))
    with pytest.raises(UsageError, match="windows have no fields"):
        SplitOptions("given", Path("v"), Path("t"), fields=FieldOptions(times=True))


values = st.none() | st.text(max_size=5) | st.integers(-9, 9) | st.floats(-9, 9)


@given(st.lists(st.tuples(values, st.integers(0, 9)), max_size=5), st.data())
def test_fields_are_read_back(events: list[Any], data: st.DataObject) -> None:
    dictionaries = st.dictionaries(st.text(max_size=3), values, max_size=3)
    fields = Fields(
        user=data.draw(dictionaries),
        event={"x": tuple(value for value, _ in events)} if data.draw(st.booleans()) else {},
        context=data.draw(dictionaries),
        feedback=data.draw(dictionaries),
        times=tuple(time for _, time in events) if data.draw(st.booleans()) else None,
        time=data.draw(st.none() | st.integers(0, 9)),
    )
    assert Fields.from_json(fields.to_json(), len(events)) == fields
    assert Fields.from_json(json.loads(json.dumps(fields.to_json())), len(events)) == fields
    assert fields.over(NO_FIELDS) == NO_FIELDS.over(fields) == fields


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "fields is"),
        ({"users": {}}, "no part 'users'"),
        ({"user": {"age": [1]}}, "user.age has"),
        ({"user": {"age": True}}, "user.age has True"),
        ({"event": {"rating": 3}}, "event.rating is 3, not a list"),
        ({"event": {"rating": [1, 2, 3]}}, "event.rating has 3 values for 2 items"),
        ({"times": [1, "soon"]}, "a time is 'soon'"),
        ({"time": float("nan")}, "a time is nan"),
    ],
)
def test_malformed_fields_are_refused(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Fields.from_json(value, 2)


def test_times_may_be_dates() -> None:
    fields = Fields.from_json({"times": ["1970-01-01", 5], "time": "1970-01-02"}, 2)
    assert (fields.times, fields.time) == ((0.0, 5.0), 86400.0)


def test_numbers_may_be_those_of_numpy() -> None:
    fields = Fields.from_json({"user": {"age": np.int64(24)}, "time": np.int64(5)}, 0)
    assert fields.to_json() == {"user": {"age": 24}, "time": 5.0}
    assert type(fields.user["age"]) is int
    assert Fields({"age": np.int64(24)}).checked(0) == Fields({"age": 24})


@given(st.sampled_from([">=", "<=", "!=", "==", "=", ">", "<"]), st.integers(-3, 3))
def test_conditions_compare_numbers(sign: str, number: int) -> None:
    condition = Condition.parse(f"x {sign} {number}")
    held = condition.holds([-2, 0, 1.5, None], "float")
    python = "==" if sign == "=" else sign
    expected = [eval(f"{value} {python} {number}") for value in (-2, 0, 1.5)]
    assert held.tolist() == [*expected, False]


@pytest.mark.parametrize("kind", ["int", "str"])
def test_conditions_compare_whole_numbers_exactly(kind: FieldType) -> None:
    first, second = 123456789012345678, 123456789012345679
    assert float(first) == float(second)
    values = [first, second, None] if kind == "int" else [str(first), str(second), None]
    held = Condition.parse(f"campaign={first}").holds(values, kind)
    assert held.tolist() == [True, False, False]
    if kind == "int":
        assert Condition.parse(f"x>{first}").holds(values, kind).tolist() == [False, True, False]
        assert Condition.parse("x=4.0").holds([4, 5], kind).tolist() == [True, False]
        assert Condition.parse("x<4.5e0").holds([4, 5], kind).tolist() == [True, False]
