"""Vectors -> codebook and codes: how a semantic ID is made.

Knows vectors, centroids and codes; knows nothing of where vectors come from or where codebooks are kept. Encoding and
decoding need numpy only.
"""

from collections.abc import Callable, Sequence

from sidtool.errors import UsageError
from sidtool.quantize import kmeans
from sidtool.quantize.codebook import Codebook
from sidtool.sid import SidSpace, Vectors

METHODS: dict[str, Callable[..., Codebook]] = {
    "rq-kmeans": kmeans.fit,
}
"""How a codebook is fitted, by the name that a user gives: each takes what `fit` takes."""


def fit(
    vectors: Vectors,
    sizes: Sequence[int],
    *,
    method: str = "rq-kmeans",
    seed: int = 0,
    normalize: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Codebook:
    """A codebook with `sizes[l]` codes at level l, fitted to (n, dim) float32 embeddings.

    `normalize` scales every vector to length 1 first. The same seed and vectors give the same codebook.
    Raises UsageError if the method or a size makes no sense, DataError if a value is not finite or there are fewer
    distinct vectors than codes in a level.
    """
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}", hint=f"choose from {', '.join(METHODS)}")
    SidSpace(tuple(sizes))
    return METHODS[method](vectors, sizes, seed=seed, normalize=normalize, progress=progress)
