"""Measure the nearest items by content: by cells, beside the comparison of all pairs.

    python benchmarks/content_scale.py [VECTORS.npy ...] [--sizes 50000,200000] [--dim 128]

For each file of (n, dim) vectors, and each number of random vectors around n / 100 centers: seconds
of both ways, and the share of the neighbors of all pairs that the cells find. `--cells-only` leaves
out the comparison of all pairs."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from table import markdown

from sidtool.data.vectors import Vectors
from sidtool.memory import content
from sidtool.tokenizer.quantize.mlp import unit


def random_vectors(n: int, dim: int) -> Vectors:
    """n vectors around n / 100 centers, whose distances are about those to the centers."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(n // 100, dim)).astype(np.float32)
    vectors = centers[rng.integers(len(centers), size=n)]
    return vectors + rng.normal(size=(n, dim)).astype(np.float32)


def timed(directions: Vectors, most_compared: int) -> tuple[Any, float]:
    """The neighbors, and the CPU seconds they take."""
    content.MOST_COMPARED = most_compared
    started = time.process_time()
    result = content.nearest_items(directions)
    return result, time.process_time() - started


def measure(name: str, vectors: Vectors, cells_only: bool) -> list[str]:
    """A row of the table."""
    directions = unit((vectors - vectors.mean(axis=0, dtype=np.float64)).astype(np.float32))
    by_cells, cell_seconds = timed(directions, 0)
    row = [name, f"{len(vectors):,}", str(vectors.shape[1]), f"{cell_seconds:.1f}"]
    if cells_only:
        return [*row, "", ""]
    exact, seconds = timed(directions, len(vectors))
    share = by_cells.multiply(exact > 0).nnz / exact.nnz
    return [*row, f"{seconds:.1f}", f"{share:.3f}"]


def rows(args: argparse.Namespace) -> Iterator[list[str]]:
    for path in args.vectors:
        yield measure(path.stem, np.load(path).astype(np.float32), args.cells_only)
    for size in args.sizes:
        yield measure("random", random_vectors(size, args.dim), args.cells_only)


def main() -> None:
    """Print the table, and the machine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vectors", type=Path, nargs="*")
    parser.add_argument(
        "--sizes", type=lambda text: [int(size) for size in text.split(",") if size], default=[]
    )
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--cells-only", action="store_true")
    args = parser.parse_args()
    header = ["vectors", "n", "dim", "CPU s, by cells", "CPU s, all pairs", "neighbors found"]
    print(markdown(header, list(rows(args))))
    print(environment())


if __name__ == "__main__":
    main()
