"""Residual k-means: each level clusters what the levels before leave (OneRec, OpenOneRec, GRID).

Knows levels; knows nothing of items or collisions, nor of how centroids are found.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.quantize import balanced as even
from sidtool.quantize.codebook import Codebook
from sidtool.quantize.kmeans import Progress, kmeans, nearest, training_rows
from sidtool.sid import Vectors
from sidtool.vectors import VectorSource


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: bool = False,
    balanced: bool = False,
    progress: Progress | None = None,
) -> Codebook:
    """Residual k-means over (n, dim) float32 embeddings, `sizes[l]` centroids at level l.

    `normalize` scales every vector to length 1, here and in `encode`: for embeddings whose length says nothing (those
    of sentence encoders mostly have length 1 already). `balanced` gives every code of a level about as many items. The
    same seed and vectors give the same codebook. A residual that has fewer distinct values than its level has codes
    leaves the codes beyond unused.
    Raises DataError if a value is not finite or there are fewer distinct vectors than codes in the largest level.
    """
    rng = np.random.default_rng(seed)
    residual = training_rows(vectors, sizes, rng, normalize)
    centre = residual.mean(axis=0)
    residual -= centre  # a common offset would eat the digits that separate the rows
    levels, prices, steps = [], [], []
    for level, size in enumerate(sizes):
        if balanced:
            centroids, price, done = even.kmeans(residual, size, rng)
            prices.append(price)
        else:
            (centroids, done), price = kmeans(residual, size, rng), None
        residual -= centroids[nearest(residual, centroids, price)[0]]
        levels.append(centroids + centre if level == 0 else centroids)
        steps.append(done)
        if progress:
            progress(level + 1, len(sizes))
    facts = {"seed": seed, "normalize": normalize, "balanced": balanced, "sample": len(residual), "iterations": steps}
    if balanced:
        levels, facts["dim"] = _priced(levels, prices), int(residual.shape[1])
    return Codebook("rq-kmeans", tuple(levels), {}, facts)


def _priced(levels: list[Vectors], prices: list[NDArray[np.float32]]) -> list[Vectors]:
    """Centroids (K_l, dim + levels) whose squared distance to a vector with zeros appended holds their price.

    Each level has a dimension of its own for it, the root of the price: the nearest centroid is then the cheapest one.
    """
    priced = []
    for level, (centroids, price) in enumerate(zip(levels, prices, strict=True)):
        roots = np.zeros((len(centroids), len(levels)), dtype=np.float32)
        roots[:, level] = np.sqrt(price)
        priced.append(np.concatenate([centroids, roots], axis=1))
    return priced
