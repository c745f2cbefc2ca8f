"""What a codebook is like: how evenly its codes are used, what it loses, whom it puts together.

Knows vectors, codes and a codebook; knows nothing of items. Balance is reported, not pursued: over
published codebooks it barely predicts how well a model trained on them recommends. A level that
says next to nothing is another matter: it is told."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.vectors import VectorSource
from sidtool.quantize.codebook import Codebook
from sidtool.quantize.collisions import Assigned
from sidtool.quantize.mlp import unit
from sidtool.sid import Codes, Vectors

NEIGHBORS = 20
QUERIES = 500
POOL = 20_000
"""Neighbors are looked for among at most this many items: the cost stays the same from there on."""
MEASURED = 1 << 18
"""Errors are measured on at most this many items: their mean is then known to a thousandth."""
WASTED = 8
"""A level says little if evenly used codes would say as much with this many times fewer: three
bits."""
CHUNK = 128
ROWS = 8192


def codebook_report(
    vectors: Vectors | VectorSource,
    codebook: Codebook,
    raw: Codes,
    assigned: Assigned,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that is printed when a codebook was built, as a JSON object.

    `levels` describes the use of the final codes, `collisions` the SIDs before and after
    assignment, `moved` counts the items that do not have their nearest code. `variance_left[t]` is
    what the first t + 1 levels of the raw codes lose (the final codes: `variance_left_assigned`),
    of the `measured` items that the seed draws: 262,144 at most. `neighbors` is
    `neighbor_preservation` of the final codes."""
    source = VectorSource.of(vectors)
    most = min(len(source), MEASURED, source.limit)
    rows = np.sort(np.random.default_rng(seed).permutation(len(source))[:most])
    sample = source.take(rows)
    return {
        "items": len(raw),
        "levels": level_use(assigned.codes, assigned.space_sizes),
        "collisions": {"before": asdict(assigned.before), "after": asdict(assigned.after)},
        "moved": int(assigned.moved.sum()),
        "measured": len(rows),
        "variance_left": variance_left(sample, codebook, raw[rows]),
        "variance_left_assigned": variance_left(sample, codebook, assigned.codes[rows])[-1],
        "neighbors": neighbor_preservation(source, assigned.codes, codebook, seed=seed),
    }


def level_use(codes: Codes, sizes: tuple[int, ...]) -> list[dict[str, float]]:
    """Per level of (n, levels) codes: its size, share of codes used, entropy in bits, perplexity
    (2**entropy), Gini.

    The Gini coefficient is 0 where every code has as many items, and near 1 where one code has them
    all."""
    levels = []
    for column, size in zip(codes.T, sizes, strict=True):
        counts = np.sort(np.bincount(column, minlength=size))
        share = counts[counts > 0] / max(len(codes), 1)
        entropy = float(-(share * np.log2(share)).sum()) + 0.0  # no negative zero
        ranks = np.arange(1, size + 1)
        gini = float(((2 * ranks - size - 1) * counts).sum() / max(size * len(codes), 1))
        used = float(np.count_nonzero(counts) / size)
        levels.append(
            {
                "size": size,
                "used": used,
                "entropy": entropy,
                "perplexity": 2.0**entropy,
                "gini": gini,
            }
        )
    return levels


def wasted_levels(report: Mapping[str, Any]) -> list[tuple[int, dict[str, float]]]:
    """The levels of a report, with their numbers, whose few full codes hold nearly all items."""
    levels = enumerate(report["levels"])
    return [
        (level, use)
        for level, use in levels
        if use["perplexity"] * WASTED < min(use["size"], report["items"])
    ]


def variance_left(vectors: Vectors, codebook: Codebook, codes: Codes) -> list[float]:
    """Per depth: the squared error of (n, depth) codes as a share of the vectors' variance."""
    depth = min(codes.shape[1], len(codebook.levels))
    lost, total = np.zeros(depth), 0.0
    mean = codebook.prepare(vectors).mean(axis=0, dtype=np.float64)
    for start in range(0, len(codes), ROWS):
        rows = codebook.prepare(vectors[start : start + ROWS])
        total += float(np.square(rows - mean).sum())
        for level in range(depth):
            found = codebook.reconstruct(codes[start : start + ROWS, : level + 1])
            lost[level] += np.square(rows - found, dtype=np.float64).sum()
    return [float(share) for share in lost / (total or 1.0)]


def neighbor_preservation(
    vectors: Vectors | VectorSource, codes: Codes, codebook: Codebook | None, *, seed: int = 0
) -> dict[str, Any]:
    """Mean Jaccard overlap, per depth, of the 20 nearest items by embedding and the 20 nearest by
    SID prefix.

    By embedding: largest cosine. By SID at depth t: longest common prefix of the first t codes,
    then least distance between the sums of the first t centroids (none where there is no codebook,
    and an appended level adds none), then chance: a model that sees t codes cannot tell such items
    apart. 500 items are asked, among 20,000 at most, both drawn with the seed; the item itself is
    no neighbor."""
    rng = np.random.default_rng(seed)
    pool = rng.permutation(len(codes))[
        :POOL
    ]  # in random order, so the first of equals is one by chance
    queries, k = np.arange(min(QUERIES, len(pool))), min(NEIGHBORS, len(pool) - 1)
    facts = {"k": k, "queries": len(queries), "pool": len(pool)}
    if k < 1:
        return {**facts, "jaccard": [1.0] * codes.shape[1]}
    codes, directions = codes[pool], unit(VectorSource.of(vectors).take(pool))
    overlaps = np.zeros(codes.shape[1])
    for chunk in np.array_split(queries, -(-len(queries) // CHUNK)):
        near = _nearest(directions[chunk] @ directions.T, chunk, k)
        for depth in range(1, codes.shape[1] + 1):
            closeness = _shared_levels(codes[:, :depth], chunk)
            if codebook is not None:
                distances = _prefix_distances(
                    codes[:, : min(depth, len(codebook.levels))], chunk, codebook
                )
                closeness -= distances / (1 + distances.max())
            both = (near & _nearest(closeness, chunk, k)).sum(axis=1)
            overlaps[depth - 1] += (both / (2 * k - both)).sum()
    return {**facts, "jaccard": (overlaps / len(queries)).tolist()}


def _nearest(closeness: NDArray[Any], queries: NDArray[np.intp], k: int) -> NDArray[np.bool_]:
    """(q, n) closeness of queries to items -> (q, n) bool: the k closest other items; of equals,
    the first."""
    closeness[np.arange(len(queries)), queries] = -np.inf
    edge = np.partition(closeness, -k, axis=1)[:, -k, None]
    above, equal = closeness > edge, closeness == edge
    missing = k - above.sum(axis=1, keepdims=True)
    return above | (equal & (equal.cumsum(axis=1) <= missing))


def _shared_levels(codes: Codes, queries: NDArray[np.intp]) -> NDArray[np.float64]:
    """(q, n) float64: length of the common prefix of each query's codes and each item's."""
    alive = np.ones((len(queries), len(codes)), dtype=bool)
    shared = np.zeros(alive.shape)
    for column in codes.T:
        alive &= column[queries, None] == column
        shared += alive
    return shared


def _prefix_distances(
    codes: Codes, queries: NDArray[np.intp], codebook: Codebook
) -> NDArray[np.float64]:
    """(q, n) float64 squared distances between summed centroids; equal codes are equally far, to
    the last bit."""
    distinct, inverse = np.unique(codes, axis=0, return_inverse=True)
    sums = codebook.decode(distinct).astype(np.float64)
    norms = np.square(sums).sum(axis=1)
    own = inverse[queries]
    distances = norms[own, None] + norms - 2 * sums[own] @ sums.T
    return np.maximum(distances, 0)[:, inverse]
