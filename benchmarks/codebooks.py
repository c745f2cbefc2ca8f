"""Compare codebooks: every method on Beauty, k-means with faiss and scikit-learn, ten million
items.

    python benchmarks/codebooks.py [--quick] [--json FILE] [--data FOLDER --vectors FILE] [PART ...]

`methods` needs Beauty's items and imported indexes (`--data`) and the items' vectors (`--vectors`,
.npy in the order of the items). `speed` and `balanced` compare with those of faiss, scikit-learn
and k-means-constrained that are installed. `scale` first writes vectors of `--items` items to
`--work`. `--json` adds the results to a file. `--quick` uses small sizes, which only show that the
parts work."""

import argparse
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import numpy as np
from environment import environment

from sidtool.tokenizer.quantize.methods import METHODS, Method

SIZES = (256, 256, 256)
CLOSE = 1e-5
"""A code is checked if the second nearest centroid is farther by more than this."""


def mixture(seed: int, n: int, dim: int, clusters: int = 1000) -> Any:
    """(n, dim) float32 from clusters of uneven weight, which are the same for every seed."""
    centers = np.random.default_rng(0).standard_normal((clusters, dim), dtype=np.float32)
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, clusters + 1)
    noise = rng.standard_normal((n, dim), dtype=np.float32)
    noise *= np.float32(0.7)
    noise += centers[rng.choice(clusters, n, p=weights / weights.sum())]
    return noise


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of the work, its wall-clock seconds and its CPU seconds."""
    clock = time.perf_counter()
    processor = time.process_time()
    result = work()
    return result, time.perf_counter() - clock, time.process_time() - processor


# Methods
# ------------------------------------------------------------------------------------------------


def check_nearest(vectors: Any, codebook: Any) -> dict[str, float]:
    """The share of vectors whose codes have a clear margin, and of those to which torch assigns the
    same codes in float32.

    Every code with a clear margin must be the nearest one in float64, and for torch."""
    residual, clear = (
        codebook.transform(vectors).astype(np.float64),
        np.ones(len(vectors), dtype=bool),
    )
    codes = codebook.encode(vectors)
    for level, column in zip(codebook.levels, codes.T, strict=True):
        centroids = level.astype(np.float64)
        distances = np.square(residual).sum(axis=1)[:, None] - 2 * residual @ centroids.T
        distances += np.square(centroids).sum(axis=1)
        near = (
            np.partition(distances, 1, axis=1)[:, :2]
            if len(level) > 1
            else np.zeros((len(vectors), 2))
        )
        clear &= near[:, 1] - near[:, 0] > CLOSE
        if (distances.argmin(axis=1) != column)[clear].any():
            raise SystemExit(f"{codebook.method}: a code is not the nearest one")
        residual -= centroids[column]
    agree = (codes_by_torch(codebook.transform(vectors), codebook.levels) == codes).all(axis=1)
    if not agree[clear].all():
        raise SystemExit(f"{codebook.method}: torch and numpy disagree where the margin is clear")
    return {"clear": float(clear.mean()), "torch_agrees": float(agree.mean())}


def codes_by_torch(latent: Any, levels: Any) -> Any:
    """The nearest centroid of each residual, level by level, computed by torch."""
    import torch

    residual, codes = torch.from_numpy(latent), []
    for level in map(torch.from_numpy, levels):
        parts = [
            torch.cdist(rows, level, compute_mode="donot_use_mm_for_euclid_dist")
            for rows in residual.split(1024)
        ]
        codes.append(torch.cat(parts).argmin(dim=1))
        residual = residual - level[codes[-1]]
    return torch.stack(codes, dim=1).numpy()


def check_method(vectors: Any, method: Method, options: dict[str, Any]) -> None:
    """The same seed gives the same codebook, and more equal items than a level has codes still get
    different SIDs."""
    from sidtool.tokenizer.codes.assign import assign
    from sidtool.tokenizer.quantize.methods import fit

    short: dict[str, Any] = {"epochs": 2} if "epochs" in METHODS[method].options else {}
    rows = vectors[:4000].copy()
    rows[: SIZES[-1] + 44] = rows[0]
    one, two = (fit(rows, SIZES, method=method, **short, **options) for _ in range(2))
    if any((a != b).any() for a, b in zip(one.levels, two.levels, strict=True)):
        raise SystemExit(f"{method}: the same seed gave another codebook")
    codes = assign(
        one.encode(rows), rows, one, [f"{row:05}" for row in range(len(rows))], "reassign"
    ).codes
    if len(np.unique(codes, axis=0)) != len(rows):
        raise SystemExit(f"{method}: duplicate SIDs under reassign")


def methods(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every method with its defaults on Beauty, checked, and the two imported indexes."""
    from sidtool.data.items import read_items
    from sidtool.integrations.formats.minionerec import read_minionerec
    from sidtool.tokenizer.make.build import BuildOptions, build
    from sidtool.tokenizer.make.compare import Evidence, describe

    data = arguments.data
    if arguments.vectors is None or data is None:
        raise SystemExit("methods needs --data FOLDER (Amazon Beauty) and --vectors FILE")
    items, vectors = read_items(data / "items.jsonl"), np.load(arguments.vectors)
    evidence = Evidence(tuple(items.ids), vectors)
    variants: list[tuple[Method, dict[str, Any]]] = [(method, {}) for method in get_args(Method)]
    for method, options in [*variants, ("rq-kmeans", {"balanced": True})]:
        check_method(vectors, method, options)
        has_epochs = "epochs" in METHODS[method].options
        short = {"epochs": 2} if arguments.quick and has_epochs else {}
        plan = BuildOptions(SIZES, method, {**options, **short})
        bundle = build(items, [vectors], plan, name=method, encoder={"vectors": "given"})
        if any(item not in bundle.item_ids(bundle.sid(item)) for item in items.ids[::50]):
            raise SystemExit(f"{method}: an item is not found by its SID")
        checked = check_nearest(vectors, bundle.codebook)
        yield row_of(" ".join([method, *options]), describe(bundle, evidence)) | checked
    lines = by_first_appearance(items, data / "interactions.csv")
    for kind in ("rqvae", "rkmeans"):
        bundle = read_minionerec(
            data / f"{kind}_native.index.json", name=kind, items=lines, keys="line"
        )
        yield row_of(f"imported {kind}", describe(bundle, evidence))


def by_first_appearance(items: Any, interactions: Path) -> Any:
    """The items in the order of their first appearance in the interactions, in which the imported
    indexes number them.

    The vectors confirm it: two items with the same first code have a mean cosine of .47 in this
    order, and of .27 (that of any two items) in the order of the catalog or of the ids."""
    from sidtool.data.interactions import read_interactions
    from sidtool.data.items import make_items

    row = {item: at for at, item in enumerate(items.ids)}
    order = [row[item] for item in dict.fromkeys(read_interactions(interactions).items)]
    columns = (
        tuple(column[at] for at in order) for column in (items.ids, items.titles, items.texts)
    )
    return make_items(*columns, fields={}, template=items.text_template)


def row_of(name: str, figures: Any) -> dict[str, Any]:
    """One line of the table, from the figures that `compare` measures."""
    before = figures.before or figures.after
    return {
        "method": name,
        "codes": "x".join(map(str, figures.sizes)),
        "utilization": [round(level.use.utilization, 3) for level in figures.levels],
        "collide_before": before.items / figures.items,
        "collide_after": figures.after.items / figures.items,
        "reassigned": figures.reassigned,
        "residual_variance": figures.residual_variance,
        "neighbors": [round(level.neighbors, 3) for level in figures.levels],
        "seconds": figures.seconds,
    }


# Speed
# ------------------------------------------------------------------------------------------------


def residual(vectors: Any, cluster: Callable[[Any], Any]) -> float:
    """Variance left after three levels of (centroids, codes) = cluster(residual)."""
    left, total = (
        vectors - vectors.mean(axis=0),
        float(np.square(vectors - vectors.mean(axis=0)).sum()),
    )
    for _ in SIZES:
        centroids, codes = cluster(left)
        left = left - centroids[codes]
    return float(np.square(left, dtype=np.float64).sum()) / total


def by_sidtool(vectors: Any) -> float:
    """Residual variance after fit and encode."""
    from sidtool.tokenizer.codes.measure import residual_variance
    from sidtool.tokenizer.quantize.methods import fit

    codebook = fit(vectors, SIZES)
    return residual_variance(vectors, codebook, codebook.encode(vectors))[-1]


def by_faiss(vectors: Any) -> float:
    """faiss.Kmeans level by level, 20 iterations, its default sampling."""
    import faiss

    def cluster(left: Any) -> Any:
        kmeans = faiss.Kmeans(left.shape[1], 256, niter=20, seed=0)
        kmeans.train(left)
        return kmeans.centroids, kmeans.index.search(left, 1)[1][:, 0]

    return residual(vectors, cluster)


def by_sklearn(vectors: Any) -> float:
    """scikit-learn's KMeans level by level on all vectors, with greedy k-means++; 20 iterations, as
    faiss, for a million vectors."""
    from sklearn.cluster import KMeans

    most = 300 if len(vectors) <= 100_000 else 20  # its default, 300, would take hours

    def cluster(left: Any) -> Any:
        kmeans = KMeans(256, n_init=1, max_iter=most, random_state=0).fit(left)
        return kmeans.cluster_centers_, kmeans.labels_

    return residual(vectors, cluster)


def speed(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seconds and residual variance of every library, one after the other."""
    sizes = [4_000] if arguments.quick else [100_000, *([1_000_000] if arguments.large else [])]
    for n in sizes:
        vectors = mixture(1, n, 384)
        sides = [
            ("sidtool", None, by_sidtool),
            ("faiss", "faiss", by_faiss),
            ("scikit-learn", "sklearn", by_sklearn),
        ]
        for name, package, work in sides:
            if name not in arguments.sides:
                continue
            if package and find_spec(package) is None:
                yield {"what": f"{name} is not installed", "vectors": n}
                continue
            left, clock, processor = timed(lambda: work(vectors))
            yield {
                "what": name,
                "rows": n,
                "seconds": clock,
                "processor": processor,
                "residual_variance": left,
            }
    yield from assignment(arguments)


def assignment(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The nearest of 256 centroids for 65,536 vectors, the step that faiss could do."""
    from sidtool.tokenizer.quantize.kmeans import nearest

    vectors = mixture(2, 4096 if arguments.quick else 65_536, 384)
    centroids = vectors[:256].copy()
    (codes, _), clock, processor = timed(lambda: nearest(vectors, centroids))
    yield {
        "what": "nearest by numpy",
        "rows": len(vectors),
        "seconds": clock,
        "processor": processor,
    }
    if find_spec("faiss") is not None:
        import faiss

        index = faiss.IndexFlatL2(vectors.shape[1])
        index.add(centroids)
        (_, faiss_codes), clock, processor = timed(lambda: index.search(vectors, 1))
        agree = float((faiss_codes[:, 0] == codes).mean())
        row = {
            "what": "nearest by faiss",
            "rows": len(vectors),
            "seconds": clock,
            "processor": processor,
        }
        yield row | {"agree": agree}


def balanced(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Balanced k-means and k-means-constrained: 256 clusters, 64 dimensions, more and more vectors
    until one takes longer than `--patience`."""
    rows = [2_000] if arguments.quick else arguments.balanced_rows
    waited = find_spec("k_means_constrained") is not None
    if not waited:
        yield {"what": "k-means-constrained is not installed"}
    for n in rows:
        results = {}
        sides = {"sidtool, balanced": balanced_by_sidtool}
        if waited:
            sides["k-means-constrained"] = balanced_by_flow
        for name, work in sides.items():
            measured = in_a_process(work, n, arguments.patience)
            if measured is None:
                yield {"what": name, "rows": n, "stopped after CPU seconds": arguments.patience}
                waited = False
                continue
            left, clock, processor = measured
            results[name] = (left, processor)
            yield {
                "what": name,
                "rows": n,
                "seconds": clock,
                "processor": processor,
                "residual_variance": left,
            }
        if len(results) == 2:
            (left, seconds), (their_left, their_seconds) = results.values()
            yield {
                "what": "ratio",
                "rows": n,
                "processor": their_seconds / seconds,
                "residual_variance": left / their_left,
            }


def vectors_to_balance(n: int) -> Any:
    """(n, 64) centered float32."""
    vectors = mixture(3, n, 64)
    return vectors - vectors.mean(axis=0)


def balanced_by_sidtool(n: int) -> float:
    """Residual variance of sidtool's balanced k-means."""
    from sidtool.tokenizer.quantize.rqkmeans import balanced_kmeans, even_codes, squared_distances

    vectors = vectors_to_balance(n)
    centroids, prices, _ = balanced_kmeans(vectors, 256, np.random.default_rng(0))
    distances = squared_distances(vectors, centroids)
    codes = even_codes(distances + prices)
    code_distances = distances[np.arange(n), codes]
    return float(code_distances.sum(dtype=np.float64) / np.square(vectors, dtype=np.float64).sum())


def balanced_by_flow(n: int) -> float:
    """Residual variance of k-means-constrained, which solves a minimum-cost flow in every
    iteration."""
    from k_means_constrained import KMeansConstrained

    vectors, even = vectors_to_balance(n), n // 256
    solver = KMeansConstrained(256, size_min=even, size_max=even + 1, n_init=1, random_state=0)
    return float(solver.fit(vectors).inertia_ / np.square(vectors, dtype=np.float64).sum())


def in_a_process(
    work: Callable[[int], float], n: int, patience: int
) -> tuple[float, float, float] | None:
    """The result of `timed` in a new process, or None if that takes more than `patience` CPU
    seconds."""
    spawn = get_context("spawn")
    queue = spawn.SimpleQueue()
    child = spawn.Process(target=_answer, args=(queue, work, n, patience))
    child.start()
    child.join()
    if child.exitcode == -signal.SIGXCPU:
        return None
    answer: tuple[float, float, float] = queue.get()
    return answer


def _answer(queue: Any, work: Callable[[int], float], n: int, patience: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (patience, patience + 1))
    queue.put(timed(lambda: work(n)))


# Scale
# ------------------------------------------------------------------------------------------------


def scale(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Build, save, load, verify and query a large catalog: seconds and peak memory of each step."""
    from sidtool.data.items import read_items
    from sidtool.data.vector_files import open_vectors
    from sidtool.tokenizer.bundle import Bundle
    from sidtool.tokenizer.make.build import BuildOptions, build_codebook

    n, work = 20_000 if arguments.quick else arguments.items, arguments.work
    work.mkdir(parents=True, exist_ok=True)
    out = work / "scale.zarr"

    def step(name: str, do: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
        result, clock, processor = timed(do)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        row = {
            "step": name,
            "items": n,
            "seconds": clock,
            "processor": processor,
            "peak_mib": round(peak),
        }
        return result, row

    yield step("write vectors", lambda: write_vectors(work, n))[1]
    items, row = step("read catalog", lambda: read_items(work / "items.csv"))
    yield row
    budget = arguments.memory_limit << 30
    source, row = step(
        "open vectors",
        lambda: open_vectors(work / "vectors.npy", items.ids, memory_limit=budget, by_row=True),
    )
    yield row
    plan = BuildOptions((256,) * 4)
    bundle, row = step(
        "build and save", lambda: build_codebook(items, out, plan, embeddings=source, force=True)
    )
    report = bundle.manifest.report
    row |= {"steps": report["seconds"], "sample": bundle.codebook.params.fit["sample"]}
    row |= {
        "collide_before": report["collisions"]["before"]["items"],
        "reassigned": report["reassigned"],
    }
    yield row | {
        "collide_after": report["collisions"]["after"]["items"],
        "residual_variance": report["residual_variance"],
    }
    loaded = Bundle.open(out)
    yield step("load", lambda: (loaded.items, loaded.codebook))[1]
    yield step("trie", loaded.trie)[1]
    sample_ids = [items.ids[row] for row in np.random.default_rng(1).integers(0, n, 10_000)]
    items_back, row = step(
        "10,000 items to SIDs and back",
        lambda: [loaded.item_ids(loaded.sid(item)) for item in sample_ids],
    )
    if any(item not in back for item, back in zip(sample_ids, items_back, strict=True)):
        raise SystemExit("an item is not found by its SID")
    yield row
    broken, row = step("verify", lambda: Bundle.broken(out))
    if broken:
        raise SystemExit(f"broken: {broken[:3]}")
    yield row


def write_vectors(work: Path, n: int, dim: int = 384) -> None:
    """Write a mixture to `vectors.npy` and its catalog to `items.csv`, unless they exist."""
    path, block = work / "vectors.npy", 1 << 13
    if path.exists() and np.load(path, mmap_mode="r").shape == (n, dim):
        return
    free = shutil.disk_usage(work).free
    if free < 1.3 * n * dim * 4:
        raise SystemExit(
            f"{n} vectors take {n * dim * 4 >> 30} GiB, and {work} has {free >> 30} GiB"
        )
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": (n, dim)}
        )
        rng = np.random.default_rng(0)
        centers, weights = (
            rng.standard_normal((20_000, dim), dtype=np.float32),
            1 / np.arange(1, 20_001),
        )
        spread = (
            rng.standard_normal((32, dim), dtype=np.float32)
            / np.arange(2, 34, dtype=np.float32)[:, None] ** 0.5
        )
        for first in range(
            0, n, block
        ):  # within a cluster items differ along few directions, as embeddings do
            rows = (
                rng.standard_normal((min(block, n - first), len(spread)), dtype=np.float32) @ spread
            )
            rows += centers[rng.choice(len(centers), len(rows), p=weights / weights.sum())]
            stream.write(rows.data)
    with (work / "items.csv").open("w") as stream:
        stream.write("item_id,title\n")
        stream.writelines(f"i{row},item {row}\n" for row in range(n))


# Crowding
# ------------------------------------------------------------------------------------------------


def crowded(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A catalog so dense that the prefix of most items is full."""
    from sidtool.tokenizer.codes.assign import assign
    from sidtool.tokenizer.codes.measure import residual_variance
    from sidtool.tokenizer.quantize.methods import fit

    n, size = (8_000, 24) if arguments.quick else (200_000, 64)
    vectors = mixture(4, n, 64, clusters=300)
    codebook = fit(vectors, (size,) * 3)
    raw, ids = codebook.encode(vectors), [f"{row:06}" for row in range(n)]
    assigned, clock, processor = timed(lambda: assign(raw, vectors, codebook, ids, "reassign"))
    row = {"items": n, "codes": "x".join([str(size)] * 3), "seconds": clock, "processor": processor}
    row |= {
        "moved_to_another_prefix": int((raw[:, :-1] != assigned.codes[:, :-1]).any(axis=1).sum()),
        "collide_after": assigned.after.items,
    }
    lost = {"raw": residual_variance(vectors, codebook, raw)[-1]}
    yield row | {
        "residual_variance": lost
        | {"after_reassignment": residual_variance(vectors, codebook, assigned.codes)[-1]}
    }


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "methods": methods,
    "speed": speed,
    "balanced": balanced,
    "crowded": crowded,
    "scale": scale,
}


def main() -> None:
    """Run the parts and print their results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is given"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="file that the results are added to")
    parser.add_argument("--vectors", type=Path, help="vectors of Beauty's items, .npy")
    parser.add_argument("--data", type=Path, help="folder of Amazon Beauty")
    parser.add_argument("--large", action="store_true", help="also 1,000,000 vectors in `speed`")
    sides = ["sidtool", "faiss", "scikit-learn"]
    parser.add_argument(
        "--sides", nargs="+", choices=sides, default=sides, help="libraries of `speed`"
    )
    sizes = [10_000, 12_500, 15_000, 20_000, 30_000, 50_000, 100_000]
    parser.add_argument("--balanced-rows", type=int, nargs="+", default=sizes, metavar="N")
    parser.add_argument(
        "--patience", type=int, default=600, help="CPU seconds that one balanced k-means may take"
    )
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--memory-limit", type=int, default=4, metavar="GIB")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work/scale"))
    arguments = parser.parse_args()
    print(json.dumps(environment()))
    for name in arguments.parts or PARTS:
        part_result: dict[str, Any] = {**environment(), "load": os.getloadavg()[0], "rows": []}
        for row in PARTS[name](arguments):
            cells = (
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in row.items()
            )
            print(" ".join(cells), flush=True)
            part_result["rows"].append(row)
            if arguments.json is not None:
                earlier = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
                arguments.json.write_text(
                    json.dumps({**earlier, name: part_result}, indent=1) + "\n"
                )


if __name__ == "__main__":
    main()
