"""Balanced k-means: every centroid gets the same number of rows, to within one (OneRec,
MiniOneRec).

Exact solvers take minutes where this takes seconds. Each centroid has a price that is added to its
squared distances. Prices of crowded centroids rise and those of empty ones fall until the cheapest
choice is nearly even; the few surplus rows then move, least regret first, to centroids with room.
The prices stay part of the codebook, so that later items spread as evenly.
"""

import numpy as np
from numpy.typing import NDArray

from sidtool.data import Vectors
from sidtool.tokenizer.quantize.kmeans import TOLERANCE, Distances, Labels, means
from sidtool.tokenizer.quantize.kmeans import kmeans as plain_kmeans

MAX_ENTRIES = 1 << 28
"""Most entries of the table of distances: one GiB."""
ROUNDS = 10
"""Most updates of the centroids."""
PRICE_UPDATES = 16
"""Price updates per update of the centroids. More of them lower the error by .7%, for twice the
time."""
CHUNK = 256
"""Rows processed at once."""
START_TEMPERATURE = 0.3
"""First temperature of the price updates, in standard deviations of the distances."""
END_TEMPERATURE = 0.01
MIN_LOG_SHARE = np.float32(-50)
"""Smaller log shares are clipped: they add nothing, and subnormal floats are slow."""
MIN_DEMAND = 1e-6
"""The smallest demand for a centroid, as a share of the even one, that changes its price."""


def kmeans(vectors: Vectors, size: int, rng: np.random.Generator) -> tuple[Vectors, Distances, int]:
    """(n, dim) vectors in random order -> (size, dim) centroids, (size,) prices of at least 0, and
    iterations done."""
    vectors = vectors[: max(size, MAX_ENTRIES // size)]
    centroids, done = plain_kmeans(vectors, size, rng)
    prices = np.zeros(size, dtype=np.float32)
    error = np.inf
    for _ in range(ROUNDS):
        distances = squared_distances(vectors, centroids)
        prices = even_prices(distances, prices, PRICE_UPDATES, START_TEMPERATURE)
        codes = even_codes(distances + prices)
        chosen = distances[np.arange(len(codes)), codes]
        previous = error
        error = float(chosen.sum(dtype=np.float64))
        if previous - error <= TOLERANCE * error:
            break
        centroids = means(vectors, codes, chosen, centroids)
        done += 1
    distances = squared_distances(vectors, centroids)
    prices = even_prices(distances, prices, PRICE_UPDATES, START_TEMPERATURE)
    return centroids, prices - prices.min(), done


def squared_distances(vectors: Vectors, centroids: Vectors) -> Distances:
    """(n, dim), (K, dim) -> (n, K)."""
    distances = vectors @ (-2 * centroids.T)
    distances += np.einsum("ij,ij->i", vectors, vectors)[:, None]
    distances += np.einsum("ij,ij->i", centroids, centroids)
    return np.maximum(distances, 0, out=distances)


def even_prices(
    distances: Distances, prices: Distances, updates: int, temperature: float
) -> Distances:
    """(n, K) squared distances -> (K,) prices under which the cheapest choice is nearly even.

    Each update lets the rows choose softly, at a temperature that falls from `temperature` to
    END_TEMPERATURE (in standard deviations of the distances), and raises a price by the log of its
    centroid's excess demand: Sinkhorn's update, annealed. The prices whose cheapest choices were
    most even are returned; prices stay as they are if all distances are equal.
    """
    n, size = distances.shape
    scale = float(distances.std())
    rounding = np.finfo(np.float32).eps * float(distances.max())
    if scale <= rounding or scale < np.finfo(np.float32).tiny / END_TEMPERATURE:
        return prices
    best = prices
    least_misplaced = np.inf
    for current in np.geomspace(temperature * scale, END_TEMPERATURE * scale, updates):
        counts, demand = _demand(distances, prices, current)
        misplaced = np.abs(counts - n / size).sum()
        if misplaced <= least_misplaced:
            best = prices
            least_misplaced = misplaced
        excess = np.maximum(demand * size / n, MIN_DEMAND)
        prices = (prices + current * np.log(excess)).astype(np.float32)
    return best


def _demand(
    distances: Distances, prices: Distances, temperature: float
) -> tuple[Labels, NDArray[np.float64]]:
    """(K,) rows whose cheapest choice each centroid is, and the (K,) sum of their soft choices."""
    n, size = distances.shape
    ones = np.ones(size, dtype=np.float32)
    counts = np.zeros(size, dtype=np.intp)
    demand = np.zeros(size)
    for start in range(0, n, CHUNK):  # the arrays of a chunk stay in the cache
        priced = distances[start : start + CHUNK] + prices
        cheapest = priced.argmin(axis=1)
        counts += np.bincount(cheapest, minlength=size)
        # indexing, because numpy's min takes four times as long
        priced -= priced[np.arange(len(cheapest)), cheapest, None]
        priced *= np.float32(-1 / temperature)
        np.maximum(priced, MIN_LOG_SHARE, out=priced)
        shares = np.exp(priced, out=priced)  # (chunk, K)
        demand += (1 / (shares @ ones)) @ shares
    return counts, demand


def even_codes(priced: Distances) -> Labels:
    """(n, K) distances with prices -> (n,) codes, each given to n / K rows, rounded down or up.

    Every row gets its cheapest code, and surplus rows move to codes with room.
    """
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
        regret = costs[np.arange(len(rows)), cheapest] - priced[rows, codes[rows]]
        leaving = _first_of_each(codes[rows], regret, counts - capacity)
        targets = with_room[cheapest[leaving]]
        arriving = _first_of_each(targets, regret[leaving], capacity - counts)
        codes[rows[leaving[arriving]]] = targets[arriving]
        counts = np.bincount(codes, minlength=size)
    return codes


def _first_of_each(groups: Labels, costs: Distances, limits: Labels) -> Labels:
    """Positions of the `limits[g]` cheapest members of each group g."""
    order = np.lexsort((costs, groups))
    ordered = groups[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return order[rank < limits[ordered]]
