"""Product quantization ("pq"), also after a learned rotation ("opq").

Each level codes its own part of the dimensions, so no level depends on another (RPG, ActionPiece).
Jégou et al. 2011; the rotation is that of Ge et al. 2013: principal axes, distributed so that all
parts have similar variance, then alternating k-means and Procrustes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.progress import Progress
from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.quantize.kmeans import Normalize, kmeans, lloyd, nearest, training_rows

ROUNDS = 10
"""Alternations between centroids and rotation."""

Parts = list[NDArray[np.intp]]
"""Per level: the dimensions that it codes."""


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: Normalize = False,
    progress: Progress | None = None,
) -> Codebook:
    """Product quantization of (n, dim) float32 embeddings: k-means of each run of dimensions.
    Raises DataError as residual k-means does, UsageError if there are more levels than
    dimensions."""
    rng = np.random.default_rng(seed)
    rows = training_rows(vectors, sizes, rng, normalize)
    dim = rows.shape[1]
    levels = []
    for level, (size, part) in enumerate(zip(sizes, _parts(dim, len(sizes)), strict=True)):
        centroids, _ = kmeans(rows[:, part], size, rng)
        levels.append(_widened(centroids, part, dim))
        if progress:
            progress(level + 1, len(sizes))
    params = QuantizerParams(normalize=normalize, fit={"seed": seed, "sample": len(rows)})
    return Codebook("pq", tuple(levels), {}, params)


def fit_rotated(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: Normalize = False,
    progress: Progress | None = None,
) -> Codebook:
    """Product quantization after the rotation with the least error; errors as in `fit`."""
    rng = np.random.default_rng(seed)
    rows = training_rows(vectors, sizes, rng, normalize)
    dim = int(rows.shape[1])
    center = rows.mean(axis=0)
    rows -= center
    parts = _parts(dim, len(sizes))
    rotation = _principal_axes(rows, parts)
    rotated = rows @ rotation
    centroids = [
        kmeans(rotated[:, part], size, rng)[0] for size, part in zip(sizes, parts, strict=True)
    ]
    for step in range(ROUNDS):
        quantized = np.empty_like(rotated)
        for level, part in enumerate(parts):
            columns = np.ascontiguousarray(rotated[:, part])
            centroids[level], _ = lloyd(columns, centroids[level], 1)
            codes, _ = nearest(columns, centroids[level])
            quantized[:, part] = centroids[level][codes]
        # orthogonal Procrustes: the rotation of the rows that is nearest to their quantization
        left, _, right = np.linalg.svd((rows.T @ quantized).astype(np.float64))
        rotation = (left @ right).astype(np.float32)
        rotated = rows @ rotation
        if progress:
            progress(step + 1, ROUNDS)
    levels = []
    for start, part in zip(centroids, parts, strict=True):
        final, _ = lloyd(np.ascontiguousarray(rotated[:, part]), start, 1)
        levels.append(_widened(final, part, dim))
    encoder = {
        "in_0_weight": rotation,
        "in_0_bias": -(center @ rotation),
        "out_0_weight": np.ascontiguousarray(rotation.T),
        "out_0_bias": center,
    }
    params = QuantizerParams(dim=dim, normalize=normalize, fit={"seed": seed, "sample": len(rows)})
    return Codebook("opq", tuple(levels), encoder, params)


def _parts(dim: int, levels: int) -> Parts:
    if levels > dim:
        raise UsageError(f"{levels} levels cannot share {dim} dimensions")
    return np.array_split(np.arange(dim), levels)


def _widened(centroids: Vectors, part: NDArray[np.intp], dim: int) -> Vectors:
    """(K, part) centroids -> (K, dim), zero outside the part."""
    wide = np.zeros((len(centroids), dim), dtype=np.float32)
    wide[:, part] = centroids
    return wide


def _principal_axes(rows: Vectors, parts: Parts) -> NDArray[np.float32]:
    """(dim, dim) rotation: each axis, widest first, goes to the part with the least product of
    variances so far."""
    covariance = rows.T.astype(np.float64) @ rows / len(rows)  # rows are centered
    variances, axes = np.linalg.eigh(covariance)  # ascending
    largest = variances.max() or 1.0  # equal rows have no variance
    relative = np.maximum(variances, 1e-12 * largest) / largest
    logs = np.log(relative + 1e-12) + 30  # positive, so that each axis adds to its part
    axes_of_parts: list[list[int]] = [[] for _ in parts]
    for axis in reversed(range(len(variances))):
        open_parts = [n for n, part in enumerate(parts) if len(axes_of_parts[n]) < len(part)]
        best_part = min(open_parts, key=lambda n: sum(logs[member] for member in axes_of_parts[n]))
        axes_of_parts[best_part].append(axis)
    return axes[:, np.concatenate(axes_of_parts)].astype(np.float32)
