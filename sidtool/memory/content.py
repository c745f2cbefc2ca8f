"""Similarity by content: every item has neighbors, those without training events too."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data import Vectors, VectorSource
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

NO_COLUMN = 2**32 - 1
"""More than the number of any item."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Which of n vectors are compared with which: those of a block of rows with the members of some
    cells. A block needs no other one, so the result is the same wherever it is compared."""

    directions: Vectors
    """(n, dim) of length 1"""
    probed: NDArray[np.int32]
    """(n, cells compared): the cells whose centroids are nearest to each, its own first"""
    order: NDArray[np.int64]
    """(n,): the vectors by their own cell"""
    starts: NDArray[np.int64]
    """(cells + 1,): where the members of each cell start in `order`"""

    @classmethod
    def of(cls, directions: Vectors) -> "Cells":
        """All vectors are in one cell, or with more than MOST_COMPARED in √n cells of k-means."""
        n = len(directions)
        n_cells = 1 if n <= MOST_COMPARED else round(n**0.5)
        probed = _nearest_cells(directions, n_cells)
        order = np.argsort(probed[:, 0], kind="stable")
        starts = np.searchsorted(probed[order, 0], np.arange(n_cells + 1))
        return cls(directions, probed, order, starts)

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Ranges of `order`, whose cosines with a cell fit into BLOCK_VALUES."""
        n = len(self.order)
        step = max(1, BLOCK_VALUES // int(np.diff(self.starts).max(initial=1)))
        return [(first, min(first + step, n)) for first in range(0, n, step)]

    def nearest(self, first: int, stop: int) -> NDArray[np.uint64]:
        """(stop - first, width): the nearest vectors of those in a block, each as one number: the
        bits of its cosine in the high half, NO_COLUMN less its row in the low one, so that the
        largest are nearest. Where there are fewer, the high half is 0."""
        rows = self.order[first:stop]
        width = min(NEIGHBORS, len(self.order) - 1)
        nearest = np.zeros((len(rows), width), dtype=np.uint64)
        cells = self.probed[rows]  # (rows, cells compared)
        by_cell = np.argsort(cells, axis=None, kind="stable")  # places in the flattened cells
        bounds = np.searchsorted(cells.ravel()[by_cell], np.arange(len(self.starts)))
        for cell in np.unique(cells).tolist() if width else ():
            # places in `rows` of the vectors that are compared with the members of the cell
            visitors = by_cell[bounds[cell] : bounds[cell + 1]] // cells.shape[1]
            members = self.order[self.starts[cell] : self.starts[cell + 1]]
            if not len(members):
                continue
            # twice the same, as a product with one vector depends on the number of threads
            left, right = (np.resize(side, max(2, len(side))) for side in (rows[visitors], members))
            block = self.directions[left] @ self.directions[right].T
            block = block[: len(visitors), : len(members)]
            block[rows[visitors, None] == members] = -np.inf
            n_neighbors = min(width, len(members))
            columns = np.argpartition(block, -n_neighbors, axis=1)[:, -n_neighbors:]
            cosines = np.take_along_axis(block, columns, axis=1)
            cosines[cosines < MIN_COSINE] = 0  # bits of positive numbers are ordered as these
            keys = cosines.view(np.uint32).astype(np.uint64) << np.uint64(32)
            keys |= (NO_COLUMN - members[columns]).astype(np.uint64)
            keys = np.hstack([keys, nearest[visitors]])
            nearest[visitors] = np.partition(keys, -width, axis=1)[:, -width:]
        return nearest

    def similarity(self, nearest: NDArray[np.uint64]) -> Any:
        """As `nearest_items`, of the (n, width) nearest vectors of all blocks."""
        from scipy import sparse

        n = len(self.order)
        places, ranks = np.nonzero(nearest >> np.uint64(32))
        nearest = nearest[places, ranks]
        cosines = (nearest >> np.uint64(32)).astype(np.uint32).view(np.float32)
        columns = NO_COLUMN - (nearest & np.uint64(NO_COLUMN)).astype(np.int64)
        entries = (cosines**POWER, (self.order[places], columns))
        similarity = sparse.csr_matrix(entries, shape=(n, n))
        # each is a neighbor of the other
        above = sparse.triu(similarity.maximum(similarity.T), k=1, format="csr")
        above.eliminate_zeros()
        return above


def nearest_items(directions: Vectors) -> Any:
    """(n, n) scipy CSR float32, above the diagonal: cosine ** POWER of each of n vectors of length
    1 and the NEIGHBORS nearest to it, if it is at least MIN_COSINE.

    With more than MOST_COMPARED items some of the nearest are missed: an item is compared with the
    items of the PROBED cells of k-means whose centroids are nearest to it (an inverted file, Jégou
    et al., 2011). That takes about n² · dim · PROBED / cells products in place of n² · dim."""
    cells = Cells.of(directions)
    nearest = [cells.nearest(first, stop) for first, stop in cells.blocks]
    return cells.similarity(np.concatenate(nearest))


def _nearest_cells(directions: Vectors, n_cells: int) -> NDArray[np.int32]:
    """(n, probed): the cells of k-means whose centroids are nearest to each vector, its own
    first."""
    n = len(directions)
    if n_cells == 1:
        return np.zeros((n, 1), dtype=np.int32)
    probed = min(PROBED, n_cells)
    rng = np.random.default_rng(0)  # the same vectors have the same cells
    centroids = cluster(directions, n_cells, rng)
    half_norms = np.einsum("ij,ij->i", centroids, centroids) / 2
    cells = np.empty((n, probed), dtype=np.int32)
    step = max(1, BLOCK_VALUES // n_cells)
    for start in range(0, n, step):
        # x.c - |c|^2 / 2 is largest for the nearest centroid
        scores = directions[start : start + step] @ centroids.T - half_norms
        best = np.argpartition(-scores, probed - 1, axis=1)[:, :probed]
        best_scores = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")
        cells[start : start + step] = np.take_along_axis(best, order, axis=1)
    return cells


@dataclass(frozen=True, eq=False)
class ItemContent:
    """Which of a bundle's n items are similar by content."""

    nearest: Any
    """(n, n) scipy CSR float32, above the diagonal: cosine ** POWER of each item and its NEIGHBORS
    nearest"""
    settings: ContentSettings

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        vectors: Vectors | None = None,
        weight: float = CONTENT_WEIGHT,
        compare: Callable[[Vectors], Any] = nearest_items,
    ) -> "ItemContent":
        """The content by (n, dim) vectors as the codebook encodes them, in the order of the
        bundle's rows (`item_vectors`); without them by the sums of the centroids of the items'
        codes. `compare` is `nearest_items`, by whatever processes.

        Raises RefusedError if the bundle has no codebook, DataError for vectors that do not fit or
        are not finite."""
        codebook = bundle.require_codebook()
        if vectors is None:
            settings = ContentSettings("codes", weight)
            prepared = codebook.reconstruct(bundle.items.codes)
        else:
            vectors = np.ascontiguousarray(VectorSource.as_array(vectors), dtype=np.float32)
            if len(vectors) != len(bundle.items):
                raise DataError(f"{len(vectors)} vectors for {len(bundle.items)} items")
            digest = hashlib.sha256(vectors.reshape(-1).data).hexdigest()
            settings = ContentSettings("vectors", weight, digest)
            prepared = codebook.prepare(vectors)
        centered = prepared - prepared.mean(axis=0, dtype=np.float64)
        return cls(compare(unit(centered.astype(np.float32))), settings)

    def weighted(self, weight: float) -> "ItemContent":
        """The same content with another weight."""
        return replace(self, settings=replace(self.settings, weight=weight))
