"""K-means, which finds the centroids of every method.

Training uses a sample of 256 rows per centroid (faiss's rule) unless a method needs more. Centroids
are seeded by greedy k-means++ (Arthur and Vassilvitskii 2007, with the 2 + log K candidates per
step of scikit-learn) and refined by Lloyd's iterations, first on a part of the sample, then on all
of it.

There are two starts: the rows that k-means++ draws, and one step of spherical k-means (Dhillon and
Modha 2001) from them, which does not depend on the lengths of the rows drawn. The residuals of
later levels are nearly orthogonal, so the few short ones among the seeds are nearest to all others,
and one code takes most rows and keeps them. With few rows and many dimensions only `balanced`
prevents that."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.quantize.mlp import unit

ROWS_PER_CENTROID = 256
SEEDING_ROWS_PER_CENTROID = 64
SEEDING_ITERATIONS = 10
"""Most iterations on the seeding part of the sample."""
ITERATIONS = 10
"""Most iterations on the whole sample."""
TOLERANCE = 1e-4
"""Iterations end when one lowers the error by less than this share."""
SIMILAR_ERROR = 1.02
"""Starts whose errors differ by less than this factor are compared by the evenness of their
codes."""
CHUNK = 4096
MAX_VALUE = 1e8
"""Float32 overflows with larger values: `balanced` squares squared distances, and sums them."""

Normalize = Annotated[bool, "Scale every vector to length 1 first, as the flag --normalize does."]
"""The option of every method."""

Labels = NDArray[np.intp]
"""(n,): one code per row."""
LevelCodes = NDArray[np.intp]
"""(levels, n): the code of each row at each level."""
Distances = NDArray[np.float32]
"""Squared distances."""


def training_rows(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    rng: np.random.Generator,
    normalize: bool,
    at_least: int = 0,
) -> Vectors:
    """(n, dim) embeddings -> a new array of rows in random order. There are 256 rows per code of
    the largest level, or `at_least` if that is more; fewer if there are fewer vectors or the
    source's memory limit is lower. Raises DataError if a value is not finite or above MAX_VALUE, or
    if there are fewer distinct rows than codes in the largest level."""
    source = VectorSource.of(vectors)
    count = min(max(ROWS_PER_CENTROID * max(sizes), at_least), source.limit)
    if count >= len(source):
        drawn = rng.permutation(len(source))
    else:
        drawn = rng.choice(len(source), count, replace=False)
    rows = source.take(drawn)
    distinct: set[bytes] = set()
    for row in rows:
        distinct.add((row + 0).tobytes())  # -0.0 becomes 0.0
        if len(distinct) >= max(sizes):
            break
    else:
        raise DataError(
            f"{len(rows)} items have {len(distinct)} distinct vectors, and a level has "
            f"{max(sizes)} codes",
            hint=f"choose levels of at most {len(distinct)} codes",
        )
    largest = max(float(rows.max()), -float(rows.min()))
    if largest > MAX_VALUE:
        raise DataError(
            f"vectors have values up to {largest:.3g}, more than {MAX_VALUE:g}: training would "
            "overflow",
            hint="scale the vectors down",
        )
    return unit(rows) if normalize else rows


def kmeans(
    vectors: Vectors, size: int, rng: np.random.Generator, max_iterations: int = ITERATIONS
) -> tuple[Vectors, int]:
    """(n, dim) vectors in random order -> (size, dim) float32 centroids, and iterations done."""
    part = vectors[: SEEDING_ROWS_PER_CENTROID * size]
    seeds = plus_plus(part, size, rng)
    # one step of spherical k-means: means of the rows whose direction is nearest to a seed's; with
    # units u the squared distance is |v|^2 + 1 - 2 v.u
    codes, distances = nearest(part, unit(seeds))
    by_direction = means(part, codes, distances, seeds)
    starts = [lloyd(part, start, SEEDING_ITERATIONS) for start in (seeds, by_direction)]
    errors = []
    entropies = []
    for centroids, _ in starts:
        codes, distances = nearest(vectors, centroids)
        errors.append(float(distances.sum(dtype=np.float64)))
        share = np.bincount(codes, minlength=size) / len(codes)
        logs = np.log(np.maximum(share, np.finfo(float).tiny))  # 0 * log(tiny) adds nothing
        entropies.append(float(-(share * logs).sum()))
    # of the starts with about the least error, the one that uses its codes most evenly
    preferred = max(
        range(len(starts)),
        key=lambda start: (errors[start] <= SIMILAR_ERROR * min(errors), entropies[start]),
    )
    centroids, done = starts[preferred]
    if len(part) == len(vectors) and done < SEEDING_ITERATIONS:
        return centroids, done  # converged on the whole sample already
    centroids, steps = lloyd(vectors, centroids, max_iterations)
    return centroids, done + steps


def cluster(vectors: Vectors, size: int, rng: np.random.Generator) -> Vectors:
    """(n, dim) vectors -> (size, dim) centroids of 256 random rows per centroid."""
    count = min(len(vectors), ROWS_PER_CENTROID * size)
    sample = vectors[rng.choice(len(vectors), count, replace=False)]
    return kmeans(sample, size, rng)[0]


def plus_plus(vectors: Vectors, size: int, rng: np.random.Generator) -> Vectors:
    """Greedy k-means++: of a few candidates drawn by squared distance, keep the one that lowers the
    error most."""
    n_candidates = 2 + int(np.log(size))
    norms = np.einsum("ij,ij->i", vectors, vectors)
    center_rows = np.empty(size, dtype=np.intp)
    center_rows[0] = rng.integers(len(vectors))
    closest = _distances_to_rows(vectors, norms, center_rows[:1])[0]
    for step in range(1, size):
        cumulated = np.cumsum(closest, dtype=np.float64)
        drawn = rng.random(n_candidates) * cumulated[-1]
        candidates = np.searchsorted(cumulated, drawn, side="right")
        candidates = np.minimum(candidates, len(vectors) - 1)
        # (candidates, n): the distances to the nearest center, if each becomes one
        lowered = np.minimum(closest, _distances_to_rows(vectors, norms, candidates))
        best = int(lowered.sum(axis=1, dtype=np.float64).argmin())
        center_rows[step] = candidates[best]
        closest = lowered[best]
    return vectors[center_rows]


def _distances_to_rows(vectors: Vectors, norms: Distances, rows: Labels) -> Distances:
    """(len(rows), n) float32 squared distances from the given rows to all rows."""
    products = (vectors @ vectors[rows].T).T
    return np.maximum(norms[rows, None] + norms - 2 * products, 0)


def lloyd(vectors: Vectors, centroids: Vectors, max_iterations: int) -> tuple[Vectors, int]:
    """Lloyd's iterations until the error falls by less than TOLERANCE -> centroids, iterations."""
    previous = np.inf
    for step in range(max_iterations):
        codes, distances = nearest(vectors, centroids)
        error = float(distances.sum(dtype=np.float64))
        if previous - error <= TOLERANCE * error:
            return centroids, step
        previous = error
        centroids = means(vectors, codes, distances, centroids)
    return centroids, max_iterations


def nearest(
    vectors: Vectors, centroids: Vectors, prices: Distances | None = None
) -> tuple[Labels, Distances]:
    """The nearest centroid of each row as (n,) codes, and the (n,) squared distances to it. (K,)
    `prices` are added to the squared distances, if given."""
    codes = np.empty(len(vectors), dtype=np.intp)
    distances = np.empty(len(vectors), dtype=np.float32)
    transposed = np.ascontiguousarray(centroids.T)
    # |x - c|^2 + price = |x|^2 - 2 (x.c - bias)
    bias = 0.5 * (np.einsum("ij,ij->i", centroids, centroids) + (0 if prices is None else prices))
    for start in range(0, len(vectors), CHUNK):  # a chunk's scores stay in the cache
        rows = vectors[start : start + CHUNK]
        scores = rows @ transposed
        scores -= bias
        best = scores.argmax(axis=1)
        codes[start : start + CHUNK] = best
        top = np.take_along_axis(scores, best[:, None], axis=1)[:, 0]
        distances[start : start + CHUNK] = np.einsum("ij,ij->i", rows, rows) - 2 * top
    return codes, np.maximum(distances, 0)


def means(vectors: Vectors, codes: Labels, distances: Distances, centroids: Vectors) -> Vectors:
    """The mean of each code's rows; an empty code restarts at the row farthest from its
    centroid."""
    counts = np.bincount(codes, minlength=len(centroids))
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        farthest = np.argsort(-distances, kind="stable")[: len(empty)]
        codes = codes.copy()
        codes[farthest] = empty
        counts = np.bincount(codes, minlength=len(centroids))
    sums = members_of(codes[None], len(centroids)).T.tocsr() @ vectors  # (K, dim)
    averages = sums / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, averages, centroids).astype(np.float32)


def members_of(codes: LevelCodes, size: int) -> Any:
    """(levels, n) codes -> (n, size) sparse matrix with a one where a row has a code."""
    from scipy.sparse import csr_array

    ones = np.ones(codes.size, dtype=np.float32)
    row_starts = np.arange(0, codes.size + 1, len(codes))
    return csr_array((ones, codes.T.ravel(), row_starts), shape=(codes.shape[1], size))
