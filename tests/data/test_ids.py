from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.data.items import read_items
from sidtool.data.tables.tables import column_names, read_columns
from tests.data.tables.files import CONTAINERS, write_table

LITERAL = [" a", "a ", "\ta", "a\xa0", "A", "a", "1", "01", "1.0", "1e3", "nan", "null"]
LITERAL += ["é", "e\u0301"]
BAD_IDS = {
    "NaN": "NaN",
    "1.0": "1.0",
    "1e2": "1e2|100.0",
    "true": "true",
    "[1]": r"\[1\]",
    '{"a": 1}': "a",
    '"\\ud83d"': r"lone surrogate \\ud83d",
    "-Infinity": "-Infinity",
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_an_id_stays_as_it_stands(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / name, {"item_id": LITERAL, "title": ["t"] * len(LITERAL)})
    assert list(read_items(path).ids) == LITERAL


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
@pytest.mark.parametrize("value", BAD_IDS)
def test_a_json_value_that_is_no_id_is_refused(tmp_path: Path, name: str, value: str) -> None:
    rows = ['{"item_id": "a", "title": "t"}', f'{{"item_id": {value}, "title": "t"}}']
    path = tmp_path / name
    path.write_text("\n".join(rows) if name == "x.jsonl" else f"[{', '.join(rows)}]")
    place = "line 2" if name == "x.jsonl" else "row 2"
    with pytest.raises(DataError, match=f"{name}, {place}.*{BAD_IDS[value]}") as caught:
        read_items(path)
    assert "\n" not in str(caught.value)


def test_whole_numbers_keep_their_digits(tmp_path: Path) -> None:
    digits = ["1", "-7", "9" * 19, "1" + "0" * 30, "8" * 5000]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f'{{"item_id": {text}, "price": {text}.50}}\n' for text in digits))
    columns = read_columns(path, ["item_id", "price"], ids=["item_id"])
    assert columns["item_id"].to_pylist() == digits
    assert columns["price"].to_pylist() == [f"{text}.50" for text in digits]


def test_a_number_and_its_text_are_one_id(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"item_id": 1, "title": "a"}\n{"item_id": "1", "title": "b"}\n')
    with pytest.raises(DataError, match="item id '1' is in rows 1 and 2"):
        read_items(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '{"0": {"title": "a"}, "0": {"title": "b"}}', "the key '0' occurs twice"),
        ("x.json", '{"0": {"title": "a"},\n "0": {"title": "b"}}', "the key '0' occurs twice"),
        ("x.json", '[{"item_id": "a", "item_id": "b"}]', "'item_id' occurs twice"),
        ("x.jsonl", '{"item_id": "a", "item_id": "b"}', "line 1.*'item_id' occurs twice"),
        ("x.jsonl", '{"item_id": 1, "title": "a", "title": "b"}', "line 1.*'title' occurs twice"),
        ("x.json", '{"0": {"item_id": "1", "title": "a"}}', "item '0': its 'item_id' is '1'"),
        ("x.jsonl", '{"item_id": 1, "title": ' + "[" * 100_000, "line 1.*too deep"),
        ("x.json", '{"0":' * 100_000, "too deep"),
        ("x.jsonl", '{"item_id": "a", "title": "\\udc00"}', "line 1, 'title'.*lone surrogate"),
        ("x.jsonl", '{"item_id": "a"}\x00', "line 1: not JSON"),
        ("x.jsonl", '{"item_id": "a"}{"item_id": 1}', "line 1: not JSON"),
    ],
)
def test_json_that_would_lose_or_change_a_value_is_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_items(tmp_path / name)


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.ndjson", "x.json", "x.inter"])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path / name, {"item_id": ["a", "b"], "title": ["t", "u"]})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert column_names(path) == ("item_id", "title")
    assert read_items(path).ids == ("a", "b")


def arrow(values: list[object], kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind)


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (arrow(["a", "é"], pa.large_string()), ["a", "é"]),
        (arrow([b"a", "é".encode()], pa.binary()), ["a", "é"]),
        (arrow([b"ab", b"cd"], pa.binary(2)), ["ab", "cd"]),
        (arrow([2**64 - 1, 0], pa.uint64()), [str(2**64 - 1), "0"]),
        (arrow(["a", "b"], pa.string()).dictionary_encode(), ["a", "b"]),
        (arrow([-1, 3], pa.int8()).dictionary_encode(), ["-1", "3"]),
    ],
)
def test_parquet_ids_are_text_or_integers(tmp_path: Path, column: pa.Array, ids: list[str]) -> None:
    pq.write_table(pa.table({"item_id": column, "title": ["t", "u"]}), tmp_path / "x.parquet")
    assert list(read_items(tmp_path / "x.parquet").ids) == ids


@pytest.mark.parametrize(
    "column",
    [
        arrow([1.0, 2.0], pa.float64()),
        arrow([1.0, float("nan")], pa.float32()),
        arrow([True, False], pa.bool_()),
        arrow([[1], [2]], pa.list_(pa.int64())),
        arrow([{"a": 1}, {"a": 2}], pa.struct({"a": pa.int64()})),
        arrow([b"\xff", b"a"], pa.binary()),
        arrow([b"\xff\xfe", b"ab"], pa.binary(2)),
        arrow([0, 1], pa.timestamp("s")),
        arrow([0, 1], pa.date32()),
        arrow([b"a", b"\xff"], pa.binary()).view(pa.string()),
        arrow([None, None], pa.null()),
    ],
)
def test_other_parquet_ids_are_refused(tmp_path: Path, column: pa.Array) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"item_id": column, "title": ["t", "u"]}), path)
    with pytest.raises(DataError, match=r"item_id|item id|cannot be read") as caught:
        read_items(path)
    assert str(path) in str(caught.value)


def test_parquet_text_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = {
        "item_id": ["a", "b"],
        "year": arrow([1999.0, float("nan")], pa.float64()),
        "raw": arrow([b"x", None], pa.binary()),
        "tags": arrow([[b"x", b"y"], None], pa.list_(pa.binary())),
        "torn": arrow([b"\xff", None], pa.binary()),
        "lists": arrow([[b"\xff"], None], pa.list_(pa.binary())),
    }
    pq.write_table(pa.table(table), path)
    columns = read_columns(path, ["year", "raw", "tags"])
    assert columns["year"].to_pylist() == ["1999", None]
    assert columns["raw"].to_pylist() == ["x", None]
    assert columns["tags"].to_pylist() == ['["x", "y"]', None]
    for name in ("torn", "lists"):
        with pytest.raises(DataError, match=name):
            read_columns(path, [name])


def test_columns_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["item_id", "item_id"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="two columns named 'item_id'"):
        read_items(tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("item_id, item_id,title\n1,2,t\n")
    with pytest.raises(UsageError, match="look like the item id: 'item_id' and ' item_id'"):
        read_items(tmp_path / "x.csv")
    assert read_items(tmp_path / "x.csv", id_column=" item_id").ids == ("2",)
