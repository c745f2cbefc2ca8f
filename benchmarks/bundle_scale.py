"""Measure what it takes to open a bundle of many items and to look up items in it.

    python benchmarks/bundle_scale.py [SIZE ...] [--in-parts SIZE ...] [--build SIZE ...] [-o FILE]

A bundle has random SIDs of three levels, ids of 10 bytes, titles of 24 bytes and no codebook. It is
written from mapped files: 75 bytes of disk per item, twice. Steps of a new process: open it, 64
items to SIDs and back, the item map, the trie, 10,000 items to SIDs and back, 10,000 titles. Each
peak is that of the process's anonymous memory up to this step (RssAnon: pages of files are the
cache). Sizes in `--in-parts` are measured as larger ones are, too: with ids, titles and index read
in parts. Sizes in `--build` are built: `build_codebook` from a Parquet catalog with such ids and
titles, a folder of vectors of 16 dimensions, and a memory budget of 256 MiB. Both have row groups
of 131,072 rows: reading one of a million new texts takes 0.5 GB, whatever the number of items."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from environment import command_line, environment
from memory_scale import own_memory, peak_memory
from table import markdown

ROWS = 1 << 20
"""Items that are made at once."""
FEW, MANY = 64, 10_000
"""Look-ups."""
DIGITS = 9
TITLE = b"item          of a shop."
"""With the digits of the id behind its first word."""
LEVELS = (64,) * 5
DIM = 16
"""Of the codebook and the vectors of a build."""
MIB = 1 << 20


def mapped(folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """A new array in a mapped file."""
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)


def write(n: int, out: Path, folder: Path) -> None:
    """Write a bundle of n items."""
    from sidtool.tokenizer.bundle import Bundle, StringArray
    from sidtool.tokenizer.bundle.item_map import ItemMap
    from sidtool.tokenizer.sid import Levels, SidSpace

    space = SidSpace(Levels.for_items(n).sizes)
    gap = space.capacity // n
    rng = np.random.default_rng(0)
    codes = mapped(folder, "codes", (n, space.levels), np.uint16)
    widths = {"id": 1 + DIGITS, "title": len(TITLE)}
    texts = {name: mapped(folder, name, (n, width), np.uint8) for name, width in widths.items()}
    last = np.uint64(0)
    for first in range(0, n, ROWS):
        rows = slice(first, min(first + ROWS, n))
        keys = last + np.cumsum(rng.integers(1, 2 * gap - 1, rows.stop - first), dtype=np.uint64)
        last = keys[-1]
        codes[rows] = space.unpack(keys)
        # each number once: 7919 divides no power of ten
        numbers = np.arange(first, rows.stop) * 7919 % n
        digits = numbers[:, None] // 10 ** np.arange(DIGITS)[::-1] % 10 + ord("0")
        texts["id"][rows, 0] = ord("i")
        texts["id"][rows, 1:] = digits
        texts["title"][rows] = np.frombuffer(TITLE, dtype=np.uint8)
        texts["title"][rows, 5 : 5 + DIGITS] = digits
    strings = {}
    for name, width in widths.items():
        offsets = mapped(folder, f"{name}_offset", (n + 1,), np.int64)
        for first in range(0, n + 1, ROWS):
            offsets[first : first + ROWS] = np.arange(first, min(first + ROWS, n + 1)) * width
        strings[name] = StringArray(texts[name].reshape(-1), offsets)
    items = ItemMap(space, strings["id"], codes, np.zeros(n, dtype=np.bool_), strings["title"])
    Bundle.of(items, None, "reassign", name="scale").save(out)


def query(path: Path, n: int, in_parts: bool) -> dict[str, Any]:
    """The seconds, CPU seconds and peak of each step in this process."""
    from sidtool.tokenizer.bundle import Bundle, contents, item_map

    if in_parts:
        item_map.LARGE = contents.LARGE = 0  # type: ignore[attr-defined]
    ids = [f"i{number:0{DIGITS}d}" for number in np.random.default_rng(1).integers(0, n, MANY)]
    bundle = Bundle.open(path)  # imports
    steps: dict[str, dict[str, float]] = {}

    def there_and_back(ids: list[str]) -> None:
        if any(bundle.item_ids(bundle.sid(item)) != [item] for item in ids):
            raise SystemExit("an item is not found by its SID")

    def step(name: str, work: Callable[[], Any]) -> Any:
        peaks: list[int] = []
        clocks = time.perf_counter(), time.process_time()
        with peak_memory(peaks):
            result = work()
        seconds = time.perf_counter() - clocks[0]
        cpu = time.process_time() - clocks[1]
        steps[name] = {"seconds": seconds, "cpu_seconds": cpu, "peak": peaks[0]}
        return result

    before = own_memory()
    bundle = step("open", lambda: Bundle.open(path))
    step("few", lambda: there_and_back(ids[: FEW // 2]))
    items = step("items", lambda: bundle.items)
    trie = step("trie", bundle.trie)
    step("many", lambda: there_and_back(ids))
    rows = items.rows(ids).tolist()
    step("titles", lambda: [items.title(row) for row in rows])
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "items": n,
        "levels": list(bundle.space.sizes),
        "in_parts": in_parts or n > item_map.LARGE,
        "before": before,
        "bytes": size,
        "trie_bytes": trie.nbytes,
        "steps": steps,
        "peak": max(figures["peak"] for figures in steps.values()),
    }


def build(folder: Path, n: int) -> dict[str, Any]:
    """Build and save a bundle of n items in this process."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sidtool import build_codebook

    rng = np.random.default_rng(0)
    (folder / "items").mkdir()
    (folder / "vectors").mkdir()
    for first in range(0, n, ROWS):
        rows = range(first, min(first + ROWS, n))
        ids = pa.array([f"i{row:0{DIGITS}d}" for row in rows])
        titles = pa.array([f"item {row:0{DIGITS}d} of a shop." for row in rows])
        vectors = pa.array(rng.standard_normal(len(rows) * DIM, dtype=np.float32))
        lists = pa.FixedSizeListArray.from_arrays(vectors, DIM)
        name = f"{first:09d}.parquet"
        for kind, column in (("title", titles), ("vector", lists)):
            path = folder / ("items" if kind == "title" else "vectors") / name
            pq.write_table(pa.table({"item_id": ids, kind: column}), path, row_group_size=1 << 17)
    del ids, titles, vectors, lists
    pa.default_memory_pool().release_unused()
    peaks: list[int] = []
    before = own_memory()
    clocks = time.perf_counter(), time.process_time()
    with peak_memory(peaks):
        bundle = build_codebook(
            folder / "items",
            folder / "scale.zarr",
            embeddings=folder / "vectors",
            levels="x".join(map(str, LEVELS)),
            memory_limit=256 << 20,
        )
    return {
        "items": n,
        "seconds": time.perf_counter() - clocks[0],
        "cpu_seconds": time.process_time() - clocks[1],
        "before": before,
        "peak": peaks[0],
        "digest": bundle.digest,
    }


def in_own_process(*arguments: Any) -> dict[str, Any]:
    """`query` or, of two arguments, `build` in a new process."""
    command = [sys.executable, __file__, "--child", json.dumps(arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def result_row(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    steps = result["steps"]
    return [
        f"{result['items']:,}",
        "in parts" if result["in_parts"] else "whole",
        f"{result['bytes'] / MIB:,.0f}",
        *(f"{steps[name]['cpu_seconds']:.2f}" for name in steps),
        *(f"{steps[name]['peak'] / MIB:,.0f}" for name in ("few", "items", "trie", "titles")),
    ]


def built_row(result: dict[str, Any]) -> list[str]:
    """One line of the table of builds."""
    peak = result["peak"] - result["before"]
    return [
        f"{result['items']:,}",
        f"{peak / MIB:,.0f}",
        f"{peak / result['items']:.0f}",
        f"{result['cpu_seconds']:.0f}",
        result["digest"][:12],
    ]


def main() -> None:
    """Measure each size, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("items", type=int, nargs="*", default=[])
    parser.add_argument("--in-parts", type=int, nargs="*", default=[])
    parser.add_argument("--build", type=int, nargs="*", default=[])
    parser.add_argument("--work", type=Path, help="put temporary files here")
    parser.add_argument("-o", "--out", type=Path, help="write the results to this file")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.child is not None:
        path, *settings = args.child
        work = build if len(settings) == 1 else query
        print(json.dumps(work(Path(path), *settings)))
        return
    results: list[dict[str, Any]] = []
    built = []
    for n in args.build:
        with tempfile.TemporaryDirectory(dir=args.work) as folder:
            built.append(in_own_process(folder, n))
    for n in args.items:
        with tempfile.TemporaryDirectory(dir=args.work) as place:
            path = Path(place) / "scale.zarr"
            peaks: list[int] = []
            with peak_memory(peaks), tempfile.TemporaryDirectory(dir=args.work) as folder:
                write(n, path, Path(folder))
            for in_parts in (False, True) if n in args.in_parts else (False,):
                results.append({**in_own_process(str(path), n, in_parts), "written": peaks[0]})
    if args.out is not None:
        report: dict[str, Any] = {"results": results, "built": built}
        report["command"] = command_line("bundle_scale.py", sys.argv[1:])
        args.out.write_text(json.dumps(report | environment(), indent=1) + "\n")
    header = ["items", "read", "MiB on disk", "open", f"{FEW} look-ups", "items", "trie"]
    header += [f"{MANY:,} items to SIDs and back", f"{MANY:,} titles"]
    header += [f"peak of {name}, MiB" for name in ("look-ups", "items", "trie", "all")]
    print(markdown(header, map(result_row, results)))
    built_header = ["items built", "peak, MiB", "bytes per item", "CPU seconds", "digest"]
    print(markdown(built_header, map(built_row, built)))


if __name__ == "__main__":
    main()
