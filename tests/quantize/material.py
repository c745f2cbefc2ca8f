"""Small codebooks and vectors to test with."""

from collections.abc import Sequence

import numpy as np

from sidtool.quantize.codebook import Codebook
from sidtool.sid import Vectors


def vectors_of(seed: int, n: int, dim: int) -> Vectors:
    """(n, dim) float32 normal noise."""
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def mixture(seed: int, n: int, dim: int, clusters: int = 30) -> Vectors:
    """(n, dim) float32 from a mixture of clusters of uneven weight: something to find."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    weights = 1 / np.arange(1, clusters + 1)
    chosen = rng.choice(clusters, n, p=weights / weights.sum())
    return (centres[chosen] + 0.4 * rng.standard_normal((n, dim))).astype(np.float32)


def codebook_of(seed: int, sizes: Sequence[int], dim: int, *, offset: float = 0, normalize: bool = False) -> Codebook:
    """Random centroids, smaller from level to level; those of the first level lie around `offset`."""
    levels = [vectors_of(seed + level, size, dim) / np.float32(2**level) for level, size in enumerate(sizes)]
    levels[0] = levels[0] + np.float32(offset)
    return Codebook("rq-kmeans", tuple(levels), {}, {"normalize": normalize})
