"""Plan split, make-sft and build-memory for more events and items than were measured.

    python benchmarks/cluster_plan.py [--events 10000000000] [--items 1000000000] [-o RESULT.json]

The rates are those of results/cluster.json, between its two largest sizes: CPU seconds and shuffled
bytes per event. Parts and items grow together there, so memory is given twice: as if all of its
growth were that of the events of a part, and as if all were that of the items. A worker of `split`
holds no items.
The time of the workers is simulated: a worker takes the next part as soon as it is free, parts
differ in size as hashed users do, and a node that dies repeats the parts of its workers. All else
is arithmetic. Nothing here was measured at these sizes."""

import argparse
import heapq
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from data_path import item_count
from environment import command_line
from table import markdown

from sidtool.integrations.cluster.shards import part_count

RATES = Path(__file__).parent / "results" / "cluster.json"
PER_USER = 10
"""Events of a user."""
GIB = 1 << 30


@dataclass(frozen=True)
class Nodes:
    """The workers of a cluster."""

    workers: int
    per_node: int
    """Workers of a node"""
    memory: float
    """GiB of a worker, and of the node of the command"""
    network: float
    """GB per second of a node, to and from the shared file system"""
    deaths: float
    """Of a node, per hour"""


@dataclass(frozen=True)
class StepPlan:
    """What a step takes."""

    step: str
    core_hours: float
    """CPU of the workers"""
    worker_minutes: float
    """Simulated, with deaths"""
    network_minutes: float
    """To write and to read what workers exchange"""
    command_minutes: float
    """CPU of the command, which one process does"""
    shuffled_tb: float
    worker_gib_by_parts: float
    """Memory of a worker, if it grows with the events of a part"""
    worker_gib_by_items: float | None
    """The same, if it grows with the items; None where a worker holds none"""
    command_gib: float
    """Memory of the command, if it grows with the items"""


def worker_seconds(seconds: float, parts: int, users: float, nodes: Nodes, seed: int = 0) -> float:
    """Simulated seconds until the last of several parts is done, which take so many CPU seconds
    together."""
    rng = np.random.default_rng(seed)
    sizes = rng.normal(1.0, (parts / users) ** 0.5, size=parts)
    free = [(0.0, worker) for worker in range(nodes.workers)]
    heapq.heapify(free)
    end = 0.0
    for size in sizes:
        start, worker = heapq.heappop(free)
        stop = start + size * seconds / parts
        while rng.random() < 1 - np.exp(-nodes.deaths * (stop - start) / 3600):
            start = start + rng.random() * (
                stop - start
            )  # the node died here: the part begins again
            stop = start + size * seconds / parts
        heapq.heappush(free, (stop, worker))
        end = max(end, stop)
    return end


def plan_step(
    step: str, runs: Sequence[Mapping[str, Any]], events: float, items: float, nodes: Nodes
) -> StepPlan:
    """The plan of a step by its runs of one worker, by size."""
    before, last = runs[-2:]
    more = last["events"] - before["events"]

    def per_event(value: str) -> float:
        one, other = (
            run[value] if value in run else run["command"][value] for run in (before, last)
        )
        return float(other - one) / more

    def per_unit(peaks: Sequence[float], sizes: Sequence[float]) -> float:
        more_units = sizes[1] - sizes[0]
        return max(0.0, peaks[1] - peaks[0]) / more_units if more_units else 0.0

    parts = part_count(int(events))
    part_events = [run["events"] / part_count(run["events"]) for run in (before, last)]
    run_items = [run.get("items", item_count(run["events"])) for run in (before, last)]
    worker = [run["worker_peak"] for run in (before, last)]
    command = [run["command"]["peak"] for run in (before, last)]
    by_parts = worker[1] + per_unit(worker, part_events) * (events / parts - part_events[1])
    by_items = worker[1] + per_unit(worker, run_items) * (items - run_items[1])
    command_bytes = command[1] + per_unit(command, run_items) * (items - run_items[1])
    seconds = per_event("worker_cpu_seconds") * events
    shuffled = per_event("shuffled") * events
    n_nodes = nodes.workers / nodes.per_node
    return StepPlan(
        step=step,
        core_hours=seconds / 3600,
        worker_minutes=worker_seconds(seconds, parts, events / PER_USER, nodes) / 60,
        network_minutes=2 * shuffled / (n_nodes * nodes.network * 1e9) / 60,
        command_minutes=per_event("cpu_seconds") * events / 60,
        shuffled_tb=shuffled / 1e12,
        worker_gib_by_parts=by_parts / GIB,
        worker_gib_by_items=None if step == "split" else by_items / GIB,
        command_gib=command_bytes / GIB,
    )


def breaks_first(plans: Sequence[StepPlan], nodes: Nodes) -> list[str]:
    """What does not fit, the most excessive first."""
    needs = [
        (plan.worker_gib_by_items or plan.worker_gib_by_parts, f"{plan.step}: memory of a worker")
        for plan in plans
    ]
    needs += [(plan.command_gib, f"{plan.step}: memory of the command") for plan in plans]
    return [
        f"{name}, up to {need:,.0f} GiB of {nodes.memory:,.0f}"
        for need, name in sorted(needs, reverse=True)
        if need > nodes.memory
    ]


def main() -> None:
    """Print the table and what breaks first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=float, default=1e10)
    parser.add_argument("--items", type=float, default=1e9)
    parser.add_argument("--workers", type=int, default=512)
    parser.add_argument("--per-node", type=int, default=8)
    parser.add_argument("--memory", type=float, default=16.0, help="GiB of a worker")
    parser.add_argument("--network", type=float, default=1.25, help="GB per second of a node")
    parser.add_argument("--deaths", type=float, default=0.01, help="of a node, per hour")
    parser.add_argument("-o", "--out", type=Path, help="write the results to this file")
    args = parser.parse_args()
    nodes = Nodes(args.workers, args.per_node, args.memory, args.network, args.deaths)
    by_step: dict[str, list[Any]] = {}
    for run in json.loads(RATES.read_text())["results"]:
        if run["workers"] == 1:
            by_step.setdefault(run["step"], []).append(run)
    plans = [
        plan_step(step, sorted(runs, key=lambda run: run["events"]), args.events, args.items, nodes)
        for step, runs in by_step.items()
    ]
    names = list(asdict(plans[0]))
    rows = []
    for plan in plans:
        step, *values = asdict(plan).values()
        rows.append([step, *("" if value is None else f"{value:,.1f}" for value in values)])
    print(markdown([name.replace("_", " ") for name in names], rows))
    broken = breaks_first(plans, nodes)
    for line in broken:
        print(f"does not fit: {line}")
    if args.out is not None:
        report = {
            "events": args.events,
            "items": args.items,
            "nodes": asdict(nodes),
            "plans": [asdict(plan) for plan in plans],
            "breaks": broken,
            "command": command_line("cluster_plan.py", sys.argv[1:]),
        }
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
