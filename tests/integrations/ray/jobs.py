"""A job without a model, for tests of the engines."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from sidtool.base.errors import DataError
from sidtool.integrations.ray.output import PartFolder, PartReport
from sidtool.integrations.ray.run import RunOptions, RunReport, part_name, run_over_folder
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


@dataclass(frozen=True)
class DoublingJob:
    """Doubles numbers; raises DataError for a bad one, and the first worker that gets the shard
    `killed` is killed after it has written its part, if there is a marker file to leave."""

    folder: PartFolder
    killed: int = -1
    marker: str = ""
    bad: int = -1

    def open(self) -> Callable[[Shard], PartReport]:
        """There is nothing to load."""
        return self._double

    def _double(self, shard: Shard) -> PartReport:
        with TemporaryDirectory() as name:
            numbers = pq.read_table(shard.fetch(Path(name)))["n"].to_pylist()
        if self.bad in numbers:
            raise DataError(f"{self.bad} is bad", hint="leave it out")
        stream = pa.BufferOutputStream()
        pq.write_table(pa.table({"n": [2 * n for n in numbers]}), stream)
        data = stream.getvalue().to_pybytes()
        if shard.number == self.killed and not Path(self.marker).exists():
            Path(self.marker).touch()
            # as a worker that dies while it writes: the part is there, its report is not
            self.folder._put(part_name(shard), data[:10])
            os.kill(os.getpid(), signal.SIGKILL)
        return self.folder.write(part_name(shard), data, len(numbers), {"sum": sum(numbers)})


def double(
    source: Path | str, out: Path | str, options: RunOptions, **choices: object
) -> RunReport:
    """Double the numbers of a folder in shards of four."""
    job = partial(DoublingJob, **choices)
    return run_over_folder(job, str(source), str(out), {"command": "double"}, options, shard_rows=4)
