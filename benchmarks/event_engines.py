"""Measure reading, coding and sorting events by sidtool, DuckDB and Polars, one thread each.

    pip install duckdb polars
    python benchmarks/event_engines.py 2000000 [10000000] [--runs 3] [--budget 256MiB] [-o FILE]

A CSV file of users with 10 events each, items of Zipf-like popularity (one per 40 events), and
times in full minutes, in no order. Every engine gives ids and their codes by first appearance,
times and rows, sorted by user, time and row; a digest says that they agree. Each run is a process
of its own; imports are not counted. An engine that is not installed is left out."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from environment import command_line, environment
from memory_scale import own_memory, peak_memory
from table import markdown

ROWS = 1_000_000
"""Events that are written at once."""
Columns = tuple[Any, Any, Any, Any, Any, Any]
"""Users and items by code, then user codes, item codes, times and rows of the sorted events."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "ARROW_IO_THREADS", "POLARS_MAX_THREADS"), "1")


def write_events(path: Path, events: int) -> None:
    """A CSV file of so many events."""
    import pyarrow as pa
    from pyarrow import csv

    rng = np.random.default_rng(0)
    items = events // 40
    shares = np.cumsum(1 / np.arange(1, items + 1))
    names = {
        "user_id": pa.array([f"u{number:07d}" for number in range(events // 10)]),
        "item_id": pa.array([f"B{number:09d}" for number in rng.permutation(items)]),
    }
    kinds = [(name, pa.string()) for name in names]
    with csv.CSVWriter(path, pa.schema([*kinds, ("timestamp", pa.int64())])) as writer:
        for start in range(0, events, ROWS):
            size = min(ROWS, events - start)
            codes = {
                "user_id": rng.integers(0, events // 10, size),
                "item_id": np.searchsorted(shares, rng.random(size) * shares[-1]),
            }
            columns = {name: names[name].take(pa.array(codes[name])) for name in names}
            minutes = rng.integers(0, 365 * 24 * 60, size)
            writer.write_table(pa.table({**columns, "timestamp": 1_600_000_000 + 60 * minutes}))


def by_sidtool(path: Path, folder: Path, budget: int | None) -> Columns:
    """Events by `read_interactions`, which also computes their digest."""
    from sidtool.data.event_sort import Spill
    from sidtool.data.interactions import read_interactions

    events = read_interactions(path, spill=None if budget is None else Spill(folder, budget))
    ids = (events.users.names, events.items.names)
    return (*ids, events.users.codes, events.items.codes, events.order, events.rows)


def by_duckdb(path: Path, folder: Path, budget: int | None) -> Columns:
    """Events by SQL."""
    duckdb: Any = import_module("duckdb")
    config = {"threads": 1, "temp_directory": str(folder)}
    if budget is not None:
        config["memory_limit"] = f"{budget}B"
    connection = duckdb.connect(config=config)
    connection.execute(
        "create temp table events as select user_id, item_id, timestamp::double as time, "
        "row_number() over () - 1 as place from read_csv(?, all_varchar=true, header=true, "
        """delim=',', quote='"', escape='"', strict_mode=true)""",
        [str(path)],
    )
    for name in ("user", "item"):
        connection.execute(
            f"create temp table {name}s as select {name}_id, row_number() over "
            f"(order by min(place)) - 1 as code from events group by {name}_id"
        )
    rows = connection.execute(
        "select users.code::int as user, items.code::int as item, time, place from events "
        "join users using (user_id) join items using (item_id) order by users.code, time, place"
    ).fetchnumpy()
    users, items = (
        connection.execute(f"select {name}_id from {name}s order by code").fetchnumpy()
        for name in ("user", "item")
    )
    return users["user_id"], items["item_id"], *(rows[key] for key in rows)


def by_polars(path: Path, folder: Path, budget: int | None) -> Columns:
    """Events by data frames."""
    pl: Any = import_module("polars")
    events = pl.read_csv(path, infer_schema=False).with_row_index("place")
    events = events.with_columns(pl.col("timestamp").cast(pl.Float64))
    names = {}
    for name in ("user", "item"):
        ids = events[f"{name}_id"].unique(maintain_order=True)
        codes = pl.DataFrame({f"{name}_id": ids, name: np.arange(len(ids), dtype=np.int32)})
        events = events.join(codes, on=f"{name}_id", maintain_order="left")
        names[name] = ids.to_numpy()
    events = events.select("user", "item", "timestamp", "place").sort("user", "timestamp", "place")
    return names["user"], names["item"], *(column.to_numpy() for column in events)


ENGINES: dict[str, Callable[[Path, Path, int | None], Columns]] = {
    "sidtool": by_sidtool,
    "duckdb": by_duckdb,
    "polars": by_polars,
}


def digest(columns: Columns) -> str:
    """SHA-256 (hex) of the events."""
    from sidtool.base.digests import digest_strings

    users, items, *arrays = columns
    state = hashlib.sha256(digest_strings(users.tolist(), items.tolist()).encode())
    for values, kind in zip(arrays, ("<i4", "<i4", "<f8", "<i8"), strict=True):
        state.update(np.asarray(values).astype(kind).tobytes())
    return state.hexdigest()


def measure(engine: str, path: str, budget: int | None) -> dict[str, Any]:
    """Run an engine in this process."""
    import pyarrow.compute
    import pyarrow.csv

    pyarrow.set_cpu_count(1)
    started = time.process_time()
    import_module("sidtool.data.interactions" if engine == "sidtool" else engine)
    import_seconds = time.process_time() - started
    peaks: list[int] = []
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder, peak_memory(peaks):
        started = time.process_time()
        columns = ENGINES[engine](Path(path), Path(folder), budget)
        seconds = time.process_time() - started
        result = digest(columns)
    peak = max(peaks[0], own_memory())
    return {"seconds": seconds, "import": import_seconds, "peak": peak, "digest": result}


def in_own_process(engine: str, path: Path, budget: int | None) -> dict[str, Any]:
    """`measure` in a new process."""
    command = [sys.executable, __file__, "--child", json.dumps([engine, str(path), budget])]
    environ = {**os.environ, **ONE_THREAD}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environ)
    return json.loads(done.stdout)


def measure_size(events: int, runs: int, budget: int) -> dict[str, Any]:
    """Every engine on a table of this size, and those that have budgets within one, by turns."""
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "events.csv"
        write_events(path, events)
        for _ in range(runs):
            for engine in filter(find_spec, ENGINES):
                results.setdefault(engine, []).append(in_own_process(engine, path, None))
                if engine != "polars":
                    within = results.setdefault(f"{engine} within a budget", [])
                    within.append(in_own_process(engine, path, budget))
    digests = {run["digest"] for runs in results.values() for run in runs}
    if len(digests) > 1:
        raise SystemExit(f"the engines disagree on {events} events")
    medians = {
        engine: {key: median(run[key] for run in runs) for key in ("seconds", "import", "peak")}
        for engine, runs in results.items()
    }
    return {"events": events, "budget": budget, "engines": medians}


def main() -> None:
    """Measure each size, print the table."""
    from sidtool.base.options import parse_bytes

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("events", type=int, nargs="*")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--budget", type=parse_bytes, default=256 << 20)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--child", type=json.loads)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child)))
        return
    sizes = [measure_size(events, options.runs, options.budget) for events in options.events]
    rows = [
        [f"{size['events']:,}", engine, f"{run['seconds']:.2f}", f"{run['peak'] / (1 << 20):.0f}"]
        for size in sizes
        for engine, run in size["engines"].items()
    ]
    print(markdown(["events", "engine", "CPU seconds", "peak, MiB"], rows))
    if options.output:
        command = command_line("event_engines.py", sys.argv[1:])
        versions = {engine: version(engine) for engine in sizes[0]["engines"] if " " not in engine}
        result = {"command": command, **environment(), "engines": versions, "sizes": sizes}
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
