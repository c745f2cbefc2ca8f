"""Initial embedding rows of SID tokens.

Rows must differ from the start: a model whose new rows are all equal cannot rank SIDs. Needs numpy
only."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.tokenizer import Codebook
from sidtool.tokenizer.sid import SidSpace

Init = Literal["codebook", "mean", "random"]
DEFAULT_INIT: Init = "codebook"
DEFAULT_SCALE = 1.0
"""Distance of new rows from the mean row, in distances of the existing rows."""

Matrix = NDArray[np.float32]
"""(n, width): one token per row."""

MEAN_NOISE = 0.1
"""`mean`: noise around the mean row, in standard deviations of the existing rows."""
TIE_NOISE = 0.1
"""`codebook`: share of a random direction in each row, so that the rows of equal centroids (empty
clusters) differ."""


@dataclass(frozen=True)
class EmbeddingStatistics:
    """Statistics of existing embedding rows."""

    mean: NDArray[np.float32]
    """(width,) float32"""
    deviation: NDArray[np.float32]
    """(width,) float32: standard deviation per dimension"""
    distance: float
    """mean distance of a row from the mean row"""
    distance_deviation: float
    """standard deviation of that distance"""

    @classmethod
    def of(cls, rows: Matrix) -> "EmbeddingStatistics":
        """Measure rows (n, width), n at least 1."""
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        distances = np.linalg.norm(rows - mean, axis=1)
        return cls(mean, rows.std(axis=0), float(distances.mean()), float(distances.std()))


def initial_embeddings(
    space: SidSpace,
    codebook: Codebook | None,
    init: Init,
    existing: EmbeddingStatistics,
    seed: int,
    *,
    scale: float = DEFAULT_SCALE,
) -> Matrix:
    """(len(space.tokens), width) float32 rows in token order, around the mean of existing rows.

    * `codebook`: the centered centroids of each level through one Gaussian random projection
      (Johnson and Lindenstrauss 1984) that all levels share, so that the rows of a SID add up to
      the projection of its item. Lengths keep their order within the level and are rescaled to the
      mean and deviation of the existing rows. Levels without centroids and begin/end tokens get
      random directions and the same lengths.
    * `mean`: the mean of existing rows plus noise (`MEAN_NOISE`).
    * `random`: Gaussian with the mean and deviation of existing rows per dimension.

    `scale` multiplies the distance of all rows from the mean row. The same seed gives the same
    rows."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((len(space.tokens), len(existing.mean)), dtype=np.float32)
    if init == "mean":
        return existing.mean + scale * MEAN_NOISE * existing.deviation * noise
    if init == "random" or codebook is None:
        return existing.mean + scale * existing.deviation * noise
    dim = codebook.levels[0].shape[1]
    projection = rng.standard_normal((dim, len(existing.mean)), dtype=np.float32)
    projection = projection / np.float32(np.sqrt(dim))
    # random directions, which begin and end tokens and levels without centroids keep
    offsets = _unit(noise) * existing.distance  # (tokens, width)
    for start, centroids in zip(space.offsets.tolist(), codebook.levels, strict=False):
        level = slice(start, start + len(centroids))
        offsets[level] = _level_offsets(centroids @ projection, noise[level], existing)
    return existing.mean + np.float32(scale) * offsets


def _level_offsets(points: Matrix, noise: Matrix, existing: EmbeddingStatistics) -> Matrix:
    """One level's offsets from the mean row: directions of the centered points, lengths like those
    of existing rows."""
    points = points - points.mean(axis=0)  # (codes, width)
    lengths = np.linalg.norm(points, axis=1)  # (codes,)
    # the order of lengths stays; their mean and deviation become those of existing rows
    standardized = (lengths - lengths.mean()) / max(float(lengths.std()), 1e-12)
    target = existing.distance + existing.distance_deviation * standardized
    target = np.clip(target, 0.5 * existing.distance, 2 * existing.distance)
    directions = _unit(_unit(points) + TIE_NOISE * _unit(noise))
    return directions * target[:, None].astype(np.float32)


def _unit(rows: Matrix) -> Matrix:
    """Rows scaled to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
