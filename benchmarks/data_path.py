"""Measure the way from events to training examples and a memory, beside engines that users have.

    pip install duckdb polars
    python benchmarks/data_path.py 100000 1000000 [10000000] [--memory-limit 1GiB] [--threads 2]
        [--steps STEP ...]

Random users with 10 events each on items of Zipf-like popularity, one item per 40 events (at most
10^6), as a CSV file in no order; titles have three to eleven words. Each step is a process of its
own with one thread, or as many as given, and is given the files of the one before. CPU seconds are
those of the work: imports are not counted, what a command reads and writes is. The peak is that of
the process's own memory (RssAnon; pages of mapped files are the system's cache). `duckdb` and
`polars` read the same file, sort it by user, time and row, and write the same three parts; `scipy
pairs` counts the pairs that `build-memory` counts. An engine that is not installed is left out.
With `--memory-limit`, steps that have a budget run within it."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from environment import command_line, environment
from memory_scale import HISTORY, LEVELS, count_by_scipy, own_memory, peak_memory
from table import markdown

ROWS = 1_000_000
"""Events that are written at once."""
USERS = 1000
"""Users that item-kNN ranks items for."""
WORDS = ("cream", "lotion", "brush", "nail gel", "hair", "shampoo", "natural", "pack of", "two")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "ARROW_IO_THREADS", "POLARS_MAX_THREADS"), "1")
Step = Callable[[Path, int | None], Callable[[], Any]]
"""Opens what does not count, and returns the work."""


def item_count(events: int) -> int:
    """The items of a data set."""
    return min(1_000_000, max(100, events // 40))


def write_events(path: Path, events: int, items: int | None = None) -> None:
    """A CSV file of events: each user has HISTORY of them, and none of these are adjacent. Without
    a number of items, there are `item_count`."""
    import pyarrow as pa
    from pyarrow import csv

    rng = np.random.default_rng(0)
    n_items = items or item_count(events)
    n_users = events // HISTORY
    names = {
        "user_id": pa.array([f"user-{number}" for number in range(n_users)]),
        "item_id": pa.array([f"item-{number}" for number in range(n_items)]),
    }
    kinds = [(name, pa.string()) for name in names]
    with csv.CSVWriter(path, pa.schema([*kinds, ("timestamp", pa.int64())])) as writer:
        for start in range(0, events, ROWS):
            size = min(ROWS, events - start)
            codes = {
                "user_id": np.arange(start, start + size) % n_users,
                # the density of popularity falls with the root of the rank
                "item_id": (n_items * rng.random(size) ** 2).astype(np.int64),
            }
            columns = {name: names[name].take(pa.array(codes[name])) for name in names}
            minutes = rng.integers(0, 365 * 24 * 60, size)
            writer.write_table(pa.table({**columns, "timestamp": 1_600_000_000 + 60 * minutes}))


def write_catalog(path: Path, n_items: int) -> None:
    """A catalog of items with titles."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    titles = [" ".join(rng.choice(WORDS, size)) for size in rng.integers(3, 12, n_items)]
    ids = [f"item-{row}" for row in range(n_items)]
    pq.write_table(pa.table({"item_id": ids, "title": titles}), path)


def write_bundle(path: Path, n_items: int) -> None:
    """A bundle without a codebook: every item has a SID of its own."""
    from sidtool import Bundle
    from sidtool.tokenizer.bundle.item_map import ItemMap
    from sidtool.tokenizer.sid import SidSpace

    rng = np.random.default_rng(0)
    keys = np.sort(rng.choice(np.prod(LEVELS), n_items, replace=False))
    codes = np.stack(np.unravel_index(keys, LEVELS), axis=1).astype(np.uint16)
    item_map = ItemMap.of(SidSpace(LEVELS), [f"item-{row}" for row in range(n_items)], codes)
    Bundle.of(item_map, None, "reassign", name="scale").save(path)


def split(folder: Path, memory_limit: int | None) -> Callable[[], Any]:
    """`sidtool split`: leave-one-out."""
    from sidtool import split_events

    def work() -> None:
        split_events(folder / "events.csv", folder / "split", memory_limit=memory_limit, force=True)

    return work


def check(folder: Path, memory_limit: int | None) -> Callable[[], Any]:
    """`sidtool check`"""
    from sidtool import check as check_files

    return lambda: check_files(folder / "items.parquet", folder / "events.csv")


def clean(folder: Path, memory_limit: int | None) -> Callable[[], Any]:
    """`sidtool check --fix`"""
    from sidtool import clean as clean_files

    files = (folder / "items.parquet", folder / "events.csv")
    return lambda: clean_files(*files, folder / "clean", force=True)


def duckdb(folder: Path, memory_limit: int | None) -> Callable[[], Any]:
    """The same three parts by SQL."""
    engine: Any = import_module("duckdb")
    config = {"threads": 1, "temp_directory": str(folder)}
    if memory_limit is not None:
        config["memory_limit"] = f"{memory_limit}B"

    def work() -> None:
        connection = engine.connect(config=config)
        connection.execute(
            "create temp table events as select user_id, item_id, timestamp::bigint as time, "
            "row_number() over () as place from read_csv(?, all_varchar=true, header=true, "
            "strict_mode=true)",
            [str(folder / "events.csv")],
        )
        connection.execute(
            "create temp table ranked as select *, row_number() over newest_first as age from "
            "events window newest_first as (partition by user_id order by time desc, place desc)"
        )
        for part, ages in (("train", "age > 2"), ("valid", "age = 2"), ("test", "age = 1")):
            connection.execute(
                f"copy (select user_id, list(item_id order by age desc) as items from ranked "
                f"where {ages} group by user_id) to '{folder}/duckdb-{part}.parquet'"
            )

    return work


def polars(folder: Path, memory_limit: int | None) -> Callable[[], Any]:
    """The same three parts by data frames."""
    pl: Any = import_module("polars")

    def work() -> None:
        events = pl.read_csv(folder / "events.csv", infer_schema=False).with_row_index("place")
        events = events.with_columns(pl.col("timestamp").cast(pl.Int64))
        events = events.sort("user_id", "timestamp", "place")
        logs = events.group_by("user_id", maintain_order=True).agg(pl.col("item_id").alias("items"))
        items = pl.col("items").list
        for part, lists in (
            ("train", items.slice(0, items.len() - 2)),
            ("valid", items.slice(items.len() - 2, 1)),
            ("test", items.slice(items.len() - 1, 1)),
        ):
            logs.select("user_id", lists).write_parquet(folder / f"polars-{part}.parquet")

    return work


def open_split(folder: Path, memory_limit: int | None) -> Callable[[], Any]:
    """Opening a split, with all checks."""
    from sidtool import open_split as open_folder

    return lambda: open_folder(folder / "split")


def sequences(folder: Path, memory_limit: int | None) -> Callable[[], Any]:
    """`sidtool make-sft --task sequence=1`"""
    return _examples(folder, "sequence")


def next_items(folder: Path, memory_limit: int | None) -> Callable[[], Any]:
    """`sidtool make-sft` with histories of titles."""
    return _examples(folder, "title-history-to-sid")


def _examples(folder: Path, task: str) -> Callable[[], Any]:
    from sidtool import make_sft
    from sidtool.examples import SftOptions

    inputs = (folder / "shop.zarr", folder / "items.parquet", folder / "split")
    options = SftOptions({task: 1.0})

    def work() -> None:
        make_sft(*inputs, folder / f"{task}.jsonl", options, force=True)

    return work


def memory(folder: Path, budget: int | None) -> Callable[[], Any]:
    """`sidtool build-memory` without content, of an opened split and bundle."""
    from contextlib import nullcontext

    from sidtool import build_memory, open_bundle
    from sidtool import open_split as open_folder
    from sidtool.memory.rows import Shards

    opened, bundle = open_folder(folder / "split"), open_bundle(str(folder / "shop.zarr"))
    assert opened.reference.digest
    out = folder / "memory.zarr"

    def work() -> None:
        with nullcontext() if budget is None else Shards.beside(out, budget) as shards:
            build_memory(opened, bundle, shards=shards).save(out, force=True)

    return work


def scipy_pairs(folder: Path, budget: int | None) -> Callable[[], Any]:
    """The pairs of the same events as one sparse matrix."""
    from sidtool import open_split as open_folder

    opened = open_folder(folder / "split")
    return lambda: count_by_scipy(opened)


def item_knn(folder: Path, budget: int | None) -> Callable[[], Any]:
    """The baseline item-kNN: counts, similarities, and items for some users."""
    from sidtool import open_bundle
    from sidtool import open_split as open_folder
    from sidtool.data.split.split import evenly_spaced
    from sidtool.evaluation.baselines import baseline_values
    from sidtool.evaluation.ranking import IndexedExamples
    from sidtool.memory.rows import Shards

    opened, bundle = open_folder(folder / "split"), open_bundle(str(folder / "shop.zarr"))

    def work() -> None:
        with Shards.temporary(budget) as shards:
            ranked = evenly_spaced(opened.test, USERS)
            examples = IndexedExamples.of(bundle, ranked, exclude_seen=False)
            baseline_values(examples, opened.train, (10,), k=10, shards=shards)

    return work


STEPS: dict[str, Step] = {
    "split": split,
    "duckdb split": duckdb,
    "polars split": polars,
    "open split": open_split,
    "make-sft sequence": sequences,
    "make-sft titles": next_items,
    "build-memory": memory,
    "scipy pairs": scipy_pairs,
    "item-kNN": item_knn,
    "check": check,
    "check --fix": clean,
}
BESIDE = {"split": "duckdb split", "build-memory": "scipy pairs"}
"""Step -> the engine's step that it is compared with."""


def measure(step: str, folder: str, budget: int | None, threads: int) -> dict[str, Any]:
    """Run a step in this process, on so many cores."""
    import pyarrow as pa

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    pa.set_cpu_count(threads)
    pa.set_io_thread_count(threads)
    pa.array([0]).to_numpy()  # imports pandas, if it is there
    import_module("pyarrow.parquet")
    work = STEPS[step](Path(folder), budget)
    peaks: list[int] = []
    clocks = time.perf_counter(), time.process_time()
    with peak_memory(peaks):
        work()
    return {
        "seconds": time.perf_counter() - clocks[0],
        "cpu_seconds": time.process_time() - clocks[1],
        "peak": max(peaks[0], own_memory()),
        "disk": sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()),
    }


def in_own_process(step: str, folder: Path, budget: int | None, threads: int = 1) -> dict[str, Any]:
    """`measure` in a new process."""
    child = json.dumps([step, str(folder), budget, threads])
    command = [sys.executable, __file__, "--child", child]
    environ = os.environ | ONE_THREAD
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environ)
    return json.loads(ran.stdout)


def measure_size(
    events: int, budget: int | None, threads: int, steps: list[str]
) -> list[dict[str, Any]]:
    """Every step on a data set of this size."""
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder / "events.csv", events)
        write_catalog(folder / "items.parquet", item_count(events))
        write_bundle(folder / "shop.zarr", item_count(events))
        for step in steps:
            engine = step.partition(" ")[0]
            if engine in ("duckdb", "polars") and find_spec(engine) is None:
                continue
            results[step] = {"events": events, "items": item_count(events), "step": step}
            results[step]["threads"] = threads
            results[step] |= in_own_process(step, folder, budget, threads)
            print(json.dumps(results[step]), file=sys.stderr)
    for step, engine in BESIDE.items():
        if step in results and engine in results:
            ratio = results[step]["cpu_seconds"] / results[engine]["cpu_seconds"]
            results[step] |= {"beside": engine, "ratio": ratio}
    return list(results.values())


def result_row(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    mib = 1 << 20
    return [
        f"{result['events']:,}",
        result["step"],
        f"{result['cpu_seconds']:.2f}",
        f"{result['events'] / result['cpu_seconds']:,.0f}",
        f"{result['ratio']:.1f}" if "ratio" in result else "",
        f"{result['peak'] / mib:,.0f}",
    ]


def main() -> None:
    """Measure each size, print the table."""
    from sidtool.base.options import parse_bytes

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("events", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--memory-limit", type=parse_bytes)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("-o", "--out", type=Path, help="write the results to this file")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(measure(*args.child)))
        return
    results = [
        result
        for events in args.events
        for result in measure_size(events, args.memory_limit, args.threads, args.steps)
    ]
    header = ["events", "step", "CPU seconds", "events per CPU second", "ratio", "peak, MiB"]
    print(markdown(header, map(result_row, results)))
    if args.out is not None:
        call = command_line("data_path.py", sys.argv[1:])
        report = {"results": results, "command": call, **environment()}
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
