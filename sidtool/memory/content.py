"""Similarity by content: every item has neighbors, those without training events too."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data import Vectors
from sidtool.memory.manifest import CONTENT_WEIGHT, ContentSettings
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.quantize import cluster, unit

NEIGHBORS = 100
"""Nearest items per item."""
MIN_COSINE = 0.1
POWER = 2
"""Of the cosine: few items are similar by content, as few co-occur."""
BLOCK_VALUES = 2**24
"""Cosines that are in memory at a time."""
MOST_COMPARED = 50_000
"""The most items whose pairs are all compared."""
PROBED = 16
"""Cells that an item is compared with."""

Group = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Rows, and the rows that they are compared with."""


def nearest_items(directions: Vectors) -> Any:
    """(n, n) scipy CSR float32, above the diagonal: cosine ** POWER of each of n vectors of length
    1 and the NEIGHBORS nearest to it, if it is at least MIN_COSINE.

    With more than MOST_COMPARED items some of the nearest are missed: an item is compared with the
    items of the PROBED cells of k-means whose centroids are nearest to it (an inverted file, Jégou
    et al., 2011). That takes about n² · dim · PROBED / cells products in place of n² · dim."""
    from scipy import sparse

    n = len(directions)
    width = min(NEIGHBORS, n - 1)
    columns = np.zeros((n, width), dtype=np.int32)
    cosines = np.full((n, width), -np.inf, dtype=np.float32)
    for rows, compared in _groups(directions) if width else ():
        block = directions[rows] @ directions[compared].T
        block[rows[:, None] == compared] = -np.inf
        # the largest of the block and of those so far
        in_block = _largest(block, min(width, len(compared)))
        values = np.hstack([np.take_along_axis(block, in_block, axis=1), cosines[rows]])
        candidates = np.hstack([compared[in_block].astype(np.int32), columns[rows]])
        best = _largest(values, width)
        cosines[rows] = np.take_along_axis(values, best, axis=1)
        columns[rows] = np.take_along_axis(candidates, best, axis=1)
    values = np.where(cosines < MIN_COSINE, 0, cosines) ** POWER
    entries = (values.ravel(), (np.repeat(np.arange(n), width), columns.ravel()))
    similarity = sparse.csr_matrix(entries, shape=(n, n))
    # each is a neighbor of the other
    above = sparse.triu(similarity.maximum(similarity.T), k=1, format="csr")
    above.eliminate_zeros()
    return above


def _groups(directions: Vectors) -> Iterator[Group]:
    """Rows and what they are compared with, in groups whose cosines fit into BLOCK_VALUES."""
    n = len(directions)
    if n <= MOST_COMPARED:
        everything = np.arange(n)
        yield from _blocks(everything, everything)
        return
    n_cells = round(n**0.5)
    probed = min(PROBED, n_cells)
    rng = np.random.default_rng(0)  # the same vectors have the same cells
    centroids = cluster(directions, n_cells, rng)
    half_norms = np.einsum("ij,ij->i", centroids, centroids) / 2
    # (n, probed): the cells whose centroids are nearest to each vector, its own first
    cells = np.empty((n, probed), dtype=np.int32)
    step = max(1, BLOCK_VALUES // n_cells)
    for start in range(0, n, step):
        scores = directions[start : start + step] @ centroids.T - half_norms
        best = np.argpartition(-scores, probed - 1, axis=1)[:, :probed]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        cells[start : start + step] = np.take_along_axis(best, order, axis=1)
    members = _rows_by_cell(cells[:, 0], n_cells)
    visitors = _rows_by_cell(cells.ravel(), n_cells)
    for inside, visiting in zip(members, visitors, strict=True):
        if len(inside):
            yield from _blocks(visiting // probed, inside)


def _rows_by_cell(cells: NDArray[np.int32], n_cells: int) -> list[NDArray[np.intp]]:
    """The rows of each cell, from the cell of each row."""
    order = np.argsort(cells, kind="stable")
    return np.split(order, np.cumsum(np.bincount(cells, minlength=n_cells))[:-1])


def _blocks(rows: NDArray[np.intp], compared: NDArray[np.intp]) -> Iterator[Group]:
    step = max(1, BLOCK_VALUES // len(compared))
    for start in range(0, len(rows), step):
        yield rows[start : start + step], compared


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """(m, count) columns of the largest values of each row, in no order."""
    return np.argpartition(values, -count, axis=1)[:, -count:]


@dataclass(frozen=True, eq=False)
class ItemContent:
    """Which of a bundle's n items are similar by content."""

    nearest: Any
    """(n, n) scipy CSR float32, above the diagonal: cosine ** POWER of each item and its NEIGHBORS
    nearest"""
    settings: ContentSettings

    @classmethod
    def of(
        cls, bundle: Bundle, vectors: Vectors | None = None, weight: float = CONTENT_WEIGHT
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
