"""Vectors -> codebook and codes: how a semantic ID is made.

Knows vectors, centroids and codes; knows nothing of where vectors come from or where codebooks are
kept. Encoding and decoding need numpy only."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

from sidtool.data.vectors import VectorSource
from sidtool.errors import UsageError
from sidtool.quantize import fsq, pq, rqkmeans, rqvae
from sidtool.quantize.codebook import Codebook
from sidtool.sid import Levels, Vectors

METHODS: dict[str, Callable[..., Codebook]] = {
    "rq-kmeans": rqkmeans.fit,
    "rq-kmeans+": rqvae.fit_warm,
    "rq-vae": rqvae.fit,
    "pq": pq.fit,
    "opq": pq.fit_rotated,
    "fsq": fsq.fit,
}
"""How a codebook is fitted, by the name that a user gives: each takes what `fit` takes, and options
of its own."""


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    method: str = "rq-kmeans",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Codebook:
    """A codebook with `sizes[l]` codes at level l, fitted to (n, dim) float32 embeddings.

    `options` are keyword arguments of the method's own function, among them `normalize` (scale
    every vector to length 1 first) for all. The same seed and vectors give the same codebook.
    Raises UsageError if the method, an option or a size makes no sense, DataError if a value is not
    finite or there are fewer distinct vectors than codes in a level."""
    if method not in METHODS:
        raise UsageError(f"there is no method {method!r}", hint=f"choose from {', '.join(METHODS)}")
    Levels(tuple(sizes))
    known = [
        name for name in signature(METHODS[method]).parameters if name not in ("vectors", "sizes")
    ]
    if unknown := sorted(set(options) - set(known)):
        raise UsageError(
            f"method {method} has no option {unknown[0]!r}", hint=f"choose from {', '.join(known)}"
        )
    return METHODS[method](vectors, sizes, seed=seed, progress=progress, **options)
