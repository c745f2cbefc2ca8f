import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.data.tables.parquet_footer import column_chunks


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


def test_fields_that_are_not_needed_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(lists_table(5), path)
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    n_structs = 200_000
    size = bytes([n_structs & 127 | 128, n_structs >> 7 & 127 | 128, n_structs >> 14])
    # field 50, a list of empty structs, before the end of the footer
    more = bytes([0x09, 100, 0xFC]) + size + bytes(n_structs)
    footer = data[start:-9] + more + data[-9:-8]
    expected = column_chunks(path)
    path.write_bytes(data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
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
