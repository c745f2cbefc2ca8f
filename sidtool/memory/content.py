"""Similarity by content: every item has neighbors, those without training events too."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.base.records import JsonRecord
from sidtool.data.vectors import Vectors
from sidtool.memory.nearest import nearest_items
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.quantize.mlp import unit

DEFAULT_WEIGHT = 0.8
LARGEST_WEIGHT = 100.0
NEW_ITEM_GAIN = 0.5
"""How much larger similarity by content is for an item without events, as a share."""


@dataclass(frozen=True)
class ContentSettings(JsonRecord):
    """How content was compared. Raises UsageError unless the weight is above 0 and at most
    LARGEST_WEIGHT."""

    source: Literal["vectors", "codes"]
    """The items' vectors, or their codes alone."""
    weight: float = DEFAULT_WEIGHT
    """Similarity by content of two items with the same vector and many events. It is added to that
    of their events."""
    vectors: str = ""
    """SHA-256 of the (n, dim) float32 vectors; empty if the source is the codes."""

    def __post_init__(self) -> None:
        if self.source not in ("vectors", "codes"):
            raise UsageError(f"the content is that of vectors or codes, not {self.source!r}")
        if not 0 < self.weight <= LARGEST_WEIGHT:
            raise UsageError(
                f"the weight of the content is above 0 and at most {LARGEST_WEIGHT:g}, not "
                f"{self.weight}"
            )


@dataclass(frozen=True, eq=False)
class ItemContent:
    """Which of a bundle's n items are similar by content."""

    nearest: Any
    """(n, n) scipy CSR float32, above the diagonal: cosine ** POWER of each item and its NEIGHBORS
    nearest"""
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
        return cls(nearest_items(unit(centered.astype(np.float32))), settings)

    def weighted(self, weight: float) -> "ItemContent":
        """The same content with another weight."""
        return replace(self, settings=replace(self.settings, weight=weight))


def content_similarity(nearest: Any, weight: float, events: NDArray[np.int64]) -> Any:
    """(n, n) scipy CSR float64, above the diagonal: similarity by content of n items with so many
    training events, of which `nearest` has the powers of the cosines."""
    return content_rows(nearest, weight, events, events[nearest.indices])


def content_rows(
    nearest: Any,
    weight: float,
    row_events: NDArray[np.int64],
    column_events: NDArray[np.int64],
) -> Any:
    """(m, n) scipy CSR float64: similarity by content of m items to all by the (m, n) CSR powers of
    their cosines, the (m,) events of the rows and the (entries,) events of each entry's column.

    It is larger where one of the two has few events: content is all that leads to an item without
    any."""
    from scipy import sparse

    fewer = np.minimum(np.repeat(row_events, np.diff(nearest.indptr)), column_events)
    values = weight * nearest.data.astype(np.float64) * (1 + NEW_ITEM_GAIN / (1 + fewer))
    return sparse.csr_matrix((values, nearest.indices, nearest.indptr), shape=nearest.shape)
