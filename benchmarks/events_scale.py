"""Measure split, make-sft and the item-kNN baseline within a memory budget.

    python benchmarks/events_scale.py 100000 1000000 [10000000] [--memory 1GiB] [--plain]

Random users with 10 events each on items of Zipf-like popularity, one item per hundred events (at
most 10^6). Each step runs in its own process and is given the files of the one before. The peak is
that of the process's own memory (RssAnon; pages of mapped files are the system's cache), libraries,
catalog and bundle included. item-kNN ranks 1,000 users. `--plain` runs each step without a budget,
too, and compares the digests."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from memory_scale import LEVELS, own_memory, peak_memory
from table import markdown

HISTORY = 10
"""Events of a user."""
ROWS = 1_000_000
"""Events that are written at once."""
USERS = 1000
"""Users that item-kNN ranks items for."""


def item_count(events: int) -> int:
    """The items of a data set."""
    return min(1_000_000, max(100, events // 100))


def write_events(path: Path, events: int) -> None:
    """A Parquet file of events: users by turns, so that no user's events are adjacent."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    n_items = item_count(events)
    n_users = events // HISTORY
    schema = pa.schema(
        [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, events, ROWS):
            numbers = np.arange(start, min(start + ROWS, events))
            users = numbers % n_users
            # the density of popularity falls with the root of the rank
            items = (n_items * rng.random(len(numbers)) ** 2).astype(np.int64)
            columns = {
                "user_id": pa.array(np.char.add("user-", users.astype(str))),
                "item_id": pa.array(np.char.add("item-", items.astype(str))),
                "timestamp": pa.array(1_600_000_000 + numbers),
            }
            writer.write_table(pa.table(columns, schema))


def write_catalog(path: Path, n_items: int) -> None:
    """A catalog without text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = [f"item-{row}" for row in range(n_items)]
    pq.write_table(pa.table({"item_id": ids, "title": ids}), path)


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


def run_split(folder: Path, memory: int | None) -> str:
    """Split the events -> digest of the training file."""
    from sidtool import split_events

    manifest = split_events(folder / "events.parquet", folder / "split", memory=memory, force=True)
    return manifest.files["train.jsonl"]


def run_sft(folder: Path, memory: int | None) -> str:
    """Make item sequences -> digest of the examples."""
    from sidtool import make_sft

    inputs = (folder / "shop.zarr", folder / "items.parquet", folder / "split")
    lineage = make_sft(*inputs, folder / "train.jsonl", memory=memory, force=True)
    return lineage.files["train.jsonl"]


def run_knn(folder: Path, memory: int | None) -> str:
    """Rank items for some users by item-kNN -> digest of the ranking."""
    import hashlib

    from sidtool import open_bundle
    from sidtool.data.split.files import open_split
    from sidtool.data.split.split import evenly_spaced
    from sidtool.evaluation.baselines import UNTUNED, baseline_values
    from sidtool.evaluation.evaluation import spilled
    from sidtool.evaluation.ranking import IndexedExamples

    bundle = open_bundle(str(folder / "shop.zarr"))
    with spilled(memory) as (spill, shards):
        split = open_split(folder / "split", spill=spill)
        examples = IndexedExamples.of(bundle, evenly_spaced(split.test, USERS), exclude_seen=False)
        values = baseline_values(examples, split.train, (10,), UNTUNED, k=10, shards=shards)
    return hashlib.sha256(values["item-knn"].first_items.tobytes()).hexdigest()


STEPS: dict[str, Callable[[Path, int | None], str]] = {
    "split": run_split,
    "make-sft": run_sft,
    "item-kNN": run_knn,
}


def measure(step: str, folder: str, memory: int | None) -> dict[str, Any]:
    """Run a step in this process."""
    peaks: list[int] = []
    clocks = time.perf_counter(), time.process_time()
    with peak_memory(peaks):
        digest = STEPS[step](Path(folder), memory)
    return {
        "step": step,
        "memory": memory,
        "peak": max(peaks[0], own_memory()),
        "seconds": time.perf_counter() - clocks[0],
        "cpu_seconds": time.process_time() - clocks[1],
        "digest": digest,
    }


def in_own_process(step: str, folder: Path, memory: int | None) -> dict[str, Any]:
    """`measure` in a new process."""
    command = [sys.executable, __file__, "--child", json.dumps([step, str(folder), memory])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure_size(events: int, memory: int, plain: bool, steps: list[str]) -> list[dict[str, Any]]:
    """Every step on a data set of this size, within the budget and, if wanted, without one."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder / "events.parquet", events)
        write_catalog(folder / "items.parquet", item_count(events))
        write_bundle(folder / "shop.zarr", item_count(events))
        for step in steps:
            runs = [in_own_process(step, folder, memory)]
            if plain:
                runs.append(in_own_process(step, folder, None))
                if runs[0]["digest"] != runs[1]["digest"]:
                    raise SystemExit(f"{step} of {events} events differs without a budget")
            results += [{"events": events, "items": item_count(events), **run} for run in runs]
            print(json.dumps(results[-1]), file=sys.stderr)
    return results


def result_row(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    mib = 1 << 20
    return [
        f"{result['events']:,}",
        f"{result['items']:,}",
        result["step"],
        "none" if result["memory"] is None else f"{result['memory'] / mib:.0f}",
        f"{result['peak'] / mib:.0f}",
        f"{result['cpu_seconds']:.0f}",
        f"{result['seconds']:.0f}",
        f"{result['events'] / result['cpu_seconds']:,.0f}",
    ]


def main() -> None:
    """Measure each size, print the table."""
    from sidtool.base.option_texts import parse_bytes

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("events", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--memory", type=parse_bytes, default="1GiB")
    parser.add_argument("--plain", action="store_true", help="run without a budget, too")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(measure(*args.child)))
        return
    results = [
        result
        for events in args.events
        for result in measure_size(events, args.memory, args.plain, args.steps)
    ]
    header = ["events", "items", "step", "budget, MiB", "peak, MiB", "CPU seconds", "seconds"]
    print(markdown([*header, "events per CPU second"], map(result_row, results)))
    if args.json is not None:
        args.json.write_text(json.dumps({"results": results, **environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
