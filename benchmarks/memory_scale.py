"""Measure the sharded build of a memory: seconds and peak memory for two sizes.

    python benchmarks/memory_scale.py [--sizes 20000x200000@64MiB,100000x1000000@256MiB]

Each size, ITEMSxEVENTS@BUDGET, runs in its own process: random users with 10 events each on items
of Zipf-like popularity. The peak is that of the process's own memory (RssAnon: pages of mapped
files are the cache), less what the split and the bundle take before the build. Sizes of up to
`--in-memory` events are built without a budget, too, and the digests are compared. Beside each
build of one thread stand the CPU seconds without writing, which contain the digests of the split,
and those in which scipy counts the same pairs in the same process, if its arrays fit into memory:
up to SCIPY_EVENTS events."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from table import markdown

HISTORY = 10
"""Events of a user."""
ROWS = 1_000_000
"""Events that are drawn at once."""
LEVELS = (256, 256, 256)
SCIPY_EVENTS = 20_000_000
"""scipy holds all pairs at once: about 200 bytes per event"""
SIZES = "20000x200000@64MiB,100000x1000000@256MiB"


def parse_sizes(text: str) -> list[tuple[int, int, int]]:
    """ "1000x5000@1MiB,..." -> [(items, events, bytes), ...]"""
    from sidtool.base.options import parse_bytes

    sizes = []
    for size in text.split(","):
        counts, _, budget = size.partition("@")
        items, events = map(int, counts.split("x"))
        sizes.append((items, events, parse_bytes(budget)))
    return sizes


def inputs(n_items: int, n_events: int) -> tuple[Any, Any]:
    """A split with one held-out event per part, and a bundle without a codebook."""
    from sidtool import Bundle
    from sidtool.data.coded import Texts
    from sidtool.data.fields.fields import EventStore
    from sidtool.data.split.packed import PackedExamples, PackedSequences, Ragged
    from sidtool.data.split.split import Split
    from sidtool.tokenizer.bundle.item_map import ItemMap
    from sidtool.tokenizer.sid import SidSpace

    rng = np.random.default_rng(0)
    ids = [f"item-{row}" for row in range(n_items)]
    keys = np.sort(rng.choice(np.prod(LEVELS), n_items, replace=False))
    codes = np.stack(np.unravel_index(keys, LEVELS), axis=1).astype(np.uint16)
    item_map = ItemMap.of(SidSpace(LEVELS), ids, codes)
    bundle = Bundle.of(item_map, None, "reassign", name="scale")
    n_users = n_events // HISTORY
    users = Texts(f"user-{user}" for user in range(n_users))
    # the density of popularity falls with the root of the rank
    rows = np.empty(n_users * HISTORY, dtype=np.int32)
    for start in range(0, len(rows), ROWS):
        block = rows[start : start + ROWS]
        block[:] = n_items * rng.random(len(block)) ** 2
    starts = HISTORY * np.arange(n_users)
    histories = Ragged(rows, starts, starts + HISTORY)
    store = EventStore(users, Texts(ids), rows)
    train = PackedSequences(store, np.arange(n_users), histories)
    first = Ragged(rows, starts[:1], starts[:1] + HISTORY)
    target = Ragged(np.array([HISTORY]), np.array([0]), np.array([1]))
    held_out = PackedExamples(store, np.array([0]), first, target, np.array([HISTORY]))
    return Split("leave-one-out", train, held_out, held_out), bundle


def own_memory(process: str = "self") -> int:
    """Bytes of anonymous memory of a process, by default this one. Linux only."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


@contextmanager
def peak_memory(peaks: list[int]) -> Iterator[None]:
    """Add the largest anonymous memory within the block, sampled every 10 ms."""
    done = threading.Event()
    largest = own_memory()

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.01):
            largest = max(largest, own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        peaks.append(max(largest, own_memory()))


def build(items: int, events: int, budget: int | None) -> dict[str, Any]:
    """Build and save one memory in this process."""
    from sidtool import build_memory
    from sidtool.memory.rows import Shards

    split, bundle = inputs(items, events)
    before = own_memory()
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "memory.zarr"
        clocks = time.perf_counter(), time.process_time()
        shards_context = nullcontext() if budget is None else Shards.beside(out, budget)
        with peak_memory(peaks), shards_context as shards:
            memory = build_memory(split, bundle, shards=shards, threads=1)
            built = time.process_time() - clocks[1]
            memory.save(out)
        return {
            "items": items,
            "events": events,
            "pairs": len(memory.arrays["pairs/item"]),
            "budget": budget,
            "seconds": time.perf_counter() - clocks[0],
            "build_seconds": built,
            "cpu_seconds": time.process_time() - clocks[1],
            "scipy_seconds": count_by_scipy(split) if events <= SCIPY_EVENTS else None,
            "inputs": before,
            "peak": peaks[0] - before,
            "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
            "digest": memory.digest,
        }


def count_by_scipy(split: Any) -> float:
    """CPU seconds of one sparse matrix of all pairs of a user's events, which adds up equal ones:
    what counting alone takes."""
    from scipy import sparse

    lists = split.train.items
    n_items = len(split.train.names)
    before = time.process_time()
    items = lists.joined
    users = np.repeat(np.arange(len(lists)), lists.lengths)
    earlier, later, weights = [], [], []
    for gap in range(1, int(lists.lengths.max())):
        same_user = users[:-gap] == users[gap:]
        earlier.append(items[:-gap][same_user])
        later.append(items[gap:][same_user])
        weights.append(np.full(len(later[-1]), 0.85 ** (gap - 1)))
    pairs = (np.concatenate(earlier), np.concatenate(later))
    counts = sparse.csr_matrix((np.concatenate(weights), pairs), shape=(n_items, n_items))
    assert counts.nnz
    return time.process_time() - before


def in_own_process(items: int, events: int, budget: int | None) -> dict[str, Any]:
    """`build` in a new process."""
    command = [sys.executable, __file__, "--child", json.dumps([items, events, budget])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def result_row(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    mib = 1 << 20
    budget = "none" if result["budget"] is None else f"{result['budget'] / mib:.0f}"
    return [
        f"{result['items']:,}",
        f"{result['events']:,}",
        f"{result['pairs']:,}",
        budget,
        f"{result['peak'] / mib:.0f}",
        f"{result['inputs'] / mib:.0f}",
        f"{result['bytes'] / mib:.0f}",
        f"{result['cpu_seconds']:.1f}",
        f"{result['build_seconds']:.1f}",
        "" if result["scipy_seconds"] is None else f"{result['scipy_seconds']:.1f}",
        f"{result['seconds']:.0f}",
    ]


def main() -> None:
    """Build each size, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=parse_sizes, default=SIZES)
    parser.add_argument("--in-memory", type=int, default=0, metavar="EVENTS")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.child is not None:
        print(json.dumps(build(*args.child)))
        return
    results = []
    for items, events, budget in args.sizes:
        results.append(in_own_process(items, events, budget))
        if events <= args.in_memory:
            results.append(in_own_process(items, events, None))
            if results[-1]["digest"] != results[-2]["digest"]:
                raise SystemExit(f"{items} items: the sharded memory differs")
        if args.json is not None:
            text = json.dumps({"results": results, **environment()}, indent=1)
            args.json.write_text(text + "\n")
    header = ["items", "events", "pairs", "budget, MiB", "peak, MiB", "events and ids, MiB"]
    header += ["output, MiB", "CPU seconds", "without writing", "scipy's count", "seconds"]
    print(markdown(header, map(result_row, results)))


if __name__ == "__main__":
    main()
