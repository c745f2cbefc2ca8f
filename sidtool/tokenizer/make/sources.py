"""What a codebook is fitted to: vectors of one or several sources, fused, and item
co-occurrence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from sidtool.base.errors import DataError, UsageError
from sidtool.data.split.cooccurrence import Cooccurrence, count_cooccurrence
from sidtool.data.split.split import Split
from sidtool.data.vectors import Vectors, VectorSource
from sidtool.tokenizer.quantize.fusion import (
    Fusion,
    FusionOptions,
    add_collaborative,
    fix_signs,
    fuse,
    fuse_sources,
    source_shares,
)
from sidtool.tokenizer.quantize.mlp import Arrays


@dataclass(frozen=True)
class QuantizerInput:
    """What a codebook is fitted to."""

    vectors: VectorSource
    """(n, width), fused if there is a fusion."""
    fusion: Fusion | None = None
    fusion_arrays: Arrays = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Recorded in the recipe: describes the training part only."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """Recorded outside the identity: the split, with what it holds out."""


def quantizer_input(
    ids: Sequence[str],
    sources: Sequence[Vectors | VectorSource],
    *,
    weights: Sequence[float] = (),
    options: FusionOptions,
    split: Split | None = None,
    seed: int = 0,
) -> QuantizerInput:
    """The vectors of the items `ids`: `sources` of (n, dim_i) vectors, and co-occurrence in the
    training part of a split.

    One source alone is not changed; fused vectors are held in memory. Raises DataError if the
    numbers of vectors and items differ or no two items co-occur, UsageError for wrong weights or
    too small a memory limit.
    """
    for vectors in sources:
        if len(vectors) != len(ids):
            raise DataError(f"{len(vectors)} vectors for {len(ids)} items")
    if split is None:
        return _fuse(sources, weights, options, None, seed)
    cooccurrence = count_cooccurrence(split, ids, window=options.window, decay=options.decay)
    return replace(
        _fuse(sources, weights, options, cooccurrence, seed),
        recipe={"collaborative": {"mode": "fused", **asdict(cooccurrence.record)}},
        source={"split": split.reference.to_json()},
    )


def _fuse(
    sources: Sequence[Vectors | VectorSource],
    weights: Sequence[float],
    options: FusionOptions,
    cooccurrence: Cooccurrence | None,
    seed: int,
) -> QuantizerInput:
    source_shares(len(sources), weights)  # raises for weights that do not fit
    if cooccurrence is None and len(sources) == 1 and options.text_dim is None:
        return QuantizerInput(VectorSource.of(sources[0]))
    whole = [_all_vectors(VectorSource.of(vectors)) for vectors in sources]
    joined = np.concatenate(whole, axis=1)
    fusion, arrays = fuse_sources(whole, weights, options.text_dim)
    if cooccurrence is None:
        fused = fuse(arrays, fusion, joined)
    else:
        vectors = factors(ppmi(cooccurrence.counts), options.collaborative_dim, seed)
        fusion, arrays, fused = add_collaborative(
            fusion, arrays, joined, vectors, cooccurrence.events, options
        )
    return QuantizerInput(VectorSource.of(fused), fusion, arrays)


def _all_vectors(source: VectorSource) -> Vectors:
    if source.limit < len(source):
        raise UsageError(
            f"{len(source)} vectors are fused in memory, and the memory limit holds {source.limit}",
            hint="a larger --memory",
        )
    return source.all()


MIN_EIGENVALUE = 1e-6
"""Eigenvalues below this share of the largest are rounding errors."""


def ppmi(counts: Any) -> Any:
    """(n, n) CSR of symmetric weights -> CSR of max(0, log(N_ij N / (N_i N_j))), without zeros."""
    from scipy import sparse

    sums = np.asarray(counts.sum(axis=1)).ravel()
    pairs = counts.tocoo()
    expected = sums[pairs.row] * sums[pairs.col]  # times the total: N_i N_j
    values = np.log(pairs.data * sums.sum() / expected)
    positive = values > 0
    coordinates = (pairs.row[positive], pairs.col[positive])
    return sparse.csr_matrix((values[positive], coordinates), shape=counts.shape)


def factors(matrix: Any, dims: int, seed: int) -> Vectors:
    """(n, n) symmetric CSR -> (n, dims) float32 whose inner products approximate it best.

    They are eigenvectors times the roots of the largest eigenvalues. Rows without entries are zero;
    so are columns beyond the positive eigenvalues. The largest entry of each column is positive, so
    the same seed gives the same signs.
    """
    from scipy.sparse.linalg import eigsh

    result = np.zeros((matrix.shape[0], dims), dtype=np.float32)
    rows = np.flatnonzero(np.diff(matrix.indptr))
    filled = matrix[rows][:, rows]  # without the empty rows and columns
    if len(rows) <= max(2 * dims, 3):  # Lanczos needs fewer values than rows
        values, vectors = np.linalg.eigh(filled.toarray())
    else:
        start = np.random.default_rng(seed).standard_normal(len(rows))
        values, vectors = eigsh(filled, k=dims, which="LA", v0=start)
    order = np.argsort(-values, kind="stable")[:dims]
    order = order[values[order] > MIN_EIGENVALUE * values.max(initial=0)]
    result[rows, : len(order)] = fix_signs(vectors[:, order]) * np.sqrt(values[order])
    return result
