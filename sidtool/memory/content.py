"""Similarity by content: neighbors for items with few training events, or none."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.errors import DataError, UsageError
from sidtool.json_record import JsonRecord
from sidtool.quantize.mlp import unit
from sidtool.sid import Vectors

DEFAULT_WEIGHT = 0.4
DEFAULT_NEIGHBORS = 100
"""Nearest items per item if the number of neighbors is not limited."""
MAX_EVENTS = 5
"""Items with more training events have no neighbors by content of their own."""
MIN_COSINE = 0.1
POWER = 4
"""Of the cosine: few items are similar by content, as few co-occur."""
BLOCK_VALUES = 2**24
"""Cosines that are in memory at a time."""


@dataclass(frozen=True)
class ContentSettings(JsonRecord):
    """How content was compared. Raises UsageError unless the weight is above 0 and at most 1."""

    source: Literal["vectors", "codes"]
    """The items' vectors, or their codes alone."""
    weight: float = DEFAULT_WEIGHT
    """Similarity of two items with the same vector, one of which has no events."""
    vectors: str = ""
    """SHA-256 of the (n, dim) float32 vectors; empty if the source is the codes."""

    def __post_init__(self) -> None:
        if self.source not in ("vectors", "codes"):
            raise UsageError(f"the content is that of vectors or codes, not {self.source!r}")
        if not 0 < self.weight <= 1:
            raise UsageError(
                f"the weight of the content is above 0 and at most 1, not {self.weight}"
            )


@dataclass(frozen=True, eq=False)
class ItemContent:
    """The content of a bundle's n items in the space of its codebook."""

    directions: Vectors
    """(n, dim) float32: the vectors without their mean, of length 1"""
    settings: ContentSettings

    @classmethod
    def of(
        cls, bundle: Bundle, vectors: Vectors | None = None, weight: float = DEFAULT_WEIGHT
    ) -> "ItemContent":
        """The content by (n, dim) vectors as the codebook encodes them, in the order of the
        bundle's rows; without them by the sums of the centroids of the items' codes.

        Raises RefusedError if the bundle has no codebook, DataError if the vectors do not fit."""
        codebook = bundle.require_codebook()
        if vectors is None:
            settings = ContentSettings("codes", weight)
            prepared = codebook.reconstruct(bundle.items.codes)
        else:
            if len(vectors) != len(bundle.items):
                raise DataError(f"{len(vectors)} vectors for {len(bundle.items)} items")
            vectors = np.ascontiguousarray(vectors, dtype=np.float32)
            digest = hashlib.sha256(vectors.tobytes()).hexdigest()
            settings = ContentSettings("vectors", weight, digest)
            prepared = codebook.prepare(vectors)
        centered = prepared - prepared.mean(axis=0, dtype=np.float64)
        return cls(unit(centered.astype(np.float32)), settings)


def content_similarity(
    content: ItemContent, events: NDArray[np.int64], neighbors: int | None
) -> Any:
    """(n, n) scipy CSR float64, above the diagonal: similarity by content of the items with at
    most MAX_EVENTS events and the items nearest to them.

    The similarity of item i to a neighbor j is weight · cosine ** POWER / (1 + events of i); the
    larger one holds if each is a neighbor of the other."""
    from scipy import sparse

    n = len(events)
    count = min(neighbors or DEFAULT_NEIGHBORS, n - 1)
    rare_rows = np.flatnonzero(events <= MAX_EVENTS)
    similarity = sparse.csr_matrix((n, n))
    step = max(1, BLOCK_VALUES // n)
    for start in range(0, len(rare_rows), step):
        rows = rare_rows[start : start + step]
        cosines, nearest = _nearest(content.directions, rows, count)
        scales = content.settings.weight / (1 + events[rows])
        values = np.where(cosines < MIN_COSINE, 0, scales[:, None] * cosines**POWER)
        entries = (values.ravel(), (np.repeat(rows, count), nearest.ravel()))
        similarity += sparse.csr_matrix(entries, shape=(n, n))
    return sparse.triu(similarity.maximum(similarity.T), k=1, format="csr")


def _nearest(
    directions: Vectors, rows: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(m, count) each: the largest cosines of m rows to other rows, and those rows."""
    cosines = directions[rows] @ directions.T  # (m, n)
    cosines[np.arange(len(rows)), rows] = -np.inf
    nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    return np.take_along_axis(cosines, nearest, axis=1).astype(np.float64), nearest
