"""Product quantization: each level codes its own part of the space ("pq"), after a learned rotation
("opq").

Knows vectors and centroids; knows nothing of items. The digits are unordered: no level depends on
another (RPG, ActionPiece). Jégou et al. 2011; the rotation is that of Ge et al. 2013, from the
principal axes (dealt out so that every part has as much variance) by alternating k-means and
Procrustes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.data.vectors import VectorSource
from sidtool.errors import UsageError
from sidtool.quantize.codebook import Codebook
from sidtool.quantize.kmeans import Progress, kmeans, lloyd, nearest, training_rows
from sidtool.sid import Vectors

ROUNDS = 10
"""Alternations between centroids and rotation."""

Parts = list[NDArray[np.intp]]
"""Per level: the dimensions that it codes."""


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: bool = False,
    progress: Progress | None = None,
) -> Codebook:
    """Product quantization of (n, dim) float32 embeddings: level l codes the l-th run of dimensions
    by k-means.

    Raises DataError as residual k-means does, UsageError if there are more levels than dimensions.
    """
    rng = np.random.default_rng(seed)
    rows = training_rows(vectors, sizes, rng, normalize)
    parts = _runs(rows.shape[1], len(sizes))
    levels = []
    for level, (size, part) in enumerate(zip(sizes, parts, strict=True)):
        levels.append(_widened(kmeans(rows[:, part], size, rng)[0], part, rows.shape[1]))
        if progress:
            progress(level + 1, len(sizes))
    return Codebook(
        "pq", tuple(levels), {}, {"seed": seed, "normalize": normalize, "sample": len(rows)}
    )


def fit_rotated(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: bool = False,
    progress: Progress | None = None,
) -> Codebook:
    """Product quantization after the rotation that loses least; arguments and errors as in `fit`."""
    rng = np.random.default_rng(seed)
    rows = training_rows(vectors, sizes, rng, normalize)
    center = rows.mean(axis=0)
    rows -= center
    parts = _runs(rows.shape[1], len(sizes))
    rotation = _principal_axes(rows, parts)
    turned = rows @ rotation
    centroids = [
        kmeans(turned[:, part], size, rng)[0] for size, part in zip(sizes, parts, strict=True)
    ]
    for step in range(ROUNDS):
        found = np.empty_like(turned)
        for level, part in enumerate(parts):
            own = np.ascontiguousarray(turned[:, part])
            centroids[level], _ = lloyd(own, centroids[level], 1)
            found[:, part] = centroids[level][nearest(own, centroids[level])[0]]
        left, _, right = np.linalg.svd((rows.T @ found).astype(np.float64))
        rotation = (left @ right).astype(np.float32)
        turned = rows @ rotation
        if progress:
            progress(step + 1, ROUNDS)
    levels = [
        _widened(lloyd(np.ascontiguousarray(turned[:, p]), c, 1)[0], p, rows.shape[1])
        for c, p in zip(centroids, parts, strict=True)
    ]
    encoder = {
        "in_0_weight": rotation,
        "in_0_bias": -(center @ rotation),
        "out_0_weight": np.ascontiguousarray(rotation.T),
        "out_0_bias": center,
    }
    facts = {"seed": seed, "normalize": normalize, "sample": len(rows), "dim": rows.shape[1]}
    return Codebook("opq", tuple(levels), encoder, facts)


def _runs(dim: int, levels: int) -> Parts:
    if levels > dim:
        raise UsageError(f"{levels} levels cannot share {dim} dimensions")
    return np.array_split(np.arange(dim), levels)


def _widened(centroids: Vectors, part: NDArray[np.intp], dim: int) -> Vectors:
    """(K, part) centroids -> (K, dim), zero outside the part."""
    wide = np.zeros((len(centroids), dim), dtype=np.float32)
    wide[:, part] = centroids
    return wide


def _principal_axes(rows: Vectors, parts: Parts) -> NDArray[np.float32]:
    """(dim, dim) rotation: each axis, widest first, goes to the part whose variances multiply to
    least so far."""
    variances, axes = np.linalg.eigh(rows.T.astype(np.float64) @ rows / len(rows))
    logs = (
        np.log(np.maximum(variances, 1e-12 * variances.max()) / variances.max() + 1e-12) + 30
    )  # positive
    chosen: list[list[int]] = [[] for _ in parts]
    for axis in reversed(range(len(variances))):
        open_parts = [level for level, part in enumerate(parts) if len(chosen[level]) < len(part)]
        best = min(open_parts, key=lambda level: sum(logs[axis] for axis in chosen[level]))
        chosen[best].append(axis)
    return axes[
        :, np.concatenate([np.array(axes_of) for axes_of in chosen]).astype(np.intp)
    ].astype(np.float32)
