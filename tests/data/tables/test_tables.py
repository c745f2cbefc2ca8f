import csv
import gzip
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.digests import digest_strings
from sidtool.base.errors import DataError
from sidtool.data.tables import delimited, opening, parquet
from sidtool.data.tables.json_tables import parse_list
from sidtool.data.tables.tables import column_batches, column_names, read_columns
from tests.data.tables.files import CONTAINERS, write_table

cells = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)


@settings(max_examples=60)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_every_container_is_read_back(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    # a row of one empty cell would be a blank line, so there is always a third column
    numbers = [str(n) for n in range(len(rows))]
    table = {"a": [a for a, _ in rows], "b": [b for _, b in rows], "n": numbers}
    is_recbole = not any("\n" in cell or "\t" in cell for row in rows for cell in row)  # no quotes
    for name in (*CONTAINERS, "x.inter") if is_recbole else CONTAINERS:
        path = write_table(tmp_path / name, table)
        assert column_names(path) == ("a", "b", "n")
        read = read_columns(path, ["b", "a"])
        columns = {key: column.to_pylist() for key, column in read.items()}
        assert columns == {"a": table["a"], "b": table["b"]}, name


def test_recbole_names_lose_their_type_and_quotes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "ml.item"
    path.write_text('item_id:token\ttitle:token_seq\n1\t"Heat\n2\tThe "Rock"\n')
    assert column_names(path) == ("item_id", "title")
    assert read_columns(path, ["title"])["title"].to_pylist() == ['"Heat', 'The "Rock"']


@pytest.mark.parametrize(
    "text", ['{"0": {"t": "a"}, "7": {"t": "b"}}', '{\n"0": {"t": "a"},\n"7": {"t": "b"}\n}']
)
def test_the_keys_of_a_json_object_are_a_column(tmp_path: Path, text: str) -> None:
    path = tmp_path / "item.json"
    path.write_text(text)
    columns = read_columns(path, ["item_id", "t"])
    assert (columns["item_id"].to_pylist(), columns["t"].to_pylist()) == (["0", "7"], ["a", "b"])


def test_mixed_types_become_text(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "price": 3.5},
        {"id": "2", "price": "$4"},
        {"id": "3", "price": None, "tags": ["a", ["b"]]},
        {"price": 1},
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    columns = read_columns(path, ["id", "price", "tags"])
    assert columns["id"].to_pylist() == ["1", "2", "3", None]
    assert columns["price"].to_pylist() == ["3.5", "$4", None, "1"]
    assert columns["tags"].to_pylist() == [None, None, '["a", ["b"]]', None]
    assert read_columns(path, ["id"], ids=["id"])["id"].to_pylist() == ["1", "2", "3", None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"id": "1"}\n\n{"id": \n', "line 3: not JSON"),
        ("x.jsonl", b'{"id": "1"}\n[1]\n', "line 2: not a JSON object"),
        ("x.jsonl", b'{"id": "1"}\n{"id": "\xff"}\n', "line 2: not UTF-8"),
        ("x.json", b'{\n"0": {"id": "1"},\n"1": }\n', "line 3: not JSON"),
        ("x.json", b"[1, 2]", "neither a list of objects"),
        ("x.json", b"[]", "holds no rows"),
        ("x.csv", b'id,b\n1,"x\ny"\n\n2,3,4\n', "line 5: 3 cells, the header has 2"),
        ("x.csv", b"b,id\n1,2\n3,\xff\n", "line 3: not UTF-8"),
        ("x.jsonl", b'{"id": "1"}\n' * 2000 + b'{"id": "\xff"}\n', "line 2001: not UTF-8"),
        ("x.csv", b'id,"b\n' + b"x" * (1 << 18), "cannot be read"),
        ("x.csv", b"", "is empty"),
        ("x.csv", b"id,t\xef\n1,2\n", "line 1: not UTF-8"),
        ("x.csv", b"id,id\n1,2\n", "two columns named 'id'"),
        ("x.inter", b'id:token\tb:token\n"1\n', "line 2: 1 cells, the header has 2"),
        ("x.parquet", b"PAR1", "cannot be read"),
        ("x.csv.gz", b"id\n1\n", "cannot be read"),
        ("x.jsonl.gz", gzip.compress(b'{"id": "1"}\n' * 99, mtime=0)[:-9], "cannot be read"),
        ("x.docx", b"", "the name does not end in a known suffix"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        [column_names(path), read_columns(path, ["id"])]
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("separator", ["\t", ";", ",", "|"])
@pytest.mark.parametrize("name", ["x.dat", "x.txt", "x.csv"])
def test_the_header_says_how_cells_are_separated(tmp_path: Path, name: str, separator: str) -> None:
    rows = ["id", "title"], ["01", "A lamp"], ["02", "A rug"]
    (tmp_path / name).write_text("".join(f"{separator.join(row)}\n" for row in rows))
    table = read_columns(tmp_path / name, ["title", "id"])
    assert table["id"].to_pylist() == ["01", "02"]
    assert table["title"].to_pylist() == ["A lamp", "A rug"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("x.csv", "split"):  # a folder has no suffix
        with pytest.raises(DataError, match=f"{name} does not exist"):
            column_names(tmp_path / name)


@given(st.lists(st.one_of(st.text(), st.integers(), st.lists(st.text(), max_size=2)), max_size=4))
def test_lists_are_read_in_both_spellings(members: list[object]) -> None:
    assert parse_list(json.dumps(members)) == members
    assert parse_list(f" {members!r} ") == members
    assert parse_list(f"[{members!r},]") == [members]


NO_LISTS = ["", "[", "[a]", "a]", "[1, 2", "[,]", "['a',,]", "['a' 'b']", "['a'], ['b']"]


@pytest.mark.parametrize(
    "text", [*NO_LISTS, "[__import__('os')]", "[" * 5000 + "]" * 5000, "['\\ud800']", "['\\x']"]
)
def test_text_that_is_no_list_gives_none(text: str) -> None:
    assert parse_list(text) is None


@given(
    st.lists(st.lists(st.text(max_size=3), max_size=3), max_size=3),
    st.lists(st.lists(st.text(max_size=3))),
)
def test_digests_of_different_columns_differ(one: list[list[str]], other: list[list[str]]) -> None:
    assert (digest_strings(*one) == digest_strings(*other)) == (one == other)


CSV_HEAD = b"id,title\n1,Kit\n"


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.csv.gz"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (b'2,"Lamp\n3,Soap\n4,Rug\n', "line 3: cannot be read .a quote is opened and never closed"),
        (b'2,Lamp\n3,"Soap', "line 4: cannot be read .a quote is opened and never closed"),
        (b'2,"Lamp\n3,"Soap"\n4,Rug\n', "line 3: cannot be read .text follows a closing quote"),
        (b'2,"a 5" pan"\n3,b\n', "line 3: cannot be read .text follows a closing quote"),
        (b'2,"Lamp" \n', "line 3: cannot be read .text follows"),
        (b'2,"a\nb"\n3\n', "line 5: 1 cells, the header has 2"),
        (b'2,"a",b\n', "line 3: 3 cells, the header has 2"),
        (b"2,a,b\n", "line 3: 3 cells, the header has 2"),
        (b'2,"a"\n"\xff",b\n', "line 4: not UTF-8"),
        (b'2,"' + b"x\n" * (1 << 17), "line 3: cannot be read"),
    ],
)  # fmt: skip
def test_a_quote_that_does_not_close_a_cell_is_refused_with_its_row(
    tmp_path: Path, name: str, rows: bytes, message: str
) -> None:
    content = CSV_HEAD + rows
    if ".tsv" in name:
        content = content.replace(b",", b"\t")
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(DataError, match=message) as caught:
        read_columns(path, ["id"])
    assert str(caught.value).startswith(f"{path}, line")


@settings(max_examples=50)
@given(
    text=st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", '",', ',"', "a", "é"])).map(
        "".join
    ),
    block_bytes=st.sampled_from([7, 16, 1 << 24]),
    marked=st.booleans(),
)
def test_a_csv_file_is_read_as_pythons_strict_reader_reads_it(
    tmp_path: Path, text: str, block_bytes: int, marked: bool
) -> None:
    content = "id,b\n1,2\n" + text
    try:
        rows = [row for row in csv.reader(io.StringIO(content, newline=""), strict=True) if row]
    except csv.Error:
        rows = [[]]
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbf" * marked + content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK_BYTES", block_bytes)
        patch.setattr(delimited, "SCAN_BYTES", 1)
        if any(len(row) != 2 for row in rows):
            with pytest.raises(DataError, match=r"x\.csv, line "):
                read_columns(path, ["b"])
        else:
            assert read_columns(path, ["b"])["b"].to_pylist() == [row[1] for row in rows[1:]]


def test_a_line_feed_in_a_column_name_makes_no_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'"item\nid","ti""tle"\n1,Kit\n2,Lamp\n')
    assert column_names(path) == ("item\nid", 'ti"tle')
    columns = read_columns(path, ["item\nid", 'ti"tle'])
    assert columns["item\nid"].to_pylist() == ["1", "2"]
    assert columns['ti"tle'].to_pylist() == ["Kit", "Lamp"]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.csv")
    (tmp_path / "y.csv").symlink_to("/dev/zero")
    (tmp_path / "z.parquet").mkdir()
    os.mkfifo(tmp_path / "z.parquet" / "part.parquet")
    for name in ("x.csv", "y.csv", "z.parquet"):
        with pytest.raises(DataError, match="is neither a regular file nor a folder"):
            read_columns(tmp_path / name, ["id"])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        column_names(tmp_path / "folder.csv")


@pytest.mark.parametrize("name", ["x.csv.gz", "x.inter.gz", "x.jsonl.gz", "x.json.gz"])
def test_a_compressed_file_that_expands_without_end_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "FREE_BYTES", 1 << 16)
    row, head = b'{"id": "1"}\n', b""
    if "json" not in name:
        row, head = b"1\n", b"id\n"
    (tmp_path / name).write_bytes(gzip.compress(head + row * 100_000))
    with pytest.raises(DataError, match="expands to more than 100 times its size"):
        read_columns(tmp_path / name, ["id"])


def test_columns_in_the_names_of_folders_are_read_at_once_and_in_batches(tmp_path: Path) -> None:
    for day in ("01", "1"):
        folder = tmp_path / "x.parquet" / f"day={day}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"user": [f"u{day}", "v"]}), folder / "part.parquet")
    expected = {"user": ["u01", "v", "u1", "v"], "day": ["01", "01", "1", "1"]}
    for names in (["user", "day"], ["day"]):
        table = read_columns(tmp_path / "x.parquet", names, ids=["user"])
        assert {name: table[name].to_pylist() for name in names} == {n: expected[n] for n in names}
        batches = list(column_batches(tmp_path / "x.parquet", names, ids=["user"]))
        for name in names:
            cells = [cell for batch in batches for cell in batch[name].to_pylist()]
            assert cells == expected[name]


@pytest.mark.parametrize("encoding", ["dictionary", "PLAIN", "DELTA_BYTE_ARRAY"])
def test_parts_of_a_parquet_file_have_all_rows(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "PART_BYTES", 1 << 12)
    texts = ["a" * (row % 500) for row in range(1000)]
    table = pa.table(
        {
            "text": texts,
            "list": [[text] * (row % 3) for row, text in enumerate(texts)],
            "map": pa.array([[("k", text)] for text in texts], pa.map_(pa.string(), pa.string())),
            "n": range(1000),
        }
    )
    options: dict[str, object] = {}
    if encoding != "dictionary":
        options = {"use_dictionary": ["n"], "column_encoding": {"text": encoding}}
    pq.write_table(table, tmp_path / "x.parquet", **options)
    batches = list(column_batches(tmp_path / "x.parquet", ["text", "list", "n"]))
    assert len(batches) > 50
    for name in ("text", "n"):
        cells = [cell for batch in batches for cell in batch[name].to_pylist()]
        assert cells == list(map(str, table[name].to_pylist()))
    assert list(parquet.parquet_rows(tmp_path / "x.parquet")) == table.to_pylist()
    pq.write_table(pa.table({"text": ["a" * 5000]}), tmp_path / "long.parquet", **options)
    with pytest.raises(DataError, match="has a row of more than 4096 bytes"):
        list(column_batches(tmp_path / "long.parquet", ["text"]))


def test_a_type_without_texts_is_spelled_as_json(tmp_path: Path) -> None:
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.eye(2))
    pq.write_table(pa.table({"x": tensors}), tmp_path / "x.parquet")
    assert read_columns(tmp_path / "x.parquet", ["x"])["x"].to_pylist() == [
        "[1.0, 0.0]",
        "[0.0, 1.0]",
    ]


def test_many_equal_values_of_a_parquet_file_are_read_in_batches(tmp_path: Path) -> None:
    rows = 5_000_000
    codes = pa.array(np.zeros(rows, dtype=np.int8))
    column = pa.DictionaryArray.from_arrays(codes, pa.array(["user-1"]))
    pq.write_table(pa.table({"user": column}), tmp_path / "x.parquet")
    batches = column_batches(tmp_path / "x.parquet", ["user"], ids=["user"])
    assert sum(len(batch["user"]) for batch in batches) == rows
    with pytest.raises(DataError, match=r"expands from \d+ bytes to more than \d+ in memory"):
        read_columns(tmp_path / "x.parquet", ["user"])


def test_a_table_of_too_many_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(",".join(f"c{number}" for number in range(20_000)) + "\n")
    with pytest.raises(DataError, match="has 20000 columns, more than 16384"):
        column_names(tmp_path / "x.csv")


def test_a_file_that_is_read_in_batches_is_not_held(tmp_path: Path) -> None:
    """pyarrow would keep what it reads ahead until the file is closed."""
    rng = np.random.default_rng(0)
    held = []
    for groups in (8, 40):
        path = tmp_path / f"{groups}.parquet"
        with pq.ParquetWriter(path, pa.schema([("id", pa.string())])) as writer:
            for _ in range(groups):
                ids = pa.array(rng.integers(0, 1 << 62, 20_000)).cast(pa.string())
                writer.write_table(pa.table({"id": ids}))
        before = pa.default_memory_pool()
        pool = pa.proxy_memory_pool(before)
        pa.set_memory_pool(pool)
        try:
            assert sum(len(batch["id"]) for batch in column_batches(path, ["id"], ids=["id"]))
        finally:
            pa.set_memory_pool(before)
        held.append(pool.max_memory())
    assert held[1] < 1.2 * held[0]
