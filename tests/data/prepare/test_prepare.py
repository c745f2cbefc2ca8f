import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.data import EventNames, read_items
from sidtool.data.interactions import read_interactions
from sidtool.data.prepare.formats import FORMATS, GENRES
from sidtool.data.prepare.preparation import PrepareOptions, prepare
from sidtool.data.prepare.raw import FilterOptions, collect, core, filter_events
from sidtool.data.tables.tables import read_columns
from tests.data.tables.files import write_table

EVENTS = [("u", "a", 10, 5.0), ("u", "b", 11, 3.0), ("v", "a", 9, 4.0), ("v", "c", 12, 1.0)]
"""User, item, time in seconds, rating; in the order of the files."""
BY_USER = [("u", "a", 10), ("u", "b", 11), ("v", "a", 9), ("v", "c", 12)]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """A file, compressed if its name ends with .gz."""
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def amazon_2014(folder: Path) -> Path:
    keys = ("reviewerID", "asin", "unixReviewTime", "overall")
    rows = [dict(zip(keys, event, strict=True)) | {"reviewText": "ü"} for event in EVENTS]
    write(folder / "reviews_Beauty_5.json.gz", lines(rows))
    metadata = [
        {"asin": item, "title": f"T'{item}", "description": "d", "categories": [["x", "y"]]}
        for item in "abc"
    ]
    text = "".join(f"{row!r}\n" for row in metadata)  # lines of Python, as the real file
    write(folder / "meta_Beauty.json.gz", text)
    return folder


def amazon_2018(folder: Path) -> Path:
    keys = ("reviewerID", "asin", "unixReviewTime", "overall")
    rows = [dict(zip(keys, event, strict=True)) | {"verified": True} for event in EVENTS]
    write(folder / "All_Beauty_5.json", lines(rows))
    return amazon_titles(folder, "asin")


def amazon_2023(folder: Path) -> Path:
    texts = {"title": "review", "asin": "variant"}
    rows = [
        {"rating": rating, **texts, "parent_asin": item, "user_id": user, "timestamp": time * 1000}
        for user, item, time, rating in EVENTS
    ]
    write(folder / "All_Beauty.jsonl.gz", lines(rows))
    return amazon_titles(folder, "parent_asin")


def amazon_titles(folder: Path, key: str) -> Path:
    metadata = [{key: item, "title": f"T'{item}", "price": None} for item in "abc"]
    write(folder / "meta_Beauty.jsonl", lines(metadata))
    return folder


FLAGS = "|".join("1" if genre in ("Drama", "War") else "0" for genre in GENRES)
ML_HEAD = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ML_FILMS = "item_id:token\tmovie_title:token_seq\tclass:token_seq\n"
DELIMITED = {
    "2014": ("ratings_Beauty.csv", "", "{0},{1},{3},{2}\n"),
    "2018": ("All_Beauty.csv", "", "{1},{0},{3},{2}\n"),
    "2023": ("All_Beauty.csv", "user_id,parent_asin,rating,timestamp\n", "{0},{1},{3},{2}000\n"),
    "100K": ("u.data", "", "{0}\t{1}\t{3:.0f}\t{2}\n"),
    "1M": ("ratings.dat", "", "{0}::{1}::{3:.0f}::{2}\n"),
    "25M": ("ratings.csv", "userId,movieId,rating,timestamp\n", "{0},{1},{3},{2}\n"),
    "recbole": ("ml.inter", ML_HEAD, "{0}\t{1}\t{3}\t{2}\n"),
}
"""Files of ratings: name, header, and the form of a row of EVENTS."""
FILMS = {
    "100K": ("u.item", "", "{0}|T'{0}|01-Jan-1995||http://é|" + FLAGS + "\n"),
    "1M": ("movies.dat", "", "{0}::T'{0}::Drama|War\n"),
    "25M": ("movies.csv", "movieId,title,genres\n", '{0},"T\'{0}",Drama|War\n'),
    "recbole": ("ml.item", ML_FILMS, "{0}\tT'{0}\tDrama War\n"),
}


def delimited(form: str, folder: Path) -> Path:
    name, head, row = DELIMITED[form]
    write(folder / name, head + "".join(row.format(*event) for event in EVENTS))
    if form not in FILMS:
        return amazon_titles(folder, "parent_asin" if form == "2023" else "asin")
    name, head, row = FILMS[form]
    encoding = "latin-1" if form in ("100K", "1M") else "utf-8"
    write(folder / name, head + "".join(map(row.format, "abc")), encoding)
    return folder


def kuairand(folder: Path) -> Path:
    head = "user_id,video_id,date,hourmin,time_ms,is_click,is_like\n"
    rows = "".join(f"{u},{i},20220408,0,{time}000,1,0\n" for u, i, time, _ in EVENTS)
    shown = "u,c,20220408,0,9000,0,0\n"
    (folder / "data").mkdir()
    write(folder / "data/log_standard_4_08_to_4_21.csv", head + rows + shown)
    videos = "".join(f"{item},1,NORMAL,7\n" for item in "abc")
    write(folder / "data/video_features_basic_1k.csv", "video_id,author_id,type,tag\n" + videos)
    return folder


GENRE = {"genres": "Drama, War"}
SETS: list[tuple[str, Any, int, dict[str, str]]] = [
    ("amazon-2014", amazon_2014, 1, {"categories": "x, y"}),
    ("amazon-2014", partial(delimited, "2014"), 1, {}),
    ("amazon-2018", amazon_2018, 1, {}),
    ("amazon-2018", partial(delimited, "2018"), 1, {}),
    ("amazon-2023", amazon_2023, 1000, {}),
    ("amazon-2023", partial(delimited, "2023"), 1000, {}),
    ("movielens", partial(delimited, "100K"), 1, GENRE),
    ("movielens", partial(delimited, "1M"), 1, GENRE),
    ("movielens", partial(delimited, "25M"), 1, GENRE),
    ("recbole", partial(delimited, "recbole"), 1, {"class": "Drama War"}),
    ("kuairand", kuairand, 1000, {}),
]


@pytest.mark.parametrize(("source", "make", "unit", "fields"), SETS)
def test_every_format_gives_the_same_events(
    tmp_path: Path, source: Any, make: Any, unit: int, fields: dict[str, str]
) -> None:
    (tmp_path / "raw").mkdir()
    folder = make(tmp_path / "raw")
    prepared = prepare(folder, tmp_path / "data", PrepareOptions(source))
    table = pq.read_table(tmp_path / "data/events.parquet").to_pydict()
    rows = list(zip(table["user_id"], table["item_id"], table["timestamp"], strict=True))
    assert rows == [(user, item, time * unit) for user, item, time in BY_USER]
    assert prepared.steps[-1].to_json() == {"name": "repeated", "events": 4, "users": 2, "items": 3}
    assert json.loads((tmp_path / "data/prepare.json").read_text()) == prepared.to_json()
    items = pq.read_table(tmp_path / "data/items.parquet").to_pydict()
    assert items["item_id"] == ["a", "b", "c"]
    if source != "kuairand":
        catalog = read_items(tmp_path / "data/items.parquet", fields=tuple(fields))
        assert catalog.titles == ("T'a", "T'b", "T'c")
        assert {name: column[0] for name, column in catalog.fields.items()} == fields
    assert len(read_interactions(tmp_path / "data/events.parquet")) == 4
    # the file of events alone finds the file of items beside it
    file = Path(prepared.event_files[0])
    assert prepare(file, tmp_path / "again", PrepareOptions(source)).items == 3


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_titles_of_films_are_read_in_either_encoding(tmp_path: Path, encoding: str) -> None:
    films = write(tmp_path / "movies.dat", "73::Misérables, Les (1995)::Drama\n", encoding)
    [film] = FORMATS["movielens"].read_items(films)
    assert film["title"] == "Misérables, Les (1995)"


def test_any_table_by_the_names_of_its_columns(tmp_path: Path) -> None:
    table = {"who": ["u", "u", "v"], "what": ["a", "b", "a"], "when": ["2021-01-02"] * 3}
    events = write_table(tmp_path / "e.csv", table | {"stars": ["5", "1", "4"]})
    items = write_table(tmp_path / "i.csv", {"code": ["b", "a", "z"], "label": ["B", "A", "Z"]})
    options = PrepareOptions(
        items=items,
        filters=FilterOptions(min_rating=2),
        columns=EventNames("who", "what", "when"),
        rating_column="stars",
        id_column="code",
        title_column="label",
    )
    prepared = prepare(events, tmp_path / "data", options)
    assert [step.events for step in prepared.steps] == [3, 2, 2, 2]
    rows = pq.read_table(tmp_path / "data/items.parquet").to_pylist()
    assert rows == [{"item_id": "a", "title": "A"}]
    times = pq.read_table(tmp_path / "data/events.parquet")["timestamp"]
    assert times.to_pylist() == [1609545600] * 2
    whole = PrepareOptions(items=items, all_items=True, columns=options.columns, id_column="code")
    assert prepare(events, tmp_path / "all", whole).items == 3


def test_ids_are_titles_if_both_are_one_column(tmp_path: Path) -> None:
    events = write_table(tmp_path / "e.csv", {"user": ["u"], "item": ["a"], "ts": ["1"]})
    items = write_table(tmp_path / "i.csv", {"price": ["1"], "sku": ["a"]})
    options = PrepareOptions(items=items, id_column="sku", title_column="sku")
    prepare(events, tmp_path / "data", options)
    rows = pq.read_table(tmp_path / "data/items.parquet").to_pylist()
    assert rows == [{"item_id": "a", "title": "a", "price": "1"}]


@pytest.mark.parametrize("name", ["item_id", "title"])
def test_another_column_of_a_catalog_replaces_no_ids_or_titles(tmp_path: Path, name: str) -> None:
    events = write_table(tmp_path / "e.csv", {"user": ["u"], "item": ["a"], "ts": ["1"]})
    items = write_table(tmp_path / "i.csv", {"sku": ["a"], "label": ["A"], name: ["b"]})
    options = PrepareOptions(items=items, id_column="sku", title_column="label")
    with pytest.raises(UsageError, match=f"has a column '{name}' beside the one that gets this"):
        prepare(events, tmp_path / "data", options)


def test_events_at_a_url_without_a_catalog_give_ids(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/shop/e.csv", b"user,item,ts\nu,a,1\n")
    prepared = prepare("memory://shop/e.csv", tmp_path / "data")
    assert prepared.event_files == ("memory://shop/e.csv",)
    assert pq.read_table(tmp_path / "data/items.parquet").to_pylist() == [{"item_id": "a"}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("u.data", "u\ta\t5\tsoon\n", "u.data, row 1: the order 'soon' is neither"),
        ("u.data", "u\t\t5\t1\n", "u.data, row 1: the item id is empty"),
        ("u.data", "u\ta\tgood\t1\n", "u.data, row 1: the rating 'good' is no number"),
        ("u.data", "u\ta\t5\t1600000000\nu\tb\t5\t1700000000000\n", "1 in seconds, 1 in milli"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n", "there are no events"),
        ("u.data", "u\ta\n", "u.data, line 1: 2 cells, other rows have 4"),
        ("ratings.dat", "u::a::5\n", "ratings.dat, line 1: 3 cells, a rating has 4"),
        ("ratings.csv", "userId,movieId,rating\nu,a,5\n", "ratings.csv has no column 'timestamp'"),
        ("ratings.csv", "", "ratings.csv is empty"),
        ("All_Beauty_5.json", '{"asin": "a", "overall": 5}\n', "line 1: a review has the keys"),
        ("All_Beauty_5.json", "nothing\n", "line 1: not JSON"),
        ("meta_Beauty.jsonl", "os.system('x')\n", "line 1: neither a JSON object nor a Python"),
        ("meta_Beauty.jsonl", "{" * 5000 + "\n", "line 1: neither"),
        ("meta_Beauty.jsonl", '\n{"title": "x"}\n', "line 2: an item has the key asin"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder, source = tmp_path, "movielens"
    if "Beauty" in name:
        folder, source = amazon_2018(tmp_path), "amazon-2018"
    path = write(folder / name, text)
    options = PrepareOptions(source)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        prepare(path if source == "movielens" else folder, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "u.item").touch()
    options = PrepareOptions("movielens")
    with pytest.raises(DataError, match="has no file of events of movielens"):
        prepare(tmp_path, tmp_path / "out", options)
    with pytest.raises(DataError, match="nothing does not exist"):
        prepare(tmp_path / "nothing", tmp_path / "out", options)
    write(tmp_path / "u.data", "u\ta\t5\t1\n")
    write(tmp_path / "u.item", "a|A film\n")
    with pytest.raises(DataError, match=r"u\.item, line 1: 2 cells are no film"):
        prepare(tmp_path, tmp_path / "out", options)


def test_two_versions_of_one_data_set_are_not_read_together(tmp_path: Path) -> None:
    folder = amazon_2018(tmp_path)
    whole = write(folder / "All_Beauty.json", (folder / "All_Beauty_5.json").read_text())
    with pytest.raises(UsageError, match=r"files of events: All_Beauty.json and All_Beauty_5.json"):
        prepare(folder, tmp_path / "out", PrepareOptions("amazon-2018"))
    assert prepare(whole, tmp_path / "out", PrepareOptions("amazon-2018")).items == 3
    write(folder / "meta_Beauty_2.jsonl", "")
    with pytest.raises(UsageError, match="several files of items") as caught:
        prepare(whole, tmp_path / "x", PrepareOptions("amazon-2018"))
    assert "--items" in str(caught.value.shell_hint)


def test_options_that_do_not_apply_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--user-column applies to --from table"):
        PrepareOptions("movielens", columns=EventNames("who"))
    with pytest.raises(UsageError, match="at least 0"):
        FilterOptions(k_core=-1)
    with pytest.raises(UsageError, match="source must be one of"):
        PrepareOptions("netflix")  # type: ignore[arg-type]
    events = write_table(tmp_path / "e.csv", {"user": ["u"], "item": ["a"], "ts": ["1"]})
    with pytest.raises(UsageError, match="a moment is a number or an ISO date"):
        FilterOptions(until="01/02/2026")
    malformed = write_table(tmp_path / "e.tsv", {"user": [""], "item": ["a"], "ts": ["1"]})
    with pytest.raises(UsageError, match="the events have none") as caught:  # before they are read
        prepare(malformed, tmp_path / "x", PrepareOptions(filters=FilterOptions(min_rating=1)))
    assert "--rating-column names them" in str(caught.value.shell_hint)
    with pytest.raises(DataError, match=r"no event of .* stays: 1 after 'read'.*0 after 'core'"):
        prepare(events, tmp_path / "x", PrepareOptions(filters=FilterOptions(k_core=5)))


@pytest.mark.parametrize(
    ("flag", "option"),
    [
        ("--all-items", {"all_items": True}),
        ("--id-column", {"id_column": "bar"}),
        ("--title-column", {"title_column": "foo"}),
    ],
)
def test_options_of_a_catalog_need_one(tmp_path: Path, flag: str, option: dict[str, Any]) -> None:
    events = write_table(tmp_path / "e.csv", {"user": ["u"], "item": ["a"], "ts": ["1"]})
    with pytest.raises(UsageError, match=f"{flag} requires a catalog"):
        prepare(events, tmp_path / "x", PrepareOptions(**option))
    assert not (tmp_path / "x").exists()


def test_all_items_needs_no_items_where_the_folder_has_a_catalog(tmp_path: Path) -> None:
    options = PrepareOptions("amazon-2018", all_items=True)
    assert prepare(amazon_2018(tmp_path), tmp_path / "data", options).items == 3
    (ratings := tmp_path / "ratings").mkdir()
    (tmp_path / "All_Beauty_5.json").rename(ratings / "All_Beauty_5.json")
    with pytest.raises(UsageError, match="--all-items requires a catalog"):
        prepare(ratings, tmp_path / "x", options)


codes = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40)


@given(codes, st.integers(1, 4), st.integers(1, 4))
def test_the_core_is_a_fixed_point_and_the_largest_one(
    pairs: list[tuple[int, int]], user_min: int, item_min: int
) -> None:
    users = np.array([user for user, _ in pairs], dtype=np.int32)
    items = np.array([item for _, item in pairs], dtype=np.int32)
    left = list(range(len(pairs)))
    while True:  # one user or item at a time: the largest core does not depend on the order
        counts_u = [sum(users[row] == users[other] for other in left) for row in left]
        counts_i = [sum(items[row] == items[other] for other in left) for row in left]
        counts = zip(left, counts_u, counts_i, strict=True)
        drop = next((row for row, u, i in counts if u < user_min or i < item_min), None)
        if drop is None:
            break
        left.remove(drop)
    assert np.flatnonzero(core(users, items, user_min, item_min)).tolist() == left


def test_filters_count_what_they_leave() -> None:
    cells = ["uuuvvw", "abaabc", "121456", ["5", "4", "5", "", "3", "5"]]
    columns = [pa.chunked_array([list(column)]) for column in cells]
    batch = dict(zip(["user", "item", "order", "rating"], columns, strict=True))
    events = collect([(Path("x"), [batch])])
    options = FilterOptions(min_rating=3, since="1", until="6", k_core=2)
    left, steps = filter_events(events, options, catalog={"a", "b"})
    names = ("read", "rating", "window", "catalog", "repeated", "core")
    counts = [(step.name, step.events) for step in steps]
    assert counts == [*zip(names, (6, 5, 4, 4, 3, 0), strict=True)]
    assert len(left) == 0


@pytest.mark.parametrize("digits", [0, 3, 6, 9])
@pytest.mark.parametrize("early", ["1500000000", "20000000"])
def test_dates_are_compared_with_times_of_any_unit(tmp_path: Path, digits: int, early: str) -> None:
    times = [moment + "0" * digits for moment in (early, early, "1700000000")]
    table = {"user": ["u"] * 3, "item": ["a", "b", "c"], "time": times}
    events = write_table(tmp_path / "events.csv", table)
    filters = FilterOptions(since="2023-01-01")
    columns = EventNames("user", "item", "time")
    options = PrepareOptions("table", filters=filters, columns=columns)
    prepared = prepare(events, tmp_path / "out", options)
    steps = [(step.name, step.events) for step in prepared.steps]
    assert steps == [("read", 3), ("window", 1), ("repeated", 1)]


def test_a_late_date_does_not_change_the_unit_of_a_window(tmp_path: Path) -> None:
    dates = ["1971-01-01", "2026-01-01", "9999-12-31"]
    table = {"user": ["u"] * 3, "item": ["a", "b", "c"], "time": dates}
    events = write_table(tmp_path / "events.csv", table)
    filters = FilterOptions(since="1970-06-01", until="2026-06-01")
    prepared = prepare(events, tmp_path / "out", PrepareOptions(filters=filters))
    assert [step.events for step in prepared.steps] == [3, 2, 2]


@pytest.mark.parametrize(
    ("order", "moment", "fits"),
    [
        ("20260301", "2026-06-01", False),
        ("20260301101500", "2026-06-01", False),
        ("7", "2026-06-01", False),
        ("1700000000000", "1800000000", False),
        ("2025-01-01", "20260601", False),
        ("20260301", "20260601", True),
        ("20260301101500", "20260601000000", True),
        ("7", "8", True),
        ("1700000000000", "1800000000000", True),
        ("2025-01-01", "1800000000", True),
    ],
)
def test_a_window_has_the_unit_of_the_times(
    tmp_path: Path, order: str, moment: str, fits: bool
) -> None:
    events = write_table(tmp_path / "e.csv", {"user": ["u"], "item": ["a"], "order": [order]})
    options = PrepareOptions(filters=FilterOptions(until=moment))
    if fits:
        assert prepare(events, tmp_path / "out", options).items == 1
        return
    with pytest.raises(UsageError, match=f"the moment {moment} is not in the unit of the times"):
        prepare(events, tmp_path / "out", options)


def test_nanoseconds_are_not_rounded(tmp_path: Path) -> None:
    times = [1_700_000_000_123_456_789, 1_700_000_000_123_456_790, 1_700_000_000_123_456_788]
    table = {"user": ["u"] * 3, "item": ["a", "a", "b"], "ts": list(map(str, times))}
    events = write_table(tmp_path / "events.csv", table)
    assert prepare(events, tmp_path / "out").steps[-1].events == 3
    prepared = pq.read_table(tmp_path / "out/events.parquet")
    assert prepared["item_id"].to_pylist() == ["b", "a", "a"]
    assert prepared["timestamp"].to_pylist() == sorted(times)


def test_large_ratings_are_not_rounded(tmp_path: Path) -> None:
    table = {"user": ["u"] * 2, "item": ["a", "b"], "ts": ["1", "2"]}
    watched = ["20000001", "4.1"]  # a file of float32 would be refused by split, too
    events = write_table(tmp_path / "events.csv", table | {"rating": watched})
    prepare(events, tmp_path / "out", PrepareOptions(filters=FilterOptions(min_rating=4.1)))
    columns = read_columns(tmp_path / "out/events.parquet", ["rating"])
    assert columns["rating"].to_pylist() == watched


def test_items_without_an_id_are_left_out(tmp_path: Path) -> None:
    events = write_table(tmp_path / "e.csv", {"user": ["u"], "item": ["a"], "ts": ["1"]})
    items = write_table(tmp_path / "i.csv", {"item_id": ["a", "", "b"], "title": ["A", "B", "C"]})
    prepared = prepare(events, tmp_path / "data", PrepareOptions(items=items, all_items=True))
    assert prepared.items == 2
    assert pq.read_table(tmp_path / "data/items.parquet")["item_id"].to_pylist() == ["a", "b"]
