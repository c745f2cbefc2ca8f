"""Balanced k-means: every centroid gets as many rows as every other, to within one (OneRec,
MiniOneRec).

Knows vectors and centroids; knows nothing of items or levels. Exact solvers take minutes where this
takes seconds. Each centroid has a price that is added to its squared distances: prices of crowded
centroids rise and those of empty ones fall until the cheapest choice is nearly even, and the few
rows that are too many then go, least regret first, to the centroids that lack some. The prices stay
part of the codebook, so that items that come later spread as evenly."""

import numpy as np
from numpy.typing import NDArray

from sidtool.quantize import kmeans as plain
from sidtool.sid import Vectors

TABLE = 1 << 28
"""Most entries of the table of distances: one GiB."""
ROUNDS = 10
"""Times that centroids move, at most."""
PRICINGS = 16
"""Price updates before centroids move, and once they stay. More of them gain .7% of the error, for
twice the time."""
CHUNK = 256
"""Rows that choose at once."""
WARM, COLDEST = 0.3, 0.01
"""Temperatures at which prices are first adjusted to moved centroids, and last."""
NEVER = np.float32(-50)
"""Least logarithm of a share: smaller ones are nothing, and slow where they are too small for a
normal float."""
LEAST = 1e-6
"""The smallest demand, as a share of the even one, that a price answers to."""

Distances = NDArray[np.float32]
"""(n, K): squared distances, or those with prices."""
Labels = NDArray[np.intp]


def kmeans(
    vectors: Vectors, size: int, rng: np.random.Generator
) -> tuple[Vectors, NDArray[np.float32], int]:
    """(n, dim) vectors in random order -> (size, dim) centroids, (size,) prices of at least 0, and
    iterations."""
    vectors = vectors[: max(size, TABLE // size)]
    centroids, done = plain.kmeans(vectors, size, rng)
    prices, error = np.zeros(size, dtype=np.float32), np.inf
    for _ in range(ROUNDS):
        distances = squared_distances(vectors, centroids)
        prices = even_prices(distances, prices, PRICINGS, WARM)
        codes = even_codes(distances + prices)
        own = distances[np.arange(len(codes)), codes]
        previous, error = error, float(own.sum(dtype=np.float64))
        if previous - error <= plain.TOLERANCE * error:
            break
        centroids, done = plain.means(vectors, codes, own, centroids), done + 1
    prices = even_prices(squared_distances(vectors, centroids), prices, PRICINGS, WARM)
    return centroids, prices - prices.min(), done


def squared_distances(vectors: Vectors, centroids: Vectors) -> Distances:
    """(n, dim), (K, dim) -> (n, K)."""
    distances = vectors @ (-2 * centroids.T)
    distances += np.einsum("ij,ij->i", vectors, vectors)[:, None]
    distances += np.einsum("ij,ij->i", centroids, centroids)
    return np.maximum(distances, 0, out=distances)


def even_prices(
    distances: Distances, prices: NDArray[np.float32], rounds: int, start: float
) -> NDArray[np.float32]:
    """(K,) prices under which the cheapest choice is nearly even.

    Each round lets the rows choose softly, at a temperature that falls from `start` to COLDEST (in
    standard deviations of the distances), and raises a price by the log of its centroid's excess:
    Sinkhorn's update, annealed. The prices of the round whose cheapest choices were most even are
    returned. Rows that are all as far from all centroids have nothing to choose by: their prices
    stay."""
    n, size = distances.shape
    scale = float(distances.std())
    if (
        scale <= np.finfo(np.float32).eps * float(distances.max())
        or scale < np.finfo(np.float32).tiny / COLDEST
    ):
        return prices
    best, fewest, every = prices, np.inf, np.ones(size, dtype=np.float32)
    for temperature in np.geomspace(start * scale, COLDEST * scale, rounds):
        counts, demand = np.zeros(size, dtype=np.intp), np.zeros(size)
        for first in range(0, n, CHUNK):  # what a chunk needs stays in the cache
            priced = distances[first : first + CHUNK] + prices
            cheapest = priced.argmin(axis=1)
            counts += np.bincount(cheapest, minlength=size)
            priced -= priced[
                np.arange(len(cheapest)), cheapest, None
            ]  # numpy's min takes four times as long
            priced *= np.float32(-1 / temperature)
            np.maximum(priced, NEVER, out=priced)
            shares = np.exp(priced, out=priced)  # (chunk, K)
            demand += (1 / (shares @ every)) @ shares
        misplaced = np.abs(counts - n / size).sum()
        if misplaced <= fewest:
            best, fewest = prices, misplaced
        prices = (prices + temperature * np.log(np.maximum(demand * size / n, LEAST))).astype(
            np.float32
        )
    return best


def even_codes(priced: Distances) -> Labels:
    """(n,) codes such that every code has n / K rows, rounded down or up: the cheapest choice,
    mended where crowded."""
    n, size = priced.shape
    codes = priced.argmin(axis=1)
    counts = np.bincount(codes, minlength=size)
    capacity = np.full(size, n // size)
    capacity[np.argsort(-counts, kind="stable")[: n % size]] += 1  # the fullest may keep one more
    while (counts > capacity).any():
        room = np.flatnonzero(counts < capacity)
        rows = np.flatnonzero((counts > capacity)[codes])
        offers = priced[np.ix_(rows, room)]
        wanted = offers.argmin(axis=1)
        regret = offers[np.arange(len(rows)), wanted] - priced[rows, codes[rows]]
        leaving = _first_of_each(codes[rows], regret, counts - capacity)
        arriving = _first_of_each(room[wanted[leaving]], regret[leaving], capacity - counts)
        moving = leaving[arriving]
        codes[rows[moving]] = room[wanted[moving]]
        counts = np.bincount(codes, minlength=size)
    return codes


def _first_of_each(groups: Labels, costs: NDArray[np.float32], limits: Labels) -> Labels:
    """Positions of the `limits[g]` cheapest members of each group g."""
    order = np.lexsort((costs, groups))
    ordered = groups[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return order[rank < limits[ordered]]
