"""Residual k-means: each level clusters what earlier levels leave (OneRec, OpenOneRec, GRID).

Levels are found one after the other, and then refined together, which lowers the total error."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from sidtool.base.progress import Progress
from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.quantize.kmeans import (
    CHUNK,
    TOLERANCE,
    Distances,
    Labels,
    LevelCodes,
    Normalize,
    kmeans,
    means,
    members_of,
    nearest,
    training_rows,
)

MAX_ENTRIES = 1 << 28
"""Most entries of the table of distances: one GiB."""
ROUNDS = 10
"""Most updates of the centroids."""
PRICE_UPDATES = 16
"""Price updates per update of the centroids. More of them lower the error by .7%, for twice the
time."""
PRICED_ROWS = 256
"""Rows processed at once."""
START_TEMPERATURE = 0.3
"""First temperature of the price updates, in standard deviations of the distances."""
END_TEMPERATURE = 0.01
MIN_LOG_SHARE = np.float32(-50)
"""Smaller log shares are clipped: they add nothing, and subnormal floats are slow."""
MIN_DEMAND = 1e-6
"""The smallest demand for a centroid, as a share of the even one, that changes its price."""

ITERATIONS = 5
"""Most Lloyd iterations per level on the whole sample; the refinement does the rest."""
FEW_ROWS_PER_CODE = 8
"""Below this many rows per code of the largest level, levels are balanced by default: with so few
rows plain k-means gives a few codes nearly all items. (docs/scale.md: at 7 items per code balanced
levels are worth 8% more to a model, at 47 less.)"""
MAX_SAMPLE = 1 << 18
"""The sample is a quarter of the vectors, up to this many or 1,024 per code. (256 per code leave 2%
more error on a million vectors.)"""
REFINEMENT_PASSES = 6
"""Most passes over the sample that refine all levels together."""

Balanced = Annotated[
    bool | None,
    "Assign about the same number of items to every code of a level, as the flag --balanced does. "
    "Default: on below 8 items per code.",
]


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: Normalize = False,
    balanced: Balanced = None,
    progress: Progress | None = None,
) -> Codebook:
    """Residual k-means over (n, dim) float32 embeddings, `sizes[l]` centroids at level l.

    `normalize` scales every vector to length 1, here and in `encode`. `balanced` gives every code
    of a level about the same number of items, and skips the joint refinement, which would undo it;
    default: on if there are fewer than 8 vectors per code of the largest level. The same seed and
    vectors give the same codebook. A level with fewer distinct residuals than codes leaves codes
    unused. Raises DataError if a value is not finite or there are fewer distinct vectors than codes
    in the largest level."""
    rng = np.random.default_rng(seed)
    sample = 0 if balanced else min(len(vectors) // 4, 1024 * max(sizes), MAX_SAMPLE)
    residual = training_rows(vectors, sizes, rng, normalize, sample)
    center = residual.mean(axis=0)
    if balanced is None:
        balanced = len(vectors) < FEW_ROWS_PER_CODE * max(sizes)
    residual -= center  # a common offset would cost the digits that separate the rows
    levels: list[Vectors] = []
    codes = np.empty((len(sizes), len(residual)), dtype=np.intp)
    prices = []
    iterations = []
    for level, size in enumerate(sizes):
        price = None
        if balanced:
            centroids, price, done = balanced_kmeans(residual, size, rng)
            prices.append(price)
        else:
            centroids, done = kmeans(residual, size, rng, ITERATIONS)
        codes[level] = nearest(residual, centroids, price)[0]
        residual -= centroids[codes[level]]
        levels.append(centroids)
        iterations.append(done)
        if progress:
            progress(level + 1, len(sizes))
    if not balanced:
        levels = refine(residual, levels, codes)
    levels[0] = levels[0] + center
    record = {"seed": seed, "balanced": balanced, "sample": len(residual), "iterations": iterations}
    dim = None
    if balanced:
        dim = int(residual.shape[1])
        # one more dimension per level with the root of a centroid's price: the squared distance to
        # a zero-padded vector then has the price, and the nearest centroid is the cheapest one
        for level, price in enumerate(prices):
            roots = np.zeros((len(price), len(levels)), dtype=np.float32)
            roots[:, level] = np.sqrt(price)
            levels[level] = np.concatenate([levels[level], roots], axis=1)
    params = QuantizerParams(dim=dim, normalize=normalize, fit=record)
    return Codebook("rq-kmeans", tuple(levels), {}, params)


def refine(residual: Vectors, levels: Sequence[Vectors], codes: LevelCodes) -> list[Vectors]:
    """Refine centroids that were found level by level, so that levels compensate each other.

    `residual` is (n, dim) float32, what all levels leave of a sample; it and `codes` are
    overwritten. A pass sets every level's centroids to the means of what all *other* levels leave
    of their rows, then assigns codes again, each the nearest given the earlier levels, as `encode`
    does. (GRVQ, S. Liu et al., 2016, with this plain assignment in place of its beam.) It stops
    when the error falls by less than TOLERANCE; the levels with the least error are returned."""
    best = list(levels)
    current = list(levels)
    sums, least_error = _reassign(residual, None, current, codes)
    for _ in range(REFINEMENT_PASSES):
        previous = current
        current = []
        members = [
            members_of(of[None], len(level)) for of, level in zip(codes, levels, strict=True)
        ]
        shifts: list[Vectors] = []
        for level, (centroids, code) in enumerate(zip(previous, codes, strict=True)):
            # a centroid shifts by the mean residual of its rows, less the shifts of earlier levels
            shift = sums[level].copy()
            for earlier_members, earlier_shift in zip(members[:level], shifts, strict=True):
                shift -= (members[level].T @ earlier_members) @ earlier_shift
            counts = np.bincount(code, minlength=len(centroids)).astype(np.float32)
            shift /= np.maximum(counts, 1)[:, None]
            shifts.append(shift)
            current.append(centroids + shift)
            empty = np.flatnonzero(counts == 0)
            if len(empty):  # an empty code restarts at a row with a large residual
                lengths = np.einsum("ij,ij->i", residual, residual)
                farthest = np.argsort(-lengths, kind="stable")[: len(empty)]
                current[-1][empty] = residual[farthest] + centroids[code[farthest]]
        sums, error = _reassign(residual, previous, current, codes)
        if error < least_error:
            best = list(current)
        if least_error - error <= TOLERANCE * least_error:
            break
        least_error = error
    return best


def _reassign(
    residual: Vectors, old: Sequence[Vectors] | None, new: Sequence[Vectors], codes: LevelCodes
) -> tuple[list[Vectors], float]:
    """Assign codes of the `new` centroids, and update the residuals that the `old` ones left.
    Returns the sums of the residuals over the rows of each code, (K_l, dim) per level, and the
    total squared residual. Without `old` nothing is updated. Each row passes through the cache
    once: memory is the bottleneck."""
    # code k of level l has row starts[l] + k of the sums
    starts = np.cumsum([0, *(len(level) for level in new)])
    sums = np.zeros((starts[-1], residual.shape[1]), dtype=np.float32)
    error = 0.0
    for start in range(0, len(residual), CHUNK):
        rows = residual[start : start + CHUNK]
        chunk_codes = codes[:, start : start + CHUNK]
        if old is not None:
            # back to the embeddings, then the residuals of the new centroids
            for level, code in zip(old, chunk_codes, strict=True):
                rows += level[code]
            for level, code in zip(new, chunk_codes, strict=True):
                code[:] = nearest(rows, level)[0]
                rows -= level[code]
        sums += members_of(chunk_codes + starts[:-1, None], starts[-1]).T @ rows
        error += float(np.square(rows).sum(dtype=np.float64))
    return np.split(sums, starts[1:-1]), error


def balanced_kmeans(
    vectors: Vectors, size: int, rng: np.random.Generator
) -> tuple[Vectors, Distances, int]:
    """(n, dim) vectors in random order -> (size, dim) centroids, (size,) prices of at least 0, and
    iterations done. Every centroid gets the same number of rows, to within one, as in OneRec and
    MiniOneRec.

    Exact solvers take minutes where this takes seconds. The price of a centroid is added to its
    squared distances. Prices of crowded centroids rise and those of empty ones fall until the
    cheapest choice is nearly even; the few surplus rows then move, least regret first, to centroids
    with room. The prices stay part of the codebook, so that later items spread as evenly."""
    vectors = vectors[: max(size, MAX_ENTRIES // size)]
    centroids, done = kmeans(vectors, size, rng)
    prices = np.zeros(size, dtype=np.float32)
    error = np.inf
    for _ in range(ROUNDS):
        distances = squared_distances(vectors, centroids)
        prices = even_prices(distances, prices)
        codes = even_codes(distances + prices)
        row_distances = distances[np.arange(len(codes)), codes]
        previous = error
        error = float(row_distances.sum(dtype=np.float64))
        if previous - error <= TOLERANCE * error:
            break
        centroids = means(vectors, codes, row_distances, centroids)
        done += 1
    distances = squared_distances(vectors, centroids)
    prices = even_prices(distances, prices)
    return centroids, prices - prices.min(), done


def squared_distances(vectors: Vectors, centroids: Vectors) -> Distances:
    """(n, dim), (K, dim) -> (n, K)."""
    distances = vectors @ (-2 * centroids.T)
    distances += np.einsum("ij,ij->i", vectors, vectors)[:, None]
    distances += np.einsum("ij,ij->i", centroids, centroids)
    return np.maximum(distances, 0, out=distances)


def even_prices(distances: Distances, prices: Distances) -> Distances:
    """(n, K) squared distances -> (K,) prices under which the cheapest choice is nearly even.

    Each update lets the rows choose softly, at a temperature that falls from START_TEMPERATURE to
    END_TEMPERATURE, and raises a price by the log of its centroid's excess demand: Sinkhorn's
    update, annealed. The prices whose cheapest choices were most even are returned; prices stay as
    they are if all distances are equal."""
    n, size = distances.shape
    ones = np.ones(size, dtype=np.float32)
    scale = float(distances.std())
    rounding = np.finfo(np.float32).eps * float(distances.max())
    if scale <= rounding or scale < np.finfo(np.float32).tiny / END_TEMPERATURE:
        return prices
    best = prices
    least_misplaced = np.inf
    for current in np.geomspace(START_TEMPERATURE * scale, END_TEMPERATURE * scale, PRICE_UPDATES):
        counts = np.zeros(size, dtype=np.intp)  # rows whose cheapest choice each centroid is
        demand = np.zeros(size)  # the sum of their soft choices
        for start in range(0, n, PRICED_ROWS):  # the arrays of a chunk stay in the cache
            priced = distances[start : start + PRICED_ROWS] + prices
            cheapest = priced.argmin(axis=1)
            counts += np.bincount(cheapest, minlength=size)
            # indexing, because numpy's min takes four times as long
            priced -= priced[np.arange(len(cheapest)), cheapest, None]
            priced *= np.float32(-1 / current)
            np.maximum(priced, MIN_LOG_SHARE, out=priced)
            shares = np.exp(priced, out=priced)  # (chunk, K)
            demand += (1 / (shares @ ones)) @ shares
        misplaced = np.abs(counts - n / size).sum()
        if misplaced <= least_misplaced:
            best = prices
            least_misplaced = misplaced
        excess = np.maximum(demand * size / n, MIN_DEMAND)
        prices = (prices + current * np.log(excess)).astype(np.float32)
    return best


def even_codes(priced: Distances) -> Labels:
    """(n, K) distances with prices -> (n,) codes, each given to n / K rows, rounded down or up.
    Every row gets its cheapest code, and surplus rows move to codes with room."""
    n, size = priced.shape
    codes = priced.argmin(axis=1)
    counts = np.bincount(codes, minlength=size)
    capacity = np.full(size, n // size)
    capacity[np.argsort(-counts, kind="stable")[: n % size]] += 1  # the fullest keep one more
    while (counts > capacity).any():
        with_room = np.flatnonzero(counts < capacity)
        rows = np.flatnonzero((counts > capacity)[codes])
        costs = priced[np.ix_(rows, with_room)]
        cheapest = costs.argmin(axis=1)
        added_costs = costs[np.arange(len(rows)), cheapest] - priced[rows, codes[rows]]
        # of each code, surplus rows leave; of those that a code attracts, as many arrive as fit
        leaving = _first_of_each(codes[rows], added_costs, counts - capacity)
        targets = with_room[cheapest[leaving]]
        arriving = _first_of_each(targets, added_costs[leaving], capacity - counts)
        codes[rows[leaving[arriving]]] = targets[arriving]
        counts = np.bincount(codes, minlength=size)
    return codes


def _first_of_each(groups: Labels, costs: Distances, limits: Labels) -> Labels:
    """Positions of the `limits[g]` cheapest members of each group g."""
    order = np.lexsort((costs, groups))
    ordered = groups[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return order[rank < limits[ordered]]
