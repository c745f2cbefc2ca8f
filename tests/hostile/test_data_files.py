import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.documents import parse_yaml
from sidtool.base.errors import DataError
from sidtool.data import read_items, read_queries, read_vectors
from sidtool.data.split import Split, open_split
from sidtool.data.split.files import write_split
from sidtool.data.split.windows import read_windows
from sidtool.data.tables.parquet import PART_BYTES
from sidtool.data.tables.tables import column_batches, read_columns
from sidtool.integrations.cluster.shards import list_shards
from sidtool.integrations.formats.minionerec import read_minionerec
from sidtool.integrations.formats.openonerec import read_openonerec
from tests.data.split.lines import of_lines, write_lines
from tests.data.split.test_files import splits
from tests.hostile.documents import replaced
from tests.hostile.harness import call, cases, count
from tests.hostile.limits import check_seconds, limited
from tests.sealed import reseal

# Damage

PIECES = [
    *(b'"', b'""', b'"\n', b',"', b'",', b",", b"\t", b"\n", b"\r", b"\r\n", b"\x00", b"\xff"),
    *(b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8", b"[", b"{", b"}", b"]", b":", b"\\", b"\\u"),
    *(b"\\ud800", b"NaN", b"null", b"true", b"-", b"1e999", b"0", b" ", b"'", b"\x1b[2J"),
    *(b"9" * 5000, b"[" * 5000, b'{"a":' * 3000, b"(" * 5000),
]
"""Bytes that mean something to a parser."""

kinds = st.sampled_from(["insert", "delete", "repeat", "flip"])
edit = st.tuples(kinds, st.floats(0, 1), st.sampled_from(PIECES), st.integers(1, 8))
edits = st.lists(edit, min_size=1, max_size=3)
Changes = list[tuple[str, float, bytes, int]]


def damaged(content: bytes, changes: Changes) -> bytes:
    """A content with pieces inserted, or with bytes removed, repeated or changed."""
    for kind, share, piece, length in changes:
        at = int(share * len(content))
        part = content[at : at + length]
        if kind == "insert":
            part = piece + part
        elif kind == "repeat":
            part = part * 2
        elif kind == "flip":
            part = bytes(byte ^ (1 << length % 8) for byte in part)
        else:
            part = b""
        content = content[:at] + part + content[at + length :]
    return content


# Tables

CSV = b'item_id,title,brand\na,"Kit, blue",Lux\nb,"Lamp 5"" ""x""",\nc,"two\nlines",\xc3\xa9\n'
ROWS = [{"item_id": "a", "title": 'Lamp 5" "x"'}, {"item_id": "c", "title": "two\nlines é"}]
TABLES = {
    "x.csv": CSV,
    "x.tsv": CSV.replace(b",", b"\t"),
    "x.item": b"item_id\ttitle\tbrand\na\tKit, blue\tLux\nb\tLamp\t\n",
    "x.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "x.json": json.dumps(ROWS, ensure_ascii=False).encode(),
    "keyed.json": json.dumps({row["item_id"]: row for row in ROWS}, indent=1).encode(),
}


@cases(240)
@given(name=st.sampled_from(list(TABLES)), changes=edits, is_compressed=st.booleans())
def test_tables(tmp_path: Path, name: str, changes: Changes, is_compressed: bool) -> None:
    content = damaged(TABLES[name], changes)
    path = tmp_path / name
    path.write_bytes(content)
    if is_compressed and "json" not in name:
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress(content, 1))
    items = call(read_items, path, input_bytes=len(content))
    if items is not None:
        assert "�" not in "".join(items.ids) or "�".encode() in content
        assert len(set(items.ids)) == len(items.ids) > 0
        "".join((*items.ids, *items.texts)).encode()


def coded(text: str, rows: int) -> pa.DictionaryArray:
    indices = pa.array(np.zeros(rows, dtype=np.int32))
    return pa.DictionaryArray.from_arrays(indices, pa.array([text]))


POOLS = []
"""What a test allocated in: a pool must outlive its buffers."""


@contextmanager
def counted_memory() -> Iterator[Any]:
    """A pool that knows the most bytes that pyarrow had at once in a block."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        yield pool
    finally:
        pa.set_memory_pool(usual)


TEXT = "x" * 50_000
PAGE_SIZES = ("row_group_size", "max_rows_per_page")
SMALL_FILES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "repeated": (lambda: coded(TEXT, 1 << 13), {}),
    "in-lists": (lambda: pa.FixedSizeListArray.from_arrays(coded(TEXT, 3000), 4), {}),
    "in-maps": (
        lambda: pa.MapArray.from_arrays(np.arange(3001), coded("k", 3000), coded(TEXT, 3000)),
        {},
    ),
    "prefixes": (
        lambda: pa.array([f"{TEXT}{row}" for row in range(3000)]),
        {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
    ),
    "plain": (lambda: pa.array([TEXT] * 3000), {"use_dictionary": False}),
    "one-cell": (lambda: pa.array(["x" * (100 << 20)]), {}),
    "short": (lambda: coded("ab", 4 << 20), dict.fromkeys(PAGE_SIZES, 4 << 20)),
}
"""What takes 150 to 400 MB from files of some kilobytes."""


@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_small_parquet_file_takes_little_memory(tmp_path: Path, name: str) -> None:
    make_column, options = SMALL_FILES[name]
    column = make_column()
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"title": column}), path, compression="zstd", **options)
    assert path.stat().st_size < 20_000
    # the process keeps for a while what pyarrow has freed, so its own memory says less
    most, resident = 4 * PART_BYTES, 16 * PART_BYTES

    def count_rows() -> int:
        return sum(len(batch["title"]) for batch in column_batches(path, ["title"]))

    with counted_memory() as pool:
        assert call(read_columns, path, ["title"], memory=resident) is None
    assert pool.max_memory() <= most
    with counted_memory() as pool:
        rows = call(count_rows, memory=resident, seconds=20)
    assert pool.max_memory() <= most
    assert rows == (None if name in ("plain", "one-cell", "short") else len(column))


def test_pages_of_which_the_footer_says_nothing_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"title": pa.array(["x" * (100 << 20)])}), path, compression="zstd")
    content = path.read_bytes()
    claimed = varint(pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size)
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    assert content.count(claimed, start) >= 1
    small = varint(100, len(claimed))
    path.write_bytes(content[:start] + content[start:].replace(claimed, small))
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).total_uncompressed_size == 100
    assert call(read_columns, path, ["title"]) is None


def varint(number: int, length: int = 0) -> bytes:
    """A whole number as Thrift writes it, in so many bytes or more."""
    number *= 2  # zigzag
    digits = bytearray()
    while number or len(digits) < length or not digits:
        digits.append(number & 127 | 128)
        number >>= 7
    digits[-1] &= 127
    return bytes(digits)


def test_columns_that_share_their_pages_are_refused(tmp_path: Path) -> None:
    pages = bytes.fromhex("15001500150000") * 10  # of no bytes
    size = varint(len(pages))
    column = b"\x15\x0c\x19\x15\0\x19\x18\7item_id\x15\0\x16\2\x16" + size
    column += b"\x16" + size + b"\x26\x08\0"  # its first page is that of every column
    group = b"\x19\x1c\x26\x08\x1c" + column + b"\0\x16" + size + b"\x16\2\0"
    schema = b"\x48\6schema\x15\2\0\x15\x0c\x25\2\x18\7item_id\x25\0\0"
    n_groups = 14
    footer = b"\x15\2\x19\x2c" + schema + b"\x16" + varint(n_groups)
    footer += bytes([0x19, n_groups << 4 | 12]) + group * n_groups + b"\0"
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1" + pages + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert pq.ParquetFile(path).metadata.num_rows == n_groups
    pages_read = n_groups * len(pages)
    with pytest.raises(DataError, match=rf"claims columns of {pages_read} bytes in \d+ bytes"):
        read_columns(path, ["item_id"])


# Vectors

STORED = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def vector_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("vectors")
    np.save(folder / "x.npy", STORED)
    lists = pa.FixedSizeListArray.from_arrays(STORED.ravel(), 3)
    pq.write_table(pa.table({"item_id": IDS, "vector": lists}), folder / "x.parquet")
    group = zarr.open_group(zarr.storage.ZipStore(folder / "x.zarr.zip", mode="w"), mode="w")
    group["vectors"] = STORED
    group.create_array("ids", data=np.array(IDS, dtype=np.dtypes.StringDType()))
    group.store.close()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@cases(60)
@given(name=st.sampled_from(["x.npy", "x.parquet", "x.zarr.zip"]), changes=edits)
def test_vectors(
    tmp_path: Path, vector_files: dict[str, bytes], name: str, changes: Changes
) -> None:
    content = damaged(vector_files[name], changes)
    (tmp_path / name).write_bytes(content)
    ids = None if name == "x.npy" else IDS
    vectors = call(read_vectors, tmp_path / name, ids, input_bytes=len(content))
    if vectors is not None:
        assert np.isfinite(vectors).all()
        assert vectors.ndim == 2


def test_the_pages_of_vectors_are_bounded(tmp_path: Path) -> None:
    n_values = 5_000_000
    lists = pa.ListArray.from_arrays(pa.array([0, n_values]), pa.array(np.zeros(n_values)))
    path = tmp_path / "x.parquet"
    table = pa.table({"item_id": ["a"], "vector": lists})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    content = path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    claimed = varint(n_values)
    footer = content[start:].replace(claimed, varint(1, len(claimed)))
    path.write_bytes(content[:start] + footer)
    assert pq.ParquetFile(path).metadata.row_group(0).column(1).num_values == 1
    for read in (read_vectors, lambda path: list_shards(str(path))[0].fetch(tmp_path)):
        with pytest.raises(DataError, match=r"a row group of \d+ bytes expands to"):
            read(path)


keys = st.sampled_from(["name", "configuration", "chunk_shape"])
json_values = st.recursive(
    st.sampled_from([None, True, -1, 0, 1, 2, 3, 4, 10**9, 10**18, 10**400, 1.5, "", "x", "|O"]),
    lambda members: st.lists(members, max_size=3) | st.dictionaries(keys, members),
    max_leaves=4,
)


METADATA_KEYS = [
    *("shape", "data_type", "chunk_grid", "chunk_shape", "codecs", "fill_value", "node_type"),
    *("zarr_format", "chunk_key_encoding", "attributes", "storage_transformers"),
]


@cases(40)
@given(
    array=st.sampled_from(["vectors", "ids"]), key=st.sampled_from(METADATA_KEYS), value=json_values
)
def test_zarr_metadata(
    tmp_path_factory: pytest.TempPathFactory, array: str, key: str, value: object
) -> None:
    folder = tmp_path_factory.getbasetemp() / "hostile.zarr"
    if not folder.exists():
        group = zarr.open_group(folder, mode="w")
        group["vectors"] = STORED
        group.create_array("ids", data=np.array(IDS, dtype=np.dtypes.StringDType()))
    file = folder / array / "zarr.json"
    metadata = json.loads(file.read_text())
    if key == "chunk_shape":
        metadata["chunk_grid"]["configuration"][key] = value
    else:
        metadata[key] = value
    with replaced(file, json.dumps(metadata).encode()):
        vectors = call(read_vectors, folder, IDS)
    if vectors is not None and key != "data_type":
        np.testing.assert_array_equal(vectors, STORED)


# Splits, queries, windows and maps


SplitFiles = dict[str, tuple[Split, dict[str, bytes]]]


@pytest.fixture(scope="module")
def split_files(tmp_path_factory: pytest.TempPathFactory) -> SplitFiles:
    """A split and its files, in columns and in lines."""
    folder = tmp_path_factory.mktemp("splits")
    split = splits(folder)[0]
    write_split(split, folder / "parquet")
    write_lines(split, folder / "jsonl")
    return {
        kind: (made, {path.name: path.read_bytes() for path in (folder / kind).iterdir()})
        for kind, made in (("parquet", split), ("jsonl", of_lines(split)))
    }


@cases(40)
@given(
    kind=st.sampled_from(["parquet", "jsonl"]),
    part=st.sampled_from(["train", "valid", "test", "split"]),
    changes=edits,
    is_signed=st.booleans(),
)
def test_split_folders(
    tmp_path: Path, split_files: SplitFiles, kind: str, part: str, changes: Changes, is_signed: bool
) -> None:
    split, files = split_files[kind]
    name = f"{part}.{'json' if part == 'split' else kind}"
    folder = tmp_path / kind
    folder.mkdir(exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    content = damaged(files[name], changes)
    (folder / name).write_bytes(content)
    if is_signed and name != "split.json":
        listed = json.loads(files["split.json"])["files"]
        listed[name] = hashlib.sha256(content).hexdigest()
        reseal(folder / "split.json", {"files": listed})
    read = call(open_split, folder, input_bytes=len(content))
    if read is not None:
        # the damage is in blanks, or in a key that nobody reads
        assert read.reference.digest == split.reference.digest
        assert (read.train, read.valid, read.test) == (split.train, split.valid, split.test)


def parquet_map() -> bytes:
    """A map of items as OpenOneRec stores one."""
    stream = io.BytesIO()
    pq.write_table(pa.table({"pid": [3, 20], "sid": [[5, 0], [1, 2]]}), stream)
    return stream.getvalue()


CONTENTS = {
    "queries": b'{"item": "i3", "text": "a film"}\n{"item": 3, "text": "x", "user": "u"}\n',
    "windows": b'{"user_id": "u", "history_item_id": "[\'a\', \'b\']", "item_id": "c"}\n',
    "index": b'{"0": ["<a_5>", "<b_0>"], "1": ["<a_2>", "<b_3>"], "10": ["<a_2>", "<b_1>"]}',
    "map": parquet_map(),
}


@cases(190)
@given(kind=st.sampled_from(list(CONTENTS)), changes=edits)
def test_queries_windows_and_maps(tmp_path: Path, kind: str, changes: Changes) -> None:
    content = damaged(CONTENTS[kind], changes)
    path = tmp_path / ("x.parquet" if kind == "map" else "x.jsonl")
    path.write_bytes(content)
    if kind == "queries":
        queries = call(read_queries, path, input_bytes=len(content)) or ()
        texts = [text for query in queries for text in (query.item, query.text, query.user or "x")]
    elif kind == "windows":
        windows = call(read_windows, path, input_bytes=len(content)) or ()
        texts = [text for window in windows for text in (window.user, window.item, *window.history)]
    else:
        read = read_openonerec if kind == "map" else read_minionerec
        bundle = call(read, path, name="x", input_bytes=len(content))
        texts = list(bundle.items.ids) if bundle is not None else []
    assert all(text.encode() for text in texts)


# Options files and commands

YAML_PIECES = [
    *("a: ", "b: ", "- ", "[", "]", "{", "}", "&x ", "*x", "<<: ", "!!int ", "!!timestamp ", "? "),
    *("!!python/object/apply:os.system ", "!!bool ", "!!set ", "!!binary ", "1", "2021-13-45", "~"),
    *("\n", "\n  ", "'", '"', "|\n", "#", ":", "%", "@", "\x00", "\u2028", "9" * 5000, "[" * 80),
]


@cases(200)
@given(st.lists(st.sampled_from(YAML_PIECES), max_size=12).map("".join))
def test_yaml(text: str) -> None:
    message = ""
    with limited() as used:
        try:
            parse_yaml(text)
        except ValueError as error:
            message = str(error) or "no message"
    check_seconds(used[0])
    assert "\n" not in message
    assert message != "no message"
    count(refused=bool(message))
