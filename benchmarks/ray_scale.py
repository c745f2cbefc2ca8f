"""Measure two workers of a Ray cluster on this machine against one, for embed and recommend.

    python benchmarks/ray_scale.py ENCODER [--model MODEL] [--items 16384] [--requests 8192]

ENCODER is a sentence-transformers model, MODEL a folder of `sidtool train`; without it, a random
one of 4.3 M parameters and 10^5 items is made. Items are titles of random words, requests random
histories of the model's items. The parts of every run are compared with those of one process.

The start of the cluster is not in the seconds. What a worker loads is in `seconds`; `per part`
counts from when as many parts are done as there are workers. On a machine that does other work,
workers get less than a core each: `cores` is how many they had on average (CPU seconds over
seconds), and `CPU over one worker` what the work itself cost, which does not depend on the others.
Two workers on two free cores are faster than one by 2 / `CPU over one worker`, loading aside."""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from memory_scale import own_memory
from table import markdown

WORDS = ("red", "blue", "steel", "oak", "lamp", "desk", "soap", "novel", "kettle", "bottle")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Measured:
    """One step by a number of workers; 0 is this process."""

    step: str
    workers: int
    seconds: float
    """wall time, with what the workers load"""
    seconds_per_part: float
    """wall time per part once every worker has loaded"""
    cpu_seconds: list[float]
    """of each worker, with what it loads"""
    load: float
    """the machine's load average over a minute, at the end"""

    @property
    def cores(self) -> float:
        """CPU seconds per second of all workers together."""
        return sum(self.cpu_seconds) / self.seconds


def write_items(path: Path, n: int) -> None:
    """A catalog with titles of eight random words."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    titles = [" ".join(rng.choice(WORDS, 8)) for _ in range(n)]
    pq.write_table(pa.table({"item_id": [f"i{row}" for row in range(n)], "title": titles}), path)


def write_requests(path: Path, model: str, n: int) -> None:
    """Requests with histories of ten random items of a model's bundle."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sidtool.model.load import check_model_folder

    _, bundle, _ = check_model_folder(model)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(bundle.items), size=(n, 10))
    histories = [[bundle.items.ids[row] for row in history] for history in rows.tolist()]
    pq.write_table(pa.table({"history": histories}), path)


def parts_of(folder: Path) -> dict[str, bytes]:
    """The parts of an output by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


@dataclass(frozen=True)
class ActorUse:
    """What one worker's process has used."""

    cpu_seconds: float
    peak: int
    """its own memory, bytes"""


@contextmanager
def watch_actors() -> Iterator[dict[int, ActorUse]]:
    """The use of each actor that runs during the block, by process. They are looked at again and
    again, since they are gone at its end."""
    used: dict[int, ActorUse] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            for process, use in _actors():
                before = used.get(process, use)
                used[process] = replace(use, peak=max(use.peak, before.peak))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield used
    finally:
        ended.set()
        thread.join()


def _actors() -> Iterator[tuple[int, ActorUse]]:
    """The actors of the nodes that this process started."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not (process / "cmdline").read_bytes().startswith(b"ray::_Actor"):
                continue
            fields = _fields(process)
            raylet = Path("/proc") / fields[1]
            if int(_fields(raylet)[1]) != os.getpid():
                continue
            memory = own_memory(process.name)
        except (OSError, StopIteration):
            continue  # it has just ended
        seconds = (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
        yield int(process.name), ActorUse(seconds, memory)


def _fields(process: Path) -> list[str]:
    """The fields of a process from its state on; the next one is its parent."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def measure(
    name: str, run: Callable[[Path, Any], Any], folder: Path, workers: list[int]
) -> list[Measured]:
    """One process, then each number of workers. Exits if their parts differ."""
    results = []
    for count in (0, *workers):
        results.append(_measure_once(name, run, folder, count))
        print(json.dumps(asdict(results[-1])), flush=True)
        if parts_of(folder / f"{name}-{count}") != parts_of(folder / f"{name}-0"):
            raise SystemExit(f"{name}: the parts of {count} workers differ")
    return results


def _measure_once(name: str, run: Callable[[Path, Any], Any], folder: Path, count: int) -> Measured:
    from sidtool.integrations.cluster.engines import ray_cluster
    from sidtool.integrations.cluster.run import RunOptions

    now = time.perf_counter
    done: list[float] = []
    options = RunOptions(progress=lambda *_: done.append(now()))
    if count:
        options = replace(options, engine="ray", workers=count)
    cluster = ray_cluster(count) if count else nullcontext()
    with cluster, watch_actors() as actors:  # the start of the cluster is not measured
        start = now()
        cpu_time = time.process_time()
        run(folder / f"{name}-{count}", options)
        seconds = now() - start
        cpu_time = time.process_time() - cpu_time
    n_loaded = max(count, 1)
    per_part = (done[-1] - done[n_loaded - 1]) / max(len(done) - n_loaded, 1)
    # an actor that died before it had a shard is none of the workers
    cpu = sorted((use.cpu_seconds for use in actors.values()), reverse=True)[:count] or [cpu_time]
    return Measured(name, count, seconds, per_part, cpu, os.getloadavg()[0])


def table(results: list[Measured]) -> str:
    """Each run beside that of one worker."""
    alone = {run.step: run for run in results if run.workers == 1}
    header = ["step", "workers", "seconds", "speed-up", "per part", "speed-up per part"]
    header += ["CPU seconds of each", "CPU over one worker", "cores", "load"]
    rows = []
    for run in results:
        single = alone.get(run.step, run)
        rows.append(
            (
                run.step,
                run.workers or "none",
                f"{run.seconds:.1f}",
                f"{single.seconds / run.seconds:.2f}",
                f"{run.seconds_per_part:.2f}",
                f"{single.seconds_per_part / run.seconds_per_part:.2f}",
                ", ".join(f"{seconds:.0f}" for seconds in run.cpu_seconds),
                f"{sum(run.cpu_seconds) / sum(single.cpu_seconds):.2f}",
                f"{run.cores:.2f}",
                f"{run.load:.1f}",
            )
        )
    return markdown(header, rows)


def main() -> None:
    """Measure both steps, print the table."""
    from serve_model import make_shop

    from sidtool.integrations.cluster.recommendations import recommend_folder
    from sidtool.integrations.cluster.vectors import embed_folder
    from sidtool.recommendation.recommend_options import RecommendOptions
    from sidtool.tokenizer.encoder.settings import Encoder

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoder")
    parser.add_argument("--model")
    parser.add_argument("--model-items", type=int, default=100_000, help="of a random model")
    parser.add_argument("--dim", type=int, default=256, help="width of a random model")
    parser.add_argument("--layers", type=int, default=4, help="layers of a random model")
    parser.add_argument("--items", type=int, default=16_384)
    parser.add_argument("--requests", type=int, default=8192)
    parser.add_argument("--shard-rows", type=int, default=512, help="rows of a shard")
    parser.add_argument("--workers", default="1,2", help="numbers of workers")
    parser.add_argument("--num-beams", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    workers = [int(count) for count in args.workers.split(",")]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.model is None:
            args.model = str(make_shop(folder, args.model_items, args.dim, args.layers).model)
        write_items(folder / "items.parquet", args.items)
        write_requests(folder / "requests.parquet", args.model, args.requests)
        items, requests = (str(folder / f"{stem}.parquet") for stem in ("items", "requests"))
        encoder = Encoder(args.encoder)
        search = RecommendOptions(num_beams=args.num_beams)
        size = {"shard_rows": args.shard_rows}

        def embed(out: Path, run: Any) -> Any:
            return embed_folder(items, str(out), encoder, run=run, **size)

        def recommend(out: Path, run: Any) -> Any:
            return recommend_folder(args.model, requests, str(out), search, run=run, **size)

        results = measure("embed", embed, folder, workers)
        results += measure("recommend", recommend, folder, workers)
    print(table(results))
    if args.json is not None:
        values = [asdict(result) for result in results]
        args.json.write_text(json.dumps({"results": values, **environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
