"""Residual k-means: each level clusters what earlier levels leave (OneRec, OpenOneRec, GRID).

Levels are found one after the other, and then refined together, which lowers the total error.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.progress import Progress
from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.quantize.balanced import kmeans as balanced_kmeans
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.quantize.kmeans import (
    CHUNK,
    TOLERANCE,
    Normalize,
    kmeans,
    nearest,
    training_rows,
)

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

LevelCodes = NDArray[np.intp]
"""(levels, n): the code of each row at each level."""


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
    in the largest level.
    """
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
    record = {
        "seed": seed,
        "balanced": balanced,
        "sample": len(residual),
        "iterations": iterations,
    }
    dim = None
    if balanced:
        levels = _with_prices(levels, prices)
        dim = int(residual.shape[1])
    params = QuantizerParams(dim=dim, normalize=normalize, fit=record)
    return Codebook("rq-kmeans", tuple(levels), {}, params)


def refine(residual: Vectors, levels: Sequence[Vectors], codes: LevelCodes) -> list[Vectors]:
    """Refine centroids that were found level by level, so that levels compensate each other.

    `residual` is (n, dim) float32, what all levels leave of a sample; it and `codes` are
    overwritten. A pass sets every level's centroids to the means of what all *other* levels leave
    of their rows, then assigns codes again, each the nearest given the earlier levels, as `encode`
    does. (GRVQ, S. Liu et al., 2016, with this plain assignment in place of its beam.) It stops
    when the error falls by less than TOLERANCE; the levels with the least error are returned.
    """
    best = list(levels)
    current = list(levels)
    sums, least_error = _reassign(residual, None, current, codes)
    for _ in range(REFINEMENT_PASSES):
        previous = current
        current = _update(residual, previous, codes, sums)
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
        sums += _members(chunk_codes + starts[:-1, None], starts[-1]).T @ rows
        error += float(np.square(rows).sum(dtype=np.float64))
    return np.split(sums, starts[1:-1]), error


def _update(
    residual: Vectors, levels: Sequence[Vectors], codes: LevelCodes, sums: Sequence[Vectors]
) -> list[Vectors]:
    """Centroids of each level as means given the other levels, where earlier ones have moved.

    `sums` are the residuals summed over the rows of each code. A centroid shifts by the mean
    residual of its rows, less the shifts of earlier levels. An empty code restarts at a row with a
    large residual.
    """
    members = [_members(code[None], len(level)) for code, level in zip(codes, levels, strict=True)]
    shifts: list[Vectors] = []
    updated: list[Vectors] = []
    for level, (centroids, code) in enumerate(zip(levels, codes, strict=True)):
        shift = sums[level].copy()
        for earlier_members, earlier_shift in zip(members[:level], shifts, strict=True):
            shift -= (members[level].T @ earlier_members) @ earlier_shift
        counts = np.bincount(code, minlength=len(centroids)).astype(np.float32)
        shift /= np.maximum(counts, 1)[:, None]
        shifts.append(shift)
        updated.append(centroids + shift)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            lengths = np.einsum("ij,ij->i", residual, residual)
            farthest = np.argsort(-lengths, kind="stable")[: len(empty)]
            updated[-1][empty] = residual[farthest] + centroids[code[farthest]]
    return updated


def _members(codes: LevelCodes, size: int) -> Any:
    """(levels, n) codes -> (n, size) sparse matrix with a one where a row has a code."""
    from scipy.sparse import csr_array

    ones = np.ones(codes.size, dtype=np.float32)
    row_starts = np.arange(0, codes.size + 1, len(codes))
    return csr_array((ones, codes.T.ravel(), row_starts), shape=(codes.shape[1], size))


def _with_prices(levels: list[Vectors], prices: list[NDArray[np.float32]]) -> list[Vectors]:
    """Centroids (K_l, dim + levels) whose squared distance to a zero-padded vector holds their
    price.

    Each level has one extra dimension with the root of the price, so that the nearest centroid is
    the cheapest one.
    """
    extended = []
    for level, (centroids, price) in enumerate(zip(levels, prices, strict=True)):
        roots = np.zeros((len(centroids), len(levels)), dtype=np.float32)
        roots[:, level] = np.sqrt(price)
        extended.append(np.concatenate([centroids, roots], axis=1))
    return extended
