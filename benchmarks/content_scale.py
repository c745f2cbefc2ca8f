"""Measure the nearest items by content: by cells, beside the comparison of all pairs.

    python benchmarks/content_scale.py [ITEMS ...] [--sizes 60000,200000] [--dim 128] [-o FILE.json]

For the texts of each catalog by the lexical encoder, and for each number of random vectors around
n / 100 centers: CPU seconds of both ways, and the share of the neighbors of all pairs that the
cells find. More than `MOST_PAIRS` vectors are not compared in all pairs."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from environment import command_line, environment
from table import markdown

from sidtool.data import Vectors, read_items
from sidtool.memory import content
from sidtool.tokenizer.encoder.lexical import LexicalEncoder
from sidtool.tokenizer.quantize.mlp import unit

MOST_PAIRS = 100_000


@dataclass(frozen=True)
class Row:
    """One set of vectors; None where all pairs were not compared."""

    vectors: str
    n: int
    dim: int
    cells_seconds: float
    pairs_seconds: float | None
    found: float | None
    """Share of the neighbors of all pairs."""


def random_vectors(n: int, dim: int) -> Vectors:
    """n vectors around n / 100 centers, whose distances are about those to the centers."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(n // 100, dim)).astype(np.float32)
    vectors = centers[rng.integers(len(centers), size=n)]
    return vectors + rng.normal(size=(n, dim)).astype(np.float32)


def text_vectors(catalog: Path) -> Vectors:
    """The vectors of a catalog's texts."""
    texts = read_items(catalog).texts
    return LexicalEncoder.fit(texts).vectors(texts)


def timed(directions: Vectors, most_compared: int) -> tuple[Any, float]:
    """The neighbors, and the CPU seconds they take."""
    content.MOST_COMPARED = most_compared
    started = time.process_time()
    result = content.nearest_items(directions)
    return result, time.process_time() - started


def measure(name: str, vectors: Vectors) -> Row:
    """Both ways, with vectors of mean 0 and length 1."""
    directions = unit((vectors - vectors.mean(axis=0, dtype=np.float64)).astype(np.float32))
    n, dim = directions.shape
    by_cells, cells_seconds = timed(directions, 0)
    if n > MOST_PAIRS:
        return Row(name, n, dim, cells_seconds, None, None)
    exact, pairs_seconds = timed(directions, n)
    share = by_cells.multiply(exact > 0).nnz / exact.nnz
    return Row(name, n, dim, cells_seconds, pairs_seconds, share)


def measure_all(args: argparse.Namespace) -> Iterator[Row]:
    for path in args.items:
        yield measure(path.parent.name, text_vectors(path))
    for size in args.sizes:
        yield measure("random", random_vectors(size, args.dim))


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    cells = []
    for row in rows:
        pairs = "" if row.pairs_seconds is None else f"{row.pairs_seconds:.1f}"
        share = "" if row.found is None else f"{row.found:.3f}"
        cells.append(
            [row.vectors, f"{row.n:,}", str(row.dim), f"{row.cells_seconds:.1f}", pairs, share]
        )
    header = ["vectors", "n", "dim", "CPU s, by cells", "CPU s, all pairs", "neighbors found"]
    return markdown(header, cells)


def main() -> None:
    """Print the table, and write the results file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("items", type=Path, nargs="*")
    parser.add_argument(
        "--sizes", type=lambda text: [int(size) for size in text.split(",") if size], default=[]
    )
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("-o", "--out", type=Path, help="results file")
    args = parser.parse_args()
    rows = list(measure_all(args))
    print(table(rows))
    if args.out is not None:
        result = {
            "rows": [asdict(row) for row in rows],
            "command": command_line("content_scale.py", sys.argv[1:]),
            **environment(),
        }
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
