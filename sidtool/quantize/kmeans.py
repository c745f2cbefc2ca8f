"""K-means: how the centroids of every method are found.

Knows vectors and centroids; knows nothing of levels or items. Trains on a sample, 256 rows a
centroid (faiss's rule) where a method does not ask for more. Centroids are seeded by greedy
k-means++ (Arthur and Vassilvitskii 2007, with the 2 + log K candidates a step of scikit-learn) and
refined by Lloyd's iterations, first on a part of the sample, then on all of it.

The rows that k-means++ draws are one start; a step of spherical k-means from them (Dhillon and
Modha 2001) is another. For what a level leaves has no clusters left: rows lie far from each other,
nearly at right angles, so that the few short ones among the seeds are nearest to all others. One
code then takes most rows and keeps them: that is an optimum of Lloyd's iterations, and costs little
error, for so does every other partition. By direction alone the length of a seed does not count.
Where rows are few and dimensions many, only `balanced` keeps codes from being wasted so."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.data.vectors import VectorSource
from sidtool.errors import DataError
from sidtool.quantize.mlp import unit
from sidtool.sid import Vectors

ROWS_PER_CENTROID = 256
SEEDING_ROWS_PER_CENTROID = 64
ITERATIONS = (10, 10)
"""Most iterations on the seeding part, then on the whole sample."""
TOLERANCE = 1e-4
"""Iterations end when one lowers the error by less than this share."""
ALIKE = 1.02
"""Of two starts whose errors differ by less, the one that uses its codes more evenly goes on."""
CHUNK = 4096

Progress = Callable[[int, int], None]


def training_rows(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    rng: np.random.Generator,
    normalize: bool,
    least: int = 0,
) -> Vectors:
    """(n, dim) embeddings -> a new array of rows in random order: 256 a centroid of the largest
    level, or `least`.

    The larger number counts. There are fewer where there are fewer vectors, or where the memory of
    the source does not hold so many. Raises DataError if a value is not finite, or fewer rows
    differ than the largest level has codes."""
    source = VectorSource.of(vectors)
    count = min(max(ROWS_PER_CENTROID * max(sizes), least), source.limit)
    drawn = (
        rng.permutation(len(source))
        if count >= len(source)
        else rng.choice(len(source), count, replace=False)
    )
    rows = source.take(drawn)
    _require_distinct(rows, max(sizes))
    return unit(rows) if normalize else rows


def _require_distinct(vectors: Vectors, count: int) -> None:
    distinct: set[bytes] = set()
    for row in vectors:
        distinct.add(row.tobytes())
        if len(distinct) >= count:
            return
    raise DataError(
        f"{len(vectors)} items have {len(distinct)} distinct vectors, and a level has {count} codes",
        hint=f"choose levels of at most {len(distinct)} codes",
    )


def kmeans(
    vectors: Vectors, size: int, rng: np.random.Generator, most: int = ITERATIONS[1]
) -> tuple[Vectors, int]:
    """(n, dim) vectors in random order -> (size, dim) float32 centroids, and the iterations that it
    took.

    most: iterations on the whole sample, at most.
    """
    part = vectors[: SEEDING_ROWS_PER_CENTROID * size]
    seeds = plus_plus(part, size, rng)
    starts = [lloyd(part, start, ITERATIONS[0]) for start in (seeds, by_direction(part, seeds))]
    centroids, done = starts[
        _preferred([nearest(vectors, centroids) for centroids, _ in starts], size)
    ]
    if len(part) == len(vectors) and done < ITERATIONS[0]:
        return centroids, done  # already converged on all there is
    centroids, steps = lloyd(vectors, centroids, most)
    return centroids, done + steps


def _preferred(found: Sequence[tuple[NDArray[np.intp], NDArray[np.float32]]], size: int) -> int:
    """Which (codes, squared distances) spread over the codes most evenly, of those whose error is
    about the least."""
    errors = [float(distances.sum(dtype=np.float64)) for _, distances in found]
    shares = [np.bincount(codes, minlength=size) / len(codes) for codes, _ in found]
    entropies = [
        float(-(share * np.log(np.maximum(share, np.finfo(float).tiny))).sum()) for share in shares
    ]
    return max(
        range(len(found)),
        key=lambda start: (errors[start] <= ALIKE * min(errors), entropies[start]),
    )


def by_direction(vectors: Vectors, centroids: Vectors) -> Vectors:
    """The means of the rows whose direction is nearest to that of a centroid: a step of spherical
    k-means."""
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    units = centroids / np.maximum(lengths, np.finfo(np.float32).tiny)
    codes, distances = nearest(
        vectors, units
    )  # of units: the squared distance is |v|^2 + 1 - 2 v.u
    return means(vectors, codes, distances, centroids)


def plus_plus(vectors: Vectors, size: int, rng: np.random.Generator) -> Vectors:
    """Greedy k-means++: of a few candidates drawn by squared distance, keep the one that lowers the
    error most."""
    candidates = 2 + int(np.log(size))
    norms = np.einsum("ij,ij->i", vectors, vectors)
    chosen = np.empty(size, dtype=np.intp)
    chosen[0] = rng.integers(len(vectors))
    closest = _distances(vectors, norms, chosen[:1])[0]
    for step in range(1, size):
        cumulated = np.cumsum(closest, dtype=np.float64)
        drawn = np.searchsorted(cumulated, rng.random(candidates) * cumulated[-1], side="right")
        drawn = np.minimum(drawn, len(vectors) - 1)
        lowered = np.minimum(closest, _distances(vectors, norms, drawn))  # (candidates, n)
        best = int(lowered.sum(axis=1, dtype=np.float64).argmin())
        chosen[step], closest = drawn[best], lowered[best]
    return vectors[chosen]


def _distances(
    vectors: Vectors, norms: NDArray[np.float32], rows: NDArray[np.intp]
) -> NDArray[np.float32]:
    """(len(rows), n) float32 squared distances from some of the rows to all."""
    products = (vectors @ vectors[rows].T).T
    return np.maximum(norms[rows, None] + norms - 2 * products, 0)


def lloyd(vectors: Vectors, centroids: Vectors, most: int) -> tuple[Vectors, int]:
    """Lloyd's iterations until the error falls by less than TOLERANCE, `most` at most -> centroids,
    iterations."""
    previous = np.inf
    for step in range(most):
        codes, distances = nearest(vectors, centroids)
        error = float(distances.sum(dtype=np.float64))
        if previous - error <= TOLERANCE * error:
            return centroids, step
        previous, centroids = error, means(vectors, codes, distances, centroids)
    return centroids, most


def nearest(
    vectors: Vectors, centroids: Vectors, prices: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The nearest centroid of each row, as (n,) codes, and the (n,) squared distances to it.

    With (K,) `prices`, the squared distances are those plus the price of the centroid.
    """
    codes = np.empty(len(vectors), dtype=np.intp)
    distances = np.empty(len(vectors), dtype=np.float32)
    transposed = np.ascontiguousarray(centroids.T)
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


def means(
    vectors: Vectors, codes: NDArray[np.intp], distances: NDArray[np.float32], centroids: Vectors
) -> Vectors:
    """The mean of each code's rows; a code without rows starts anew at the row farthest from its
    centroid."""
    from scipy.sparse import csr_array

    counts = np.bincount(codes, minlength=len(centroids))
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        farthest = np.argsort(-distances, kind="stable")[: len(empty)]
        codes = codes.copy()
        codes[farthest] = empty
        counts = np.bincount(codes, minlength=len(centroids))
    members = csr_array(
        (np.ones(len(codes), dtype=np.float32), codes, np.arange(len(codes) + 1)),
        shape=(len(codes), len(centroids)),
    )
    sums = members.T.tocsr() @ vectors  # (K, dim)
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids).astype(
        np.float32
    )
