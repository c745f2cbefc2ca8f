"""A job without a model, for tests of the engines."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sidtool.base.digests import file_digest
from sidtool.base.errors import DataError
from sidtool.integrations.cluster.output import PartReport, part_name
from sidtool.integrations.cluster.run import RunOptions, RunReport, Work, run_over_folder
from sidtool.integrations.cluster.shards import Shard


def failing_at_the_third(work: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    """A function that notes what it is called with, and fails at the third call."""

    def work_or_fail(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise DataError("the disk is full")
        return work(*arguments)

    return work_or_fail


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
    parts = map(pq.read_table, sorted(folder.glob("part-*")))
    return [number for table in parts for number in table["n"].to_pylist()]


def open_doubling(killed_in: str = "", bad: int = -1) -> Work[Shard]:
    """Doubles numbers; raises DataError for a bad one, and the first worker that gets the third
    shard is killed, if there is an unfinished output in which it leaves a part."""

    def work(number: int, shard: Shard, place: Path) -> PartReport:
        numbers = pq.read_table(shard.fetch(place))["n"].to_pylist()
        if bad in numbers:
            raise DataError(f"{bad} is bad", hint="leave it out")
        part = place / part_name(number)
        pq.write_table(pa.table({"n": [2 * n for n in numbers]}), part)
        if number == 2 and killed_in:
            left = Path(killed_in) / part.name
            if not left.exists():
                # as a worker that dies while it writes: the part is there, its report is not
                left.write_bytes(part.read_bytes()[:10])
                os.kill(os.getpid(), signal.SIGKILL)
        return PartReport(part.name, len(numbers), file_digest(part), {"sum": sum(numbers)})

    return work


def double(
    source: Path | str, out: Path | str, options: RunOptions, **choices: object
) -> RunReport:
    """Double the numbers of a folder in shards of four."""
    work = partial(open_doubling, **choices)
    lineage = {"command": "double"}
    return run_over_folder(work, str(source), str(out), lineage, options, shard_rows=4)
