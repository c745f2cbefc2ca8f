"""Measurements of codebooks and codes: use of codes, residual variance, preserved neighbors,
and what training events say about codes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.codes import report
from sidtool.tokenizer.codes.report import LevelUse, Neighbors
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.quantize.mlp import unit
from sidtool.tokenizer.sid import Codes, Levels

NEIGHBORS = 20
QUERIES = 500
POOL = 20_000
"""Most items among which neighbors are searched: the cost stays constant beyond."""
MAX_MEASURED = 1 << 18
"""Most items on which errors are measured: enough for a mean to within a thousandth."""
CHUNK = 128
ROWS = 8192


def codebook_report(
    vectors: Vectors | VectorSource,
    codebook: Codebook,
    raw: Codes,
    assigned: report.Assigned,
    *,
    seed: int = 0,
) -> report.CodebookReport:
    """Measure a codebook on (n, dim) vectors, their (n, levels) raw codes and the final ones. The
    seed draws the items on which errors and neighbors are measured."""
    source = VectorSource.of(vectors)
    count = min(len(source), MAX_MEASURED, source.limit)
    rows = np.sort(np.random.default_rng(seed).permutation(len(source))[:count])
    sample = source.take(rows)
    return report.CodebookReport(
        items=len(raw),
        levels=level_use(assigned.codes, assigned.level_sizes),
        collisions=report.CollisionReport(assigned.before, assigned.after),
        reassigned=int(assigned.reassigned.sum()),
        measured=len(rows),
        residual_variance=residual_variance(sample, codebook, raw[rows]),
        residual_variance_assigned=residual_variance(sample, codebook, assigned.codes[rows])[-1],
        neighbors=neighbor_preservation(source, assigned.codes, codebook, seed=seed),
    )


def level_use(codes: Codes, sizes: tuple[int, ...]) -> tuple[LevelUse, ...]:
    """How evenly each level of (n, levels) codes is used."""
    levels = []
    for column, size in zip(codes.T, sizes, strict=True):
        counts = np.sort(np.bincount(column, minlength=size))
        shares = counts[counts > 0] / max(len(codes), 1)
        entropy = float(-(shares * np.log2(shares)).sum()) + 0.0  # no negative zero
        # Gini coefficient of the sorted counts
        ranks = np.arange(1, size + 1)
        gini = ((2 * ranks - size - 1) * counts).sum() / max(size * len(codes), 1)
        utilization = len(shares) / size
        levels.append(LevelUse(size, utilization, entropy, 2.0**entropy, float(gini)))
    return tuple(levels)


def residual_variance(vectors: Vectors, codebook: Codebook, codes: Codes) -> tuple[float, ...]:
    """Per depth: the squared error of (n, depth) codes as a share of the vectors' variance."""
    depths = min(codes.shape[1], len(codebook.levels))
    errors = np.zeros(depths)
    total = 0.0
    prepared = codebook.prepare(vectors)
    mean = prepared.mean(axis=0, dtype=np.float64)
    for start in range(0, len(codes), ROWS):
        rows = prepared[start : start + ROWS]
        row_codes = codes[start : start + ROWS]
        total += float(np.square(rows - mean).sum())
        for depth in range(1, depths + 1):
            approximation = codebook.reconstruct(row_codes[:, :depth])
            errors[depth - 1] += np.square(rows - approximation, dtype=np.float64).sum()
    return tuple(float(share) for share in errors / (total or 1.0))


def neighbor_preservation(
    vectors: Vectors | VectorSource, codes: Codes, codebook: Codebook | None, *, seed: int = 0
) -> Neighbors:
    """Mean Jaccard overlap, per depth, of the 20 nearest items by embedding and by SID prefix.

    By embedding: largest cosine. By SID at depth t: longest common prefix of the first t codes,
    then least distance between the sums of the first t centroids (without a codebook, or at an
    appended level, there is none), then at random: a model that sees t codes cannot distinguish
    such items. Up to 500 query items and 20,000 candidates are drawn with the seed; an item is not
    a neighbor of itself."""
    rng = np.random.default_rng(seed)
    # in random order, because of equally near items the first ones are taken
    pool = rng.permutation(len(codes))[:POOL]
    queries = np.arange(min(QUERIES, len(pool)))
    k = min(NEIGHBORS, len(pool) - 1)
    depths = codes.shape[1]
    if k < 1:
        return Neighbors(k, len(queries), len(pool), (1.0,) * depths)
    codes = codes[pool]
    directions = unit(VectorSource.of(vectors).take(pool))
    overlaps = np.zeros(depths)
    for chunk in np.array_split(queries, -(-len(queries) // CHUNK)):
        by_embedding = nearest(directions[chunk] @ directions.T, chunk, k)
        for depth in range(1, depths + 1):
            by_prefix = nearest(prefix_similarity(codes[:, :depth], chunk, codebook), chunk, k)
            n_common = (by_embedding & by_prefix).sum(axis=1)
            overlaps[depth - 1] += (n_common / (2 * k - n_common)).sum()
    jaccard = tuple((overlaps / len(queries)).tolist())
    return Neighbors(k, len(queries), len(pool), jaccard)


@dataclass(frozen=True)
class NearItems:
    """What is near some query items among n items of a pool, by vector and by SID."""

    pool: NDArray[np.intp]
    """(n,): rows of the codes; the first q are the queries"""
    cosines: NDArray[np.float32]
    """(q, n)"""
    shared_levels: NDArray[np.float64]
    """(q, n): codes in common, from the first one on"""
    by_vector: NDArray[np.bool_]
    """(q, n): among the k nearest"""
    by_sid: NDArray[np.bool_]


def near_items(
    vectors: VectorSource,
    codes: Codes,
    codebook: Codebook | None,
    *,
    queries: int,
    k: int,
    seed: int = 0,
) -> NearItems:
    """The k nearest items of a few items, drawn with the seed, as `neighbor_preservation` compares
    them at full depth. There are at least two items."""
    pool = np.random.default_rng(seed).permutation(len(codes))[:POOL]
    drawn = np.arange(min(queries, len(pool)))
    k = min(k, len(pool) - 1)
    directions = unit(vectors.take(pool))
    cosines = directions[drawn] @ directions.T
    return NearItems(
        pool,
        cosines,
        shared_levels(codes[pool], drawn),
        by_vector=nearest(cosines.copy(), drawn, k),
        by_sid=nearest(prefix_similarity(codes[pool], drawn, codebook), drawn, k),
    )


def nearest(similarity: NDArray[Any], queries: NDArray[np.intp], k: int) -> NDArray[np.bool_]:
    """(q, n) similarity of queries to items -> (q, n) bool: the k nearest other items (ties:
    first). The similarity of each query to itself is overwritten."""
    similarity[np.arange(len(queries)), queries] = -np.inf
    edge = np.partition(similarity, -k, axis=1)[:, -k, None]  # the k-th largest, (q, 1)
    above = similarity > edge
    equal = similarity == edge
    missing = k - above.sum(axis=1, keepdims=True)
    return above | (equal & (equal.cumsum(axis=1) <= missing))


def prefix_similarity(
    codes: Codes, queries: NDArray[np.intp], codebook: Codebook | None
) -> NDArray[np.float64]:
    """(q, n) similarity of q of n items to all: the levels of their common prefix, and with a
    codebook less a share of one level that grows with the distance of their vectors."""
    similarity = shared_levels(codes, queries)
    if codebook is not None:
        # squared distances between summed centroids; equal codes have exactly equal distances
        distinct, inverse = np.unique(codes[:, : len(codebook.levels)], axis=0, return_inverse=True)
        sums = codebook.latent_vectors(distinct).astype(np.float64)
        norms = np.square(sums).sum(axis=1)
        query_rows = inverse[queries]  # in `distinct`
        distances = norms[query_rows, None] + norms - 2 * sums[query_rows] @ sums.T  # (q, distinct)
        distances = np.maximum(distances, 0)[:, inverse]  # (q, n)
        similarity -= distances / (1 + distances.max())
    return similarity


def shared_levels(codes: Codes, queries: NDArray[np.intp]) -> NDArray[np.float64]:
    """(q, n) float64: length of the common prefix of each query's codes and each item's."""
    still_equal = np.ones((len(queries), len(codes)), dtype=bool)
    lengths = np.zeros(still_equal.shape)
    for column in codes.T:
        still_equal &= column[queries, None] == column
        lengths += still_equal
    return lengths


Shares = list[float | None]


def prefix_groups(codes: Codes, sizes: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Per depth from 1: (n,) the number of the prefix of each of n items."""
    for depth in range(1, len(sizes) + 1):
        keys = Levels(tuple(sizes[:depth])).pack(codes[:, :depth])
        yield np.unique(keys, return_inverse=True)[1]


def prefix_alignment(
    codes: Codes, sizes: Sequence[int], steps: NDArray[np.int64]
) -> tuple[Shares, Shares]:
    """Per depth: the share of the steps from an item to another one whose prefixes are equal; and
    the share by chance. By chance an item is followed by any item, as often as that is the second
    one of a step. None if every step is from an item to itself."""
    steps = steps[steps[:, 0] != steps[:, 1]]
    if not len(steps):
        return [None] * len(sizes), [None] * len(sizes)
    n_items = len(codes)
    # (items,): how often an item is the first and the second one of a step
    first, second = (np.bincount(column, minlength=n_items) / len(steps) for column in steps.T)
    same_item = first @ second
    shares: Shares = []
    by_chance: Shares = []
    for group in prefix_groups(codes, sizes):
        shares.append(float((group[steps[:, 0]] == group[steps[:, 1]]).mean()))
        same_group = np.bincount(group, first) @ np.bincount(group, second)
        other_item = same_group - same_item
        # where every item has a prefix of its own, only the rounding of the sums is left
        by_chance.append(float(other_item / (1 - same_item)) if other_item > 1e-12 else 0.0)
    return shares, by_chance


def prefix_spread(
    codes: Codes, sizes: Sequence[int], events: NDArray[np.int64]
) -> tuple[Shares, Shares]:
    """Per depth: distinct prefixes per item among the head, and among the tail. The head is the
    most frequent items that together have half of the (n,) events, the tail all others. 1: every
    item has a prefix of its own. None without an item."""
    order = np.argsort(-events, kind="stable")
    earlier = np.cumsum(events[order]) - events[order]
    in_head = earlier * 2 < events.sum()
    parts = (order[in_head], order[~in_head])
    head: Shares = []
    tail: Shares = []
    for group in prefix_groups(codes, sizes):
        for rows, spread in zip(parts, (head, tail), strict=True):
            spread.append(len(np.unique(group[rows])) / len(rows) if len(rows) else None)
    return head, tail


def mutual_information(
    codes: Codes, steps: NDArray[np.int64], *, seed: int = 0
) -> tuple[list[float], list[float]]:
    """Per level: mutual information, in bits, of an item's code and the next item's; and by chance.
    The estimate from a finite sample is above 0 even for independent codes. The value by chance
    measures this: next items are shuffled with the seed. Only the difference is meaningful. If a
    codebook is chosen by this figure, `steps` must be training events only."""
    shuffled = np.random.default_rng(seed).permutation(steps[:, 1])
    information = []
    by_chance = []
    for column in codes.T:
        current = column[steps[:, 0]]
        information.append(_mutual_information(current, column[steps[:, 1]]))
        by_chance.append(_mutual_information(current, column[shuffled]))
    return information, by_chance


def _mutual_information(left: NDArray[np.uint16], right: NDArray[np.uint16]) -> float:
    _, pair = np.unique(left.astype(np.int64) << 16 | right, return_inverse=True)
    return _entropy(left) + _entropy(right) - _entropy(pair)


def _entropy(values: NDArray[Any]) -> float:
    return level_use(values[:, None], (int(values.max()) + 1,))[0].entropy
