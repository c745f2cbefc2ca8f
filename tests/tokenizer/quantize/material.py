"""Small codebooks and vectors to test with."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sidtool.data.vectors import Vectors
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.sid import Codes

QUICK = {"rq-vae": {"epochs": 8}, "rq-kmeans+": {"epochs": 3}}
"""Options that make a method quick enough for a test."""


def vectors_of(seed: int, n: int, dim: int) -> Vectors:
    """(n, dim) float32 normal noise."""
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def mixture(seed: int, n: int, dim: int, clusters: int = 30) -> Vectors:
    """(n, dim) float32 from a mixture of clusters of uneven weight."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((clusters, dim))
    weights = 1 / np.arange(1, clusters + 1)
    cluster_ids = rng.choice(clusters, n, p=weights / weights.sum())
    return (centers[cluster_ids] + 0.4 * rng.standard_normal((n, dim))).astype(np.float32)


def codebook_of(
    seed: int, sizes: Sequence[int], dim: int, *, offset: float = 0, normalize: bool = False
) -> Codebook:
    """Random centroids, smaller from level to level; those of the first level lie around
    `offset`."""
    levels = [
        vectors_of(seed + level, size, dim) / np.float32(2**level)
        for level, size in enumerate(sizes)
    ]
    levels[0] = levels[0] + np.float32(offset)
    return Codebook("rq-kmeans", tuple(levels), {}, QuantizerParams(normalize=normalize))


def with_prices(codebook: Codebook) -> Codebook:
    """The codebook with the columns that `balanced` levels have for the roots of their prices."""
    n_levels = len(codebook.levels)
    levels = [np.pad(level, ((0, 0), (0, n_levels))) for level in codebook.levels]
    for number, level in enumerate(levels):
        level[:, codebook.width + number] = np.linspace(0, 9, len(level))
    params = replace(codebook.params, dim=codebook.width)
    return replace(codebook, levels=tuple(levels), params=params)


def slow_codes(vectors: Vectors, codebook: Codebook) -> tuple[Codes, np.ndarray]:
    """Codes by subtracting centroid after centroid in float64, and the smallest margin between the
    best and the second-best code."""
    residual = codebook.transform(vectors).astype(np.float64)
    codes, margins = [], []
    for level in codebook.levels:
        distances = ((residual[:, None] - level.astype(np.float64)) ** 2).sum(axis=2)
        codes.append(distances.argmin(axis=1))
        ordered = np.sort(distances, axis=1)
        alone = np.full(len(vectors), np.inf)
        margins.append(ordered[:, 1] - ordered[:, 0] if len(level) > 1 else alone)
        residual -= level[codes[-1]]
    return np.stack(codes, axis=1).astype(np.uint16), np.min(margins, axis=0)
