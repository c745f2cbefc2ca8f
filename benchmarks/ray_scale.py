"""Measure two workers of a Ray cluster on this machine against one, for embed and recommend.

    python benchmarks/ray_scale.py MODEL ENCODER [--items 4096] [--requests 8192] [--workers 1,2]

MODEL is a folder of `sidtool train`, ENCODER one of sentence-transformers. Items are titles of
random words, requests random histories of the model's items. The start of the cluster is not in the
seconds, but what each worker loads is: take enough items. On a busy machine the ratio says little.
The parts of every run are compared with those of one process."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from table import markdown

WORDS = ("red", "blue", "steel", "oak", "lamp", "desk", "soap", "novel", "kettle", "bottle")


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


def measure(
    name: str, run: Callable[[Path, Any], Any], folder: Path, workers: list[int]
) -> list[dict[str, Any]]:
    """Seconds of one process, and of each number of workers."""
    from sidtool.cluster.engine import ray_cluster
    from sidtool.cluster.run import RunOptions

    results = []
    expected: dict[str, bytes] = {}
    for count in (0, *workers):
        options = RunOptions() if count == 0 else RunOptions("ray", count)
        out = folder / f"{name}-{count}"
        if count == 0:
            start = time.perf_counter()
            run(out, options)
            seconds = time.perf_counter() - start
            expected = parts_of(out)
        else:
            with ray_cluster(count):  # its start is not measured
                start = time.perf_counter()
                run(out, options)
                seconds = time.perf_counter() - start
            if parts_of(out) != expected:
                raise SystemExit(f"{name}: the parts of {count} workers differ")
        results.append({"step": name, "workers": count, "seconds": seconds})
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    """Measure both steps, print the table."""
    from sidtool.cluster.recommendations import recommend_folder
    from sidtool.cluster.vectors import embed_folder
    from sidtool.encoder.settings import Encoder
    from sidtool.recommendation.recommend_options import RecommendOptions

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("encoder")
    parser.add_argument("--items", type=int, default=4096)
    parser.add_argument("--requests", type=int, default=8192)
    parser.add_argument("--shard-rows", type=int, default=512, help="rows of a shard")
    parser.add_argument("--workers", default="1,2", help="numbers of workers")
    parser.add_argument("--num-beams", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    workers = [int(count) for count in args.workers.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_items(folder / "items.parquet", args.items)
        write_requests(folder / "requests.parquet", args.model, args.requests)
        items, requests = (str(folder / f"{each}.parquet") for each in ("items", "requests"))
        encoder = Encoder(args.encoder)
        search = RecommendOptions(num_beams=args.num_beams)
        size = {"shard_rows": args.shard_rows}

        def embed(out: Path, run: Any) -> Any:
            return embed_folder(items, str(out), encoder, run=run, **size)

        def recommend(out: Path, run: Any) -> Any:
            return recommend_folder(args.model, requests, str(out), search, run=run, **size)

        results = measure("embed", embed, folder, workers)
        results += measure("recommend", recommend, folder, workers)
    first = {row["step"]: row["seconds"] for row in results if row["workers"] == 1}
    rows = [
        (
            row["step"],
            row["workers"] or "none",
            f"{row['seconds']:.1f}",
            f"{first[row['step']] / row['seconds']:.2f}" if row["step"] in first else "",
        )
        for row in results
    ]
    print(markdown(["step", "workers", "seconds", "speed-up over one worker"], rows))
    if args.json is not None:
        args.json.write_text(json.dumps({"results": results, **environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
