import random
import subprocess
import sys
import tracemalloc
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError
from sidtool.data.tables.parquet_footer import Chunk, column_chunks, read_pages
from sidtool.data.tables.tables import read_columns


def lists_table(rows: int) -> pa.Table:
    vectors = [[float(row), 2.0, 3.0] for row in range(rows)]
    ids = [f"i{row}" for row in range(rows)]
    return pa.table({"item_id": ids, "vector": vectors, "flag": [True] * rows})


@pytest.mark.parametrize("rows", [0, 1, 500])
@pytest.mark.parametrize("group", [7, 1000])
def test_the_numbers_are_those_of_pyarrow(tmp_path: Path, rows: int, group: int) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(lists_table(rows), path, row_group_size=group, write_page_index=True)
    footer = pq.ParquetFile(path).metadata
    expected = [
        footer.row_group(index).column(column).num_values
        for index in range(footer.num_row_groups)
        for column in range(footer.num_columns)
    ]
    assert [chunk.values for chunk in column_chunks(path)] == expected


def write_with_field(path: Path, field: bytes) -> None:
    """A file of five rows with a field more at the end of its footer."""
    pq.write_table(lists_table(5), path)
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[start:-9] + field + data[-9:-8]
    path.write_bytes(data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (b"\x07d" + bytes(8), ""),  # field 50, a number
        (b"\x0bd\1\x88\1a\1b", ""),  # a map of texts
        (b"\x0bd\0", ""),
        (b"\x0cd" + b"\x1c" * 40 + bytes(41), "its footer is nested too deep"),
        (b"\x09d" + b"\x19" * 40 + b"\5", "its footer is nested too deep"),
        (b"\x0bd" + b"\1\x3b\0" * 40 + b"\0", "its footer is nested too deep"),
        (b"\x09\x08\x0c", "a column of its footer has no number of values"),  # no row groups
    ],
)
def test_a_footer_that_pyarrow_reads_is_read_or_refused(
    tmp_path: Path, field: bytes, message: str
) -> None:
    path = tmp_path / "t.parquet"
    write_with_field(path, field)
    assert pq.ParquetFile(path).metadata.num_rows == 5
    with pytest.raises(DataError, match=f"cannot be read: {message}") if message else nullcontext():
        assert len(read_columns(path, ["item_id"])["item_id"]) == 5


@pytest.mark.parametrize(
    ("footer", "message"),
    [
        (b"\x18\x7f", "its footer ends early"),
        (b"\x1d\0", "its footer has a value of type 13"),
        (b"\x16" + b"\x80" * 10, "its footer has a number of too many bytes"),
        (b"\x49\x1c\x19\x1c\x3c" + bytes(4), "a column of its footer has no number of values"),
    ],
)
def test_a_malformed_footer_is_named(tmp_path: Path, footer: bytes, message: str) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ValueError, match=message):
        column_chunks(path)


def test_the_header_of_a_page_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a" * 2000, "b" * 2000]}), path, use_dictionary=False)
    (chunk,) = column_chunks(path)
    with path.open("rb") as stream:
        (page,) = read_pages(stream, chunk)
    assert page.values == 2
    assert page.size >= 4008
    with pytest.raises(ValueError, match="the page header at byte 0 is malformed"):
        list(read_pages(BytesIO(b"\x18\x7f"), Chunk(1, 0, 9)))


def test_fields_that_are_not_needed_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(lists_table(5), path)
    expected = column_chunks(path)
    n_structs = 200_000
    size = bytes([n_structs & 127 | 128, n_structs >> 7 & 127 | 128, n_structs >> 14])
    # field 50, a list of empty structs, before the end of the footer
    more = bytes([0x09, 100, 0xFC]) + size + bytes(n_structs)
    write_with_field(path, more)
    assert pq.ParquetFile(path).metadata.num_rows == 5  # pyarrow skips it
    tracemalloc.start()
    assert column_chunks(path) == expected
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * n_structs


def test_a_damaged_footer_never_ends_the_process(tmp_path: Path) -> None:
    pq.write_table(lists_table(5), tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    rng = random.Random(0)
    for number in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(start, len(data) - 8)] = rng.choice([0, 1, 2, 21, 24, 255])
        (tmp_path / f"{number}.parquet").write_bytes(damaged)
    program = (
        "import sys; from pathlib import Path; from sidtool.base.errors import SidtoolError\n"
        "from sidtool.data.vector_files import read_vectors\n"
        "for path in Path(sys.argv[1]).glob('*.parquet'):\n"
        "    try: read_vectors(path, ['i0', 'i1', 'i2', 'i3', 'i4'])\n"
        "    except SidtoolError as error: assert str(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
