"""A job without a model, for tests of the engines."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from sidtool.base.errors import DataError
from sidtool.integrations.ray.output import PartFolder, PartReport, part_name
from sidtool.integrations.ray.run import RunOptions, RunReport, run_over_folder
from sidtool.integrations.ray.shards import Shard


def write_numbers(folder: Path, sizes: tuple[int, ...] = (7, 1, 12)) -> list[int]:
    """Parquet files of consecutive numbers -> all of them."""
    folder.mkdir()
    start = 0
    for number, size in enumerate(sizes):
        table = pa.table({"n": list(range(start, start + size))})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=3)
        start += size
    return list(range(start))


def read_numbers(folder: Path) -> list[int]:
    """The numbers in the parts of an output, in the order of the parts."""
    return [
        n for part in sorted(folder.glob("part-*")) for n in pq.read_table(part)["n"].to_pylist()
    ]


def open_doubling(
    folder: PartFolder, killed: int = -1, marker: str = "", bad: int = -1
) -> Callable[[Shard], PartReport]:
    """Doubles numbers; raises DataError for a bad one, and the first worker that gets the shard
    `killed` is killed after it has written its part, if there is a marker file to leave."""

    def work(shard: Shard) -> PartReport:
        with TemporaryDirectory() as name:
            numbers = pq.read_table(shard.fetch(Path(name)))["n"].to_pylist()
        if bad in numbers:
            raise DataError(f"{bad} is bad", hint="leave it out")
        stream = pa.BufferOutputStream()
        pq.write_table(pa.table({"n": [2 * n for n in numbers]}), stream)
        data = stream.getvalue().to_pybytes()
        if shard.number == killed and not Path(marker).exists():
            Path(marker).touch()
            # as a worker that dies while it writes: the part is there, its report is not
            folder._put(part_name(shard.number), data[:10])
            os.kill(os.getpid(), signal.SIGKILL)
        return folder.write(shard.number, data, len(numbers), {"sum": sum(numbers)})

    return work


def double(
    source: Path | str, out: Path | str, options: RunOptions, **choices: object
) -> RunReport:
    """Double the numbers of a folder in shards of four."""
    work = partial(open_doubling, **choices)
    return run_over_folder(
        work, str(source), str(out), {"command": "double"}, options, shard_rows=4
    )
