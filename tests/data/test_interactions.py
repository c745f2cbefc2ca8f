from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.data.columns import EventColumns, EventNames
from sidtool.data.event_sort import EVENT_BYTES, USER, Spill
from sidtool.data.interactions import ITEM, EventCoder, read_interactions
from sidtool.data.times import parse_time, read_order
from tests.data.tables.files import CONTAINERS, write_table
from tests.pairs import all_pairs

TABLE = {
    "userId": ["u2", "u1", "u2", "u1", "u2"],
    "movieId": ["a", "b", "c", "d", "a"],
    "timestamp": ["5", "2", "3", "1", "3"],
}
EVENTS = [("u2", "c", 3.0), ("u2", "a", 3.0), ("u2", "a", 5.0), ("u1", "d", 1.0), ("u1", "b", 2.0)]

event = st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd"), st.integers(-3, 3))


@pytest.mark.parametrize("name", [*CONTAINERS, "x.inter"])
def test_events_are_the_same_in_every_container(tmp_path: Path, name: str) -> None:
    read = read_interactions(write_table(tmp_path / name, TABLE))
    assert list(zip(read.users, read.items, read.order.tolist(), strict=True)) == EVENTS
    assert (read.columns.order, len(read)) == ("timestamp", 5)
    assert read.digest == read_interactions(write_table(tmp_path / "y.tsv", TABLE)).digest


def test_the_digest_depends_on_every_value(tmp_path: Path) -> None:
    digests = {read_interactions(write_table(tmp_path / "x.csv", TABLE)).digest}
    for column, value in (("userId", "u3"), ("movieId", "z"), ("timestamp", "4")):
        changed = TABLE | {column: [*TABLE[column][:4], value]}
        digests.add(read_interactions(write_table(tmp_path / "x.csv", changed)).digest)
    assert len(digests) == 4


def test_dates_are_seconds(tmp_path: Path) -> None:
    dates = [
        *("1970-01-01", "1970-01-02T00:00:00Z", "1970-01-01 01:00:00+01:00"),
        *("1970-01-01T00:00:00.5", "1970-01-01T00:16:40"),
    ]
    table = {"user": list("uuuuu"), "item": list("abcde"), "date": dates}
    read = read_interactions(write_table(tmp_path / "x.csv", table))
    assert "".join(read.items) == "acdeb"
    np.testing.assert_array_equal(read.order, [0.0, 0.0, 0.5, 1000.0, 86400.0])
    assert [parse_time(date) for date in [*dates, "1e3"]] == [0, 86400, 0, 0.5, 1000, 1000]


@pytest.mark.parametrize(
    ("name", "number", "at"),
    all_pairs(
        ["x.csv", "x.jsonl", "x.parquet", "x.inter"],
        ["20210103", "2021", "1609632000", "1.5", "1e3", " 7"],
        [0, 1, 2],
    ),
)
def test_numbers_among_dates_are_refused(tmp_path: Path, name: str, number: str, at: int) -> None:
    dates = ["2021-01-01", "2021-01-02", "2021-01-04"]
    dates.insert(at, number)
    table = {"user": list("uuuu"), "item": list("abcd"), "date": dates}
    date_row = 2 if at == 0 else 1
    message = rf"the number '{number.strip()}' in row {at + 1} and the date .* in row {date_row}"
    with pytest.raises(DataError, match=message):
        read_interactions(write_table(tmp_path / name, table))


def items_in_order(path: Path, times: pa.Array | list[str]) -> str:
    """The items a, b, c ... of one user, whose times are given, in the order that is read."""
    n = len(times)
    table = {"user": ["u"] * n, "item": list("abcdef"[:n]), "time": times}
    if isinstance(times, list):
        return "".join(read_interactions(write_table(path, table)).items)
    pq.write_table(pa.table(table), path)
    return "".join(read_interactions(path).items)


@pytest.mark.parametrize(
    "times",
    [
        ["1609459200000000003", "1609459200000000001", "1609459200000000002"],
        ["1609459200.1234569", "1609459200.12345671", "1609459200.1234568"],
        [f"2021-01-01T00:00:00.12345600{end}" for end in ("3", "1", "2Z")],
        ["9007199254740993.0", "9007199254740992", "9007199254740992.5"],
        ["12345678901234568e0001", "123456789012345678", "123456789012345679"],
    ],
)
def test_moments_that_are_equal_as_float64_are_ordered(tmp_path: Path, times: list[str]) -> None:
    assert items_in_order(tmp_path / "x.csv", times) == "bca"
    assert items_in_order(tmp_path / "x.jsonl", times) == "bca"
    assert items_in_order(tmp_path / "y.csv", [*times, times[1]]) == "bdca"


DATES = st.from_regex(
    r"(0000|0001|1583|1969|2021|2242|2243|9999)-(01|02|13)-(01|29|31)"
    r"([T _](00|23|24)(:(00|59|60)(:(00|59|60)([.,][0-9]{0,10})?)?)?)?(Z|[+-](01|23:59|0030))?",
    fullmatch=True,
)


@settings(max_examples=300)
@given(st.lists(DATES, min_size=1, max_size=3))
def test_dates_are_read_together_as_one_by_one(dates: list[str]) -> None:
    try:
        expected = [parse_time(date) for date in dates]
    except (ValueError, OverflowError):
        with pytest.raises(DataError, match="neither a number nor an ISO date"):
            read_order(Path("x"), pa.chunked_array([dates]))
    else:
        numbers, remainders = read_order(Path("x"), pa.chunked_array([dates]))
        assert numbers.tolist() == expected
        singles = [read_order(Path("x"), pa.chunked_array([[date]]))[1][0] for date in dates]
        assert remainders.tolist() == singles


def test_dates_of_pandas_are_not_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("sidtool.data.times._parse_cells")
    dates = ["2021-01-01 00:00:00.000000789", "1969-12-31 23:59:59.999999001"]
    numbers, remainders = read_order(Path("x"), pa.chunked_array([dates]))
    assert (numbers.tolist(), remainders.tolist()) == ([1609459200, -1e-6], [0.789, 0.001])


def test_parquet_times_of_any_type_are_ordered(tmp_path: Path) -> None:
    nanoseconds = [1609459200000000003, 1609459200000000001, 1609459200000000002]
    for kind in (pa.int64(), pa.uint64(), pa.timestamp("ns"), pa.timestamp("ns", "Europe/Rome")):
        assert items_in_order(tmp_path / "x.parquet", pa.array(nanoseconds, kind)) == "bca"
    for rounded in (pa.array([1.6e9, 1.5e9], pa.float32()), pa.array([4096, 1], pa.float16())):
        with pytest.raises(DataError, match="rounds whole numbers beyond"):
            items_in_order(tmp_path / "x.parquet", rounded)
    assert items_in_order(tmp_path / "x.parquet", pa.array([3, 1, 2], pa.float32())) == "bca"


@pytest.mark.parametrize(
    "text", ["nan", "inf", "1e999", "1_000", "\u0663", "", " ", "0x10", "2021-13-01", "now"]
)
def test_a_cut_is_a_finite_number_or_a_date(text: str) -> None:
    with pytest.raises((ValueError, OverflowError)):
        parse_time(text)


def test_columns_are_selected_by_flag(tmp_path: Path) -> None:
    table = {"user": ["u", "u"], "who": ["a", "b"], "what": ["x", "y"]}
    table |= {"when": ["2", "1"], "item": ["i", "j"]}
    path = write_table(tmp_path / "x.csv", table)
    read = read_interactions(path, EventNames("who", "what", "when"))
    columns = (read.users.tolist(), read.items.tolist(), read.order.tolist())
    assert columns == (["a", "b"], ["x", "y"], [2.0, 1.0])
    with pytest.raises(UsageError, match="no column 'nobody'"):
        read_interactions(path, EventNames("nobody"))
    with pytest.raises(UsageError, match="looks like the user id") as caught:
        read_interactions(write_table(tmp_path / "y.csv", {"item": ["i"], "b": ["1"]}))
    assert "y.csv -o SPLIT` names it with --user-column" in str(caught.value.shell_hint)
    with pytest.raises(UsageError, match="looks like the user id") as caught:
        read_interactions(tmp_path / "y.csv", EventNames())
    assert str(caught.value.shell_hint).startswith("name it with --user-column, --order-column")


def test_events_without_an_order_are_refused_unless_the_rows_are_meant(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.csv", {"user": ["u", "v", "u"], "item": ["b", "c", "a"]})
    with pytest.raises(UsageError, match="looks like the time or order of an event") as caught:
        read_interactions(path)
    assert "--order row" in str(caught.value.shell_hint)
    read = read_interactions(path, EventNames(order_by="row"))
    assert (read.items.tolist(), read.columns.order) == (["b", "a", "c"], None)
    assert read_interactions(path, recorded=read.columns).digest == read.digest
    with pytest.raises(UsageError, match="contradict"):
        EventNames(order="when", order_by="row")


def test_recorded_columns_come_before_guesses_and_after_names(tmp_path: Path) -> None:
    table = {"who": ["a", "b"], "user": ["u", "v"], "item": ["i", "j"], "time": ["1", "2"]}
    path = write_table(tmp_path / "x.csv", table)
    recorded = EventColumns("who", "gone", "time")
    assert read_interactions(path, recorded=recorded).columns == EventColumns("who", "item", "time")
    assert read_interactions(path, EventNames("user"), recorded=recorded).columns.user == "user"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("userId", "", "row 3: the user id is empty"),
        ("movieId", "", "row 3: the item id is empty"),
        ("timestamp", "", "row 3: the order '' is neither"),
        ("timestamp", "soon", "row 3: the order 'soon' is neither"),
        ("timestamp", "Jan 5, 2024", "row 3: the order 'Jan 5, 2024' is neither"),
        ("timestamp", "nan", "row 3: the order is 'nan'"),
    ],
)
def test_a_malformed_cell_is_named(tmp_path: Path, column: str, value: str, message: str) -> None:
    broken = TABLE | {column: [*TABLE[column][:2], value, *TABLE[column][3:]]}
    with pytest.raises(DataError, match=message) as refusal:
        read_interactions(write_table(tmp_path / "x.csv", broken))
    hint = str(refusal.value.shell_hint)
    assert "--fix OUT` leaves out such events" in hint
    assert ("--time-format FORMAT" in hint) == (value in ("soon", "Jan 5, 2024"))


def test_a_file_of_windows_is_refused(tmp_path: Path) -> None:
    table = {"user_id": ["u"], "history_item_id": ["[1]"], "item_id": ["2"]}
    with pytest.raises(UsageError, match="windows"):
        read_interactions(write_table(tmp_path / "x.csv", table))


def test_no_events_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item,time\n")
    with pytest.raises(DataError, match="no events"):
        read_interactions(tmp_path / "x.csv")


def test_dates_of_a_recorded_format_are_read(tmp_path: Path) -> None:
    dates = ["02/01/2024", "01/02/2024", "31/12/2023"]
    table = {"user": ["u"] * 3, "item": ["a", "b", "c"], "at": dates}
    path = write_table(tmp_path / "x.csv", table)
    with pytest.raises(DataError, match="neither a number nor an ISO date"):
        read_interactions(path, EventNames(order="at"))
    read = read_interactions(path, EventNames(order="at", time_format="%d/%m/%Y"))
    assert read.items.tolist() == ["c", "a", "b"]
    assert read.columns == EventColumns("user", "item", "at", "%d/%m/%Y")
    assert EventColumns.from_json(read.columns.to_json()) == read.columns
    again = read_interactions(path, recorded=read.columns)
    assert (again.digest, again.columns) == (read.digest, read.columns)
    recorded = EventColumns("user", "item", None)  # a split by rows, to which dates were added
    path = write_table(
        tmp_path / "z.csv", {"user": ["u"] * 3, "item": ["a", "b", "c"], "ts": dates}
    )
    named = EventNames(time_format="%d/%m/%Y")
    assert read_interactions(path, named, recorded=recorded).columns.order == "ts"
    other = write_table(tmp_path / "y.csv", {**table, "ts": ["1", "2", "3"]})
    by_number = read_interactions(other, EventNames(order="ts"), recorded=read.columns)
    assert by_number.columns.time_format is None


def test_empty_times_have_no_format(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.csv", TABLE | {"timestamp": [""] * 5})
    with pytest.raises(DataError, match="row 1: the order '' is neither") as refusal:
        read_interactions(path)
    assert "--time-format" not in str(refusal.value.shell_hint)


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_no_more_is_read_ahead_with_more_threads(threads: int) -> None:
    n_read = n_coded = most_ahead = 0

    def batches() -> Iterator[dict[str, pa.ChunkedArray]]:
        nonlocal n_read
        for number in range(2_000):
            n_read += 10
            ids = [f"{number}-{place}" for place in range(10)]
            yield dict.fromkeys((USER, ITEM), pa.chunked_array([ids]))

    for run in EventCoder(threads).runs(Path("events.csv"), batches(), most_events=1_000):
        most_ahead = max(most_ahead, n_read - n_coded)
        n_coded += len(run)
    assert n_coded == n_read == 20_000
    assert most_ahead <= 3_000


def test_a_budget_below_the_events_of_one_user_is_refused(tmp_path: Path) -> None:
    table = {"user": ["u"] * 30 + ["v"], "item": ["a"] * 31, "timestamp": ["1"] * 31}
    path = write_table(tmp_path / "x.parquet", table)
    with pytest.raises(UsageError, match="31 events do not fit") as refusal:
        read_interactions(path, spill=Spill(tmp_path, 29 * EVENT_BYTES))
    assert f"--memory-limit of at least {30 * EVENT_BYTES} bytes" in str(refusal.value.shell_hint)
    with pytest.raises(DataError, match=r"none cannot be written: .*No such file"):
        read_interactions(path, spill=Spill(tmp_path / "none", 30 * EVENT_BYTES))
