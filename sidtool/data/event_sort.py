"""Events sorted by user, order and row, in any memory.

Each run of events is sorted by user. Then the events of a range of users are taken from all runs,
sorted, and appended to the arrays, range by range. Within a budget (`Spill`), runs and arrays lie
in files. The values are the same for any budget: equal events stay in the order of the rows."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.base.threads import in_threads

Arrays = dict[str, NDArray[Any]]
USER, ORDER, REST = "user", "order", "rest"
"""Columns that sort events; REST has the digits of an order that a float64 leaves out."""
RANGE_EVENTS = 1 << 20
"""Events that are sorted at once without a budget."""
EVENT_BYTES = 160
"""Bytes at the peak for each event of a range; benchmarks/data_path.py measures it."""
CODED_BYTES = 100
"""Bytes for each event whose texts are coded together, for ids of 20 bytes."""
MIN_RUN_EVENTS = 1 << 17


@dataclass(frozen=True)
class Spill:
    """How much memory events may take, and where they are put."""

    folder: Path
    """An existing folder of its own; it gets about 70 bytes per event."""
    budget: int
    """Bytes for events that are coded together, then for a range of users. The ids of users and
    items come on top, about 200 bytes each, and about 150 MiB for a block of the table."""

    @property
    def coded_events(self) -> int:
        """The most events whose texts are coded together."""
        return max(MIN_RUN_EVENTS, self.budget // CODED_BYTES)


def sort_events(runs: Iterable[Any], spill: Spill | None, threads: int = 1) -> Arrays:
    """The columns of record batches except REST, each (n,); with a spill, they are mapped from its
    files.

    Raises DataError if the disk is full, UsageError if the budget is too small for the events of
    one user."""
    import pyarrow as pa

    if spill is None:
        in_memory = list(in_threads(_by_user, runs, threads))
        parts = list(_sorted_ranges(in_memory, None, threads))
        return {name: np.concatenate([part.pop(name) for part in parts]) for name in [*parts[0]]}
    try:
        file = spill.folder / "runs.arrow"
        by_user = in_threads(_by_user, runs, threads)
        first = next(by_user)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, first.schema) as writer:
            for run in chain([first], by_user):
                writer.write_batch(run)
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        file.unlink()  # its bytes are there until the last run is gone
        stored = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        return _joined_in_files(_sorted_ranges(stored, spill.budget, threads), spill.folder)
    except OSError as error:
        raise DataError(f"{spill.folder} cannot be written: {error.strerror or error}") from error


def _by_user(run: Any) -> Any:
    import pyarrow.compute as pc

    return run.take(pc.sort_indices(run[USER]))  # stable: events of a user stay in their order


def _sorted_ranges(runs: Sequence[Any], budget: int | None, threads: int) -> Iterator[Arrays]:
    """The arrays of each range of users."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ranges = _user_ranges([run[USER].to_numpy() for run in runs], budget, threads)
    bounds = [np.searchsorted(run[USER].to_numpy(), ranges).tolist() for run in runs]

    def sort(number: int) -> Arrays:
        slices = [
            run.slice(starts[number], starts[number + 1] - starts[number])
            for run, starts in zip(runs, bounds, strict=True)
        ]
        events = pa.Table.from_batches(slices).combine_chunks()
        keys = [(name, "ascending") for name in (USER, ORDER, REST)]
        rows = pc.sort_indices(events, keys)  # stable: equal events stay in the order of the rows
        names = [name for name in events.column_names if name != REST]
        return {name: events[name].take(rows).to_numpy() for name in names}

    return in_threads(sort, range(len(ranges) - 1), threads)


def _user_ranges(runs: Sequence[NDArray[np.int32]], budget: int | None, threads: int) -> list[int]:
    """(ranges + 1,) bounds of ranges of user codes: range i has the users bounds[i]:bounds[i + 1].
    `runs` are the user codes of the events of each run. Threads share the budget, but a range has
    room for the events of any user. Raises UsageError if those of one do not fit the budget."""
    n_users = 1 + max(int(run.max()) for run in runs)
    events_of_user = sum(np.bincount(run, minlength=n_users) for run in runs)
    ends = np.cumsum(events_of_user)
    largest = int(np.max(events_of_user))
    max_events = max(RANGE_EVENTS, largest) if budget is None else budget // EVENT_BYTES
    if largest > max_events:
        raise UsageError(
            f"{ends[-1]} events do not fit a budget of {budget} bytes: a user has {largest} of "
            "them",
            hint=f"--memory-limit of at least {largest * EVENT_BYTES} bytes",
        )
    if threads > 1:  # threads + 2 ranges are sorted, or wait to be written
        max_events = max(largest, max_events // (threads + 2))
    bounds = [0]
    while bounds[-1] < n_users:
        n_before = int(ends[bounds[-1] - 1]) if bounds[-1] else 0
        bounds.append(int(np.searchsorted(ends, n_before + max_events, side="right")))
    return bounds


def _joined_in_files(parts: Iterable[Arrays], folder: Path) -> Arrays:
    """The arrays, one part after the other, mapped from files."""
    streams: dict[str, BinaryIO] = {}
    dtypes: dict[str, np.dtype[Any]] = {}
    with ExitStack() as stack:
        for part in parts:
            for name, values in part.items():
                if name not in streams:
                    file = folder / f"sorted-{len(streams)}"
                    streams[name] = stack.enter_context(file.open("wb"))
                    dtypes[name] = values.dtype
                streams[name].write(values.data)
    return {
        name: np.memmap(stream.name, dtypes[name], mode="r") for name, stream in streams.items()
    }
