"""First values of the rows that semantic-ID tokens get in an embedding or output matrix.

Knows matrices and centroids; knows nothing of models or tokenizers. Rows must differ from the
start: an untrained extension whose rows are one vector cannot rank SIDs at all. Needs numpy only.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sidtool.quantize.codebook import Codebook
from sidtool.sid import SidSpace

Init = Literal["codebook", "mean", "random"]
INITS: tuple[Init, ...] = get_args(Init)
DEFAULT_INIT: Init = "codebook"

Rows = NDArray[np.float32]
"""(n, width): one token a row."""

MEAN_NOISE = 0.1
"""`mean`: the noise around the mean row, in standard deviations of the existing rows."""
TIE_NOISE = 0.1
"""`codebook`: the share of a random direction in each row, so that equal centroids (empty clusters)
give two rows."""


@dataclass(frozen=True)
class EmbeddingStatistics:
    """Existing rows in numbers: mean and standard deviation per dimension, (width,) float32 each,
    and the mean and standard deviation of the distance of a row from the mean row."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    distance: float
    distance_deviation: float

    @classmethod
    def of(cls, rows: Rows) -> "EmbeddingStatistics":
        """Measure rows (n, width), n at least 1."""
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        distances = np.linalg.norm(rows - mean, axis=1)
        return cls(mean, rows.std(axis=0), float(distances.mean()), float(distances.std()))


def initial_embeddings(
    space: SidSpace, codebook: Codebook | None, init: Init, like: EmbeddingStatistics, seed: int
) -> Rows:
    """(len(space.tokens), width) float32 rows in block order; the same seed gives the same
    directions.

    * `codebook`: each level's centroids, centerd, through one Gaussian random projection (Johnson and Lindenstrauss
      1984) that all levels share, so that the rows of a SID add up to the projection of its item.
      Directions come from there; lengths keep their order within the level and are rescaled to the
      existing rows' mean and standard deviation. Levels without centroids (an appended one) and
      markers get random directions and the same lengths.
    * `mean`: the mean of the existing rows, plus Gaussian noise of `MEAN_NOISE` of their deviation per dimension.
    * `random`: Gaussian, with the existing rows' mean and deviation per dimension.

    All three are laid around the mean of the existing rows, whose product with a hidden state all
    logits share."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((len(space.tokens), len(like.mean)), dtype=np.float32)
    if init == "mean":
        return like.mean + MEAN_NOISE * like.deviation * noise
    if init == "random" or codebook is None:
        return like.mean + like.deviation * noise
    offsets = _unit(noise) * like.distance
    width = codebook.levels[0].shape[1]
    projection = rng.standard_normal((width, len(like.mean)), dtype=np.float32) / np.float32(
        np.sqrt(width)
    )
    for start, centroids in zip(space.offsets.tolist(), codebook.levels, strict=False):
        block = slice(start, start + len(centroids))
        offsets[block] = _projected(centroids @ projection, noise[block], like)
    return like.mean + offsets


def _projected(points: Rows, noise: Rows, like: EmbeddingStatistics) -> Rows:
    """One level's offsets from the mean row: directions of the centerd points, lengths like the
    existing ones."""
    points = points - points.mean(axis=0)  # (K, width)
    lengths = np.linalg.norm(points, axis=1)  # (K,)
    standard = (lengths - lengths.mean()) / max(float(lengths.std()), 1e-12)
    target = like.distance + like.distance_deviation * standard
    target = np.clip(target, 0.5 * like.distance, 2 * like.distance)
    return _unit(_unit(points) + TIE_NOISE * _unit(noise)) * target[:, None].astype(np.float32)


def _unit(rows: Rows) -> Rows:
    """Rows scaled to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
