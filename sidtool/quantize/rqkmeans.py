"""Residual k-means: each level clusters what the levels before leave (OneRec, OpenOneRec, GRID).

Knows levels; knows nothing of items or collisions, nor of how centroids are found. Level by level,
centroids are the best for what they leave to no one; then all levels are refined together, which
lowers the error of the whole."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.vectors import VectorSource
from sidtool.quantize import balanced as even
from sidtool.quantize.codebook import Codebook
from sidtool.quantize.kmeans import CHUNK, TOLERANCE, Progress, kmeans, nearest, training_rows
from sidtool.sid import Vectors

ITERATIONS = 5
"""Most of Lloyd's iterations of a level on the whole sample: what they leave undone, the passes do.
"""
FEW = 8
"""Rows a code of the largest level, below which levels are balanced by default: of so few, plain
k-means gives a few codes nearly all. (docs/scale.md: at 7 items a code balanced levels are worth 8%
more to a model, at 47 less.)"""
SAMPLE = 1 << 18
"""Of many vectors a quarter is the sample, up to so many or 1,024 a code: 256 a code leave 2% more
of a million."""
PASSES = 6
"""Most passes over the sample in which all levels are refined together."""


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: bool = False,
    balanced: bool | None = None,
    progress: Progress | None = None,
) -> Codebook:
    """Residual k-means over (n, dim) float32 embeddings, `sizes[l]` centroids at level l.

    `normalize` scales every vector to length 1, here and in `encode`: for embeddings whose length
    says nothing (those of sentence encoders mostly have length 1 already). `balanced` gives every
    code of a level about as many items, and leaves the levels as they were found one by one:
    refining them would undo the balance; by default it is on where `vectors` has fewer than `FEW`
    rows a code of the largest level. The same seed and vectors give the same codebook. A residual
    that has fewer distinct values than its level has codes leaves the codes beyond unused. Raises
    DataError if a value is not finite or there are fewer distinct vectors than codes in the largest
    level."""
    rng = np.random.default_rng(seed)
    more = 0 if balanced else min(len(vectors) // 4, 1024 * max(sizes), SAMPLE)
    residual = training_rows(vectors, sizes, rng, normalize, more)
    center = residual.mean(axis=0)
    if balanced is None:
        balanced = len(vectors) < FEW * max(sizes)
    residual -= center  # a common offset would eat the digits that separate the rows
    levels: list[Vectors] = []
    codes: list[NDArray[np.intp]] = []
    prices, steps = [], []
    for level, size in enumerate(sizes):
        if balanced:
            centroids, price, done = even.kmeans(residual, size, rng)
            prices.append(price)
        else:
            (centroids, done), price = kmeans(residual, size, rng, ITERATIONS), None
        codes.append(nearest(residual, centroids, price)[0])
        residual -= centroids[codes[-1]]
        levels.append(centroids)
        steps.append(done)
        if progress:
            progress(level + 1, len(sizes))
    if not balanced:
        levels = refined(residual, levels, codes)
    levels[0] = levels[0] + center
    facts = {
        "seed": seed,
        "normalize": normalize,
        "balanced": balanced,
        "sample": len(residual),
        "iterations": steps,
    }
    if balanced:
        levels, facts["dim"] = _priced(levels, prices), int(residual.shape[1])
    return Codebook("rq-kmeans", tuple(levels), {}, facts)


def refined(
    residual: Vectors, levels: Sequence[Vectors], codes: Sequence[NDArray[np.intp]]
) -> list[Vectors]:
    """Centroids that make up for each other, from those that were found one level after the other.

    residual: (n, dim) float32, what all levels leave of a sample; it is overwritten. codes: (n,)
    each, by level. A pass sets every level's centroids to the means of what all *other* levels
    leave of their rows, then finds the codes anew, each the nearest given the levels before, as
    `encode` does. (GRVQ, S. Liu et al., 2016, with this plain assignment in place of its beam.) It
    ends when the error falls by less than TOLERANCE of itself; the best levels are returned, so
    none that are worse than those given."""
    best, now = list(levels), list(levels)
    own = np.stack(codes)
    sums, least = _swept(residual, now, now, own)
    for _ in range(PASSES):
        old, now = now, _moved(residual, now, own, sums)
        sums, error = _swept(residual, old, now, own)
        if error < least:
            best = list(now)
        if least - error <= TOLERANCE * least:
            break
        least = error
    return best


def _swept(
    residual: Vectors, old: Sequence[Vectors], new: Sequence[Vectors], codes: NDArray[np.intp]
) -> tuple[list[Vectors], float]:
    """Replace what the `old` centroids leave by what the `new` ones do, and the (levels, n) codes
    by those nearest now.

    Returns the sums of what is left over the rows of each code, (K_l, dim) by level, and its
    square. Where the new are the old ones, nothing is replaced. Rows pass through the cache once:
    memory is what this waits for."""
    starts = np.cumsum([0, *(len(level) for level in new)])
    sums = np.zeros((starts[-1], residual.shape[1]), dtype=np.float32)
    error = 0.0
    for start in range(0, len(residual), CHUNK):
        rows, own = residual[start : start + CHUNK], codes[:, start : start + CHUNK]
        if new is not old:
            for level, code in zip(old, own, strict=True):
                rows += level[code]
            for level, code in zip(new, own, strict=True):
                code[:] = nearest(rows, level)[0]
                rows -= level[code]
        sums += _members(own + starts[:-1, None], starts[-1]).T @ rows
        error += float(np.square(rows).sum(dtype=np.float64))
    return np.split(sums, starts[1:-1]), error


def _moved(
    residual: Vectors, levels: Sequence[Vectors], codes: NDArray[np.intp], sums: Sequence[Vectors]
) -> list[Vectors]:
    """The centroids of each level as means, given the others: those before it as they are by then.

    sums: of what is left over the rows of each code. A mean moves by its sum over its rows, less
    what the levels before have taken of it. A code without rows starts anew at a row of which most
    is left."""
    members = [_members(code[None], len(level)) for code, level in zip(codes, levels, strict=True)]
    shifts: list[Vectors] = []
    moved: list[Vectors] = []
    for level, (centroids, code) in enumerate(zip(levels, codes, strict=True)):
        left = sums[level].copy()
        for before, shift in zip(members[:level], shifts, strict=True):
            left -= (members[level].T @ before) @ shift
        counts = np.bincount(code, minlength=len(centroids)).astype(np.float32)
        left /= np.maximum(counts, 1)[:, None]
        shifts.append(left)
        moved.append(centroids + left)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            farthest = np.argsort(-np.einsum("ij,ij->i", residual, residual), kind="stable")[
                : len(empty)
            ]
            moved[-1][empty] = residual[farthest] + centroids[code[farthest]]
    return moved


def _members(codes: NDArray[np.intp], size: int) -> Any:
    """(m, n) codes, m a row -> (n, size) sparse ones where a row has a code."""
    from scipy.sparse import csr_array

    ones = np.ones(codes.size, dtype=np.float32)
    places = np.arange(0, codes.size + 1, len(codes))
    return csr_array((ones, codes.T.ravel(), places), shape=(codes.shape[1], size))


def _priced(levels: list[Vectors], prices: list[NDArray[np.float32]]) -> list[Vectors]:
    """Centroids (K_l, dim + levels) whose squared distance to a vector with zeros appended holds
    their price.

    Each level has a dimension of its own for it, the root of the price: the nearest centroid is
    then the cheapest one."""
    priced = []
    for level, (centroids, price) in enumerate(zip(levels, prices, strict=True)):
        roots = np.zeros((len(centroids), len(levels)), dtype=np.float32)
        roots[:, level] = np.sqrt(price)
        priced.append(np.concatenate([centroids, roots], axis=1))
    return priced
