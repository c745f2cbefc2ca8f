"""Measure make-sft: training events per CPU second, for histories of SIDs and of titles.

    python benchmarks/sft_speed.py 2000000 [--tokenizer MODEL]

The events are those of `events_scale.py`, a title has three to eleven words. Reading the split, the
catalog and the bundle is not counted, writing the validation users is."""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from events_scale import item_count, write_bundle, write_events

TASKS = ("sequence", "next-item", "title-history-to-sid", "history-to-title")
WORDS = ("cream", "lotion", "brush", "nail gel", "hair", "shampoo", "natural", "pack of", "two")


def write_titles(path: Path, n_items: int) -> None:
    """A catalog of items with titles."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    titles = [" ".join(rng.choice(WORDS, size)) for size in rng.integers(3, 12, n_items)]
    ids = [f"item-{row}" for row in range(n_items)]
    pq.write_table(pa.table({"item_id": ids, "title": titles}), path)


def examples_speed(
    bundle: Any, items: Any, split: Any, task: str, tokenizer: Any | None = None
) -> dict[str, float]:
    """The speed of one task, of opened inputs."""
    from sidtool.examples import SftOptions, make_sft

    events = split.counts.train_events
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "train.jsonl"
        clocks = time.perf_counter(), time.process_time()
        make_sft(bundle, items, split, out, SftOptions({task: 1.0}), tokenizer=tokenizer)
        seconds, cpu_seconds = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
        size = out.stat().st_size
    return {
        "events": events,
        "bytes": size,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "events_per_cpu_second": events / cpu_seconds,
    }


def main() -> None:
    """Measure every task."""
    from transformers import AutoTokenizer

    from sidtool import open_bundle
    from sidtool.data import read_items
    from sidtool.data.split import open_split

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("events", type=int)
    parser.add_argument("--tokenizer", help="a model whose tokenizer measures the examples")
    arguments = parser.parse_args()
    n_items = item_count(arguments.events)
    tokenizer = arguments.tokenizer and AutoTokenizer.from_pretrained(arguments.tokenizer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder / "events.parquet", arguments.events)
        write_titles(folder / "items.parquet", n_items)
        write_bundle(folder / "shop.zarr", n_items)
        split = open_split(folder / "events.parquet")
        bundle, items = open_bundle(str(folder / "shop.zarr")), read_items(folder / "items.parquet")
        assert split.reference.digest  # computed once for all tasks
        tasks = {task: examples_speed(bundle, items, split, task, tokenizer) for task in TASKS}
    print(json.dumps({"environment": environment(), "tasks": tasks}, indent=2))


if __name__ == "__main__":
    main()
