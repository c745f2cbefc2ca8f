"""Measure split, make-sft and build-memory by workers on two nodes, beside one process. Examples
are joined to a file, or left in parts.

    python benchmarks/cluster.py 100000 1000000 [10000000] [-o RESULT.json]
    python benchmarks/cluster.py 100000000 --workers 0 2 --memory-limit 1GiB [-o RESULT.json]
    python benchmarks/cluster.py 10000000 100000000 --items 250000 --workers 2

The nodes are two raylets on this machine, each with an object store of its own and one core that
its worker does not leave; one process has one core, too. Events are those of `data_path.py`, in
eight Parquet files; with `--items`, several sizes have equally many items, so that their peaks show
what grows with the events alone. Each run is a process of its own: the command, which the workers'
CPU seconds and memory do not contain. Those of the workers contain their imports. Bytes shuffled
are the files that one worker writes for another: events by part, pairs by block, examples to be
joined. The digests of all runs of a step are the same, or the benchmark ends with an error. One
process (0 workers) keeps to `--memory-limit` if it is given (10^8 events need about 16 GB
without)."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_path import item_count, write_bundle, write_catalog, write_events
from environment import command_line, environment
from memory_scale import own_memory, peak_memory
from ray_scale import watch_actors
from table import markdown

if TYPE_CHECKING:
    from sidtool.examples import Lineage

FILES = 8
"""Files of events."""
STORE = 128 << 20
"""Bytes of a node's object store."""
STARTS = 5
"""How often a cluster is started."""
WORKERS = (0, 1, 2)
"""Numbers of workers; 0 is one process."""


@dataclass(frozen=True)
class Command:
    """What the process of a command measures of itself."""

    digest: str
    seconds: float
    cpu_seconds: float
    peak: int
    """bytes of its own memory"""
    shuffled: int
    """bytes of the files that workers exchange"""


@dataclass(frozen=True)
class Measured:
    """One step by a number of workers."""

    step: str
    events: int
    items: int
    workers: int
    command: Command
    worker_cpu_seconds: float
    """of all workers"""
    worker_peak: int
    """bytes of the largest worker's own memory"""


@dataclass
class Exchange:
    """The bytes of the files that workers exchange, whenever all parts of a kind are made."""

    folder: Path
    pattern: str
    bytes: int = 0

    def __call__(self, done: int, total: int) -> None:
        if done == total and self.pattern:
            self.bytes = sum(path.stat().st_size for path in self.folder.glob(self.pattern))


@dataclass(frozen=True)
class Means:
    """By how many workers a step is done, or by one process within a budget."""

    workers: int
    """0 is one process"""
    memory_limit: int | None
    """bytes, for one process"""


Step = Callable[[Path, Path, Means, Exchange], str]
"""Makes an output of a folder of inputs -> its digest."""


def split(folder: Path, out: Path, means: Means, exchange: Exchange) -> str:
    """`sidtool split`; the digest is that of all events."""
    from sidtool import PartOptions, split_events, split_in_parts

    if not means.workers:
        return split_events(folder / "events.parquet", out, memory_limit=means.memory_limit).digest
    run = PartOptions(engine="ray", workers=means.workers, progress=exchange)
    return split_in_parts(str(folder / "events"), out, run=run).digest


def make_sft(folder: Path, out: Path, means: Means, exchange: Exchange) -> str:
    """`sidtool make-sft --task sequence=1 -o FILE`; the digest is that of the file."""
    return _write_examples(folder, str(out), means, exchange).files[out.name]


def make_sft_parts(folder: Path, out: Path, means: Means, exchange: Exchange) -> str:
    """`sidtool make-sft --task sequence=1 -o FOLDER/`; the digest is that of the files."""
    from sidtool.base.digests import digest_strings

    files = _write_examples(folder, f"{out}/", means, exchange).files
    return digest_strings(files.keys(), files.values())


def _write_examples(folder: Path, out: str, means: Means, exchange: Exchange) -> "Lineage":
    from sidtool import ClusterExamples
    from sidtool import make_sft as write_examples
    from sidtool.examples import SftInputs, SftOptions
    from sidtool.integrations.cluster import RunOptions

    bundle, items, parts = str(folder / "shop.zarr"), folder / "items.parquet", folder / "split"
    options = SftOptions({"sequence": 1.0})
    inputs = SftInputs(bundle, items, parts, options)
    writer = None
    if means.workers:
        writer = ClusterExamples(inputs, RunOptions("ray", means.workers, progress=exchange))
    elif out.endswith("/"):
        writer = ClusterExamples(inputs, RunOptions("local"))
    return write_examples(bundle, items, parts, out, options, writer=writer)


def build_memory(folder: Path, out: Path, means: Means, exchange: Exchange) -> str:
    """`sidtool build-memory` without content."""
    from sidtool import build_memory as build
    from sidtool import open_bundle, open_split
    from sidtool.integrations.cluster import ClusterPairs, RunOptions
    from sidtool.memory.rows import Shards

    place = str(folder / "shop.zarr")
    bundle = open_bundle(place)
    if not means.workers:
        budget = means.memory_limit
        with nullcontext() if budget is None else Shards.beside(out, budget) as shards:
            memory = build(open_split(folder / "split"), bundle, shards=shards)
            memory.save(out)
        return memory.digest
    run = RunOptions("ray", means.workers, progress=exchange)
    with ClusterPairs.opened(folder / "split", place, out, run) as counter:
        memory = build(counter.manifest, bundle, counter=counter)
        memory.save(out)
    return memory.digest


@dataclass(frozen=True)
class StepFiles:
    """A step, the name of its output, and where its workers exchange files beside that."""

    run: Step
    out: str
    exchanged: str


STEPS = {
    "split": StepFiles(split, "split", "*.partial/.grouped/*.arrow"),
    "make-sft": StepFiles(make_sft, "train.jsonl", "*.parts.partial/part-*/*"),
    "make-sft in parts": StepFiles(make_sft_parts, "train", ""),
    "build-memory": StepFiles(build_memory, "memory.zarr", "*.pairs.partial/*/0*"),
}


def write_inputs(folder: Path, events: int, items: int) -> None:
    """Events as one file and as FILES files with the same rows, a catalog and a bundle."""
    import pyarrow.parquet as pq
    from pyarrow import csv

    write_events(folder / "events.csv", events, items)
    (folder / "events").mkdir()
    rows = 0
    with csv.open_csv(folder / "events.csv") as batches, ExitStack() as writers:
        paths = [folder / "events.parquet"]
        paths += [folder / "events" / f"{number}.parquet" for number in range(FILES)]
        whole, *files = [
            writers.enter_context(pq.ParquetWriter(path, batches.schema)) for path in paths
        ]
        for batch in batches:
            for writer in whole, files[rows * FILES // events]:
                writer.write_batch(batch)
            rows += len(batch)
    (folder / "events.csv").unlink()
    write_catalog(folder / "items.parquet", items)
    write_bundle(folder / "shop.zarr", items)


def run_command(step: str, folder: Path, means: Means) -> Command:
    """Run a step in this process, by the workers of the cluster of RAY_ADDRESS if there are any."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    files = STEPS[step]
    out = folder / f"{step}-{means.workers}" / files.out
    out.parent.mkdir()
    exchange = Exchange(out.parent, files.exchanged)
    peaks: list[int] = []
    clocks = time.perf_counter(), time.process_time()
    with peak_memory(peaks):
        digest = files.run(folder, out, means, exchange)
    return Command(
        digest=digest,
        seconds=time.perf_counter() - clocks[0],
        cpu_seconds=time.process_time() - clocks[1],
        peak=max(peaks[0], own_memory()),
        shuffled=exchange.bytes,
    )


def started(head: dict[str, Any]) -> Any:
    """A cluster of one node. Ray gives up after 30 seconds, which it may take on a busy machine."""
    from ray.cluster_utils import Cluster

    for attempt in range(1, STARTS + 1):
        try:
            return Cluster(initialize_head=True, head_node_args=head)
        except Exception:  # Ray raises bare ones
            if attempt == STARTS:
                raise
    return None


@contextmanager
def two_nodes() -> Iterator[str]:
    """A cluster of two raylets, each on one core -> its address."""
    cores = sorted(os.sched_getaffinity(0))
    node = {"num_cpus": 1, "object_store_memory": STORE}
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    os.sched_setaffinity(0, cores[:1])
    cluster = started(node | {"include_dashboard": False})
    try:
        os.sched_setaffinity(0, cores[-1:])
        cluster.add_node(**node)
        cluster.wait_for_nodes()
        os.sched_setaffinity(0, cores)
        yield cluster.address
    finally:
        cluster.shutdown()


def measure(
    step: str, events: int, items: int, folder: Path, means: Means, address: str
) -> Measured:
    """`run_command` in a process on one core."""
    call = json.dumps([step, str(folder), asdict(means)])
    line = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    line += [sys.executable, __file__, "--child", call]
    environ = os.environ | {"RAY_ADDRESS": address}
    with watch_actors() as actors:
        ran = subprocess.run(line, check=True, stdout=subprocess.PIPE, env=environ)
    return Measured(
        step=step,
        events=events,
        items=items,
        workers=means.workers,
        command=Command(**json.loads(ran.stdout)),
        worker_cpu_seconds=sum(use.cpu_seconds for use in actors.values()),
        worker_peak=max((use.peak for use in actors.values()), default=0),
    )


def measure_size(
    events: int, items: int, workers: Sequence[int], memory_limit: int | None, address: str
) -> list[Measured]:
    """Every step, by one process and by workers. Exits if their digests differ."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, events, items)
        for step, files in STEPS.items():
            digests = set()
            for number in workers:
                means = Means(number, memory_limit)
                results.append(measure(step, events, items, folder, means, address))
                print(json.dumps(asdict(results[-1])), file=sys.stderr, flush=True)
                digests.add(results[-1].command.digest)
                if len(digests) > 1:
                    raise SystemExit(f"{step}: the output of {number} workers differs")
                made = folder / f"{step}-{number}"
                if step == "split" and number == workers[-1]:
                    (made / files.out).rename(folder / "split")
                shutil.rmtree(made)
    return results


def _speed_up(one: Measured, alone: dict[tuple[str, int], Command]) -> str:
    """How many times as fast as one worker, if one was measured."""
    beside = alone.get((one.step, one.events))
    return "" if beside is None else f"{beside.seconds / one.command.seconds:.2f}"


def table(results: list[Measured]) -> str:
    """Each run beside that of one worker."""
    mib = 1 << 20
    alone = {(one.step, one.events): one.command for one in results if one.workers == 1}
    header = [
        "events",
        "items",
        "step",
        "workers",
        "seconds",
        "speed-up",
        "CPU seconds of the command",
    ]
    header += ["of all workers", "peak of the command, MiB", "of a worker", "shuffled, MiB"]
    rows = []
    for one in results:
        command = one.command
        rows.append(
            (
                f"{one.events:,}",
                f"{one.items:,}",
                one.step,
                one.workers or "none",
                f"{command.seconds:.1f}",
                _speed_up(one, alone),
                f"{command.cpu_seconds:.1f}",
                f"{one.worker_cpu_seconds:.1f}" if one.workers else "",
                f"{command.peak / mib:,.0f}",
                f"{one.worker_peak / mib:,.0f}" if one.workers else "",
                f"{command.shuffled / mib:,.1f}" if one.workers else "",
            )
        )
    return markdown(header, rows)


def main() -> None:
    """Measure each size, print the table."""
    from sidtool.base.options import parse_bytes

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("events", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--items", type=int, help="of each size; default: one per 40 events")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=WORKERS, help="0: one process without a cluster"
    )
    parser.add_argument(
        "--memory-limit", type=parse_bytes, help="budget of one process, such as 1GiB"
    )
    parser.add_argument("-o", "--out", type=Path, help="write the results to this file")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        step, folder, means = args.child
        print(json.dumps(asdict(run_command(step, Path(folder), Means(**means)))))
        return
    before = os.getloadavg()[0]
    with two_nodes() as address:
        results = [
            one
            for events in args.events
            for one in measure_size(
                events, args.items or item_count(events), args.workers, args.memory_limit, address
            )
        ]
    print(table(results))
    if args.out is not None:
        report = {
            "results": [asdict(one) for one in results],
            "load_before": before,
            "load_after": os.getloadavg()[0],
            "command": command_line("cluster.py", sys.argv[1:]),
            **environment(),
        }
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
