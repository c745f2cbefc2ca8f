"""From co-occurrence to vectors: items that people meet together get vectors that lie together.

Knows sparse counts; knows nothing of people, nor of the vectors that these are fused with. Positive
pointwise mutual information, then its truncated decomposition with the root of the values (Levy,
Goldberg, Dagan 2015). Of the symmetric matrix the largest eigenvalues are taken, not those largest
by size: where these are positive, as on real catalogs, that is the singular value decomposition; a
negative one would push items apart that meet."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.sid import Vectors

LEAST = 1e-6
"""Eigenvalues below this share of the largest are rounding."""


def ppmi(counts: Any) -> Any:
    """(n, n) CSR of symmetric weights -> CSR of max(0, log(N_ij N / (N_i N_j))), entries of 0 left
    out."""
    from scipy import sparse

    sums = np.asarray(counts.sum(axis=1)).ravel()
    pairs = counts.tocoo()
    values = np.log(pairs.data * sums.sum() / (sums[pairs.row] * sums[pairs.col]))
    kept = values > 0
    return sparse.csr_matrix((values[kept], (pairs.row[kept], pairs.col[kept])), shape=counts.shape)


def factors(matrix: Any, dims: int, seed: int) -> Vectors:
    """(n, n) symmetric CSR -> (n, dims) float32 whose inner products come nearest to it.

    They are eigenvectors times the roots of the largest eigenvalues. Rows without entries are zero;
    so are columns beyond the positive eigenvalues. The largest entry of each column is positive:
    the same seed gives the same signs."""
    from scipy.sparse.linalg import eigsh

    found = np.zeros((matrix.shape[0], dims), dtype=np.float32)
    rows = np.flatnonzero(np.diff(matrix.indptr))
    inner = matrix[rows][:, rows]
    if len(rows) <= max(2 * dims, 3):  # Lanczos wants fewer values than rows
        values, vectors = np.linalg.eigh(inner.toarray())
    else:
        start = np.random.default_rng(seed).standard_normal(len(rows))
        values, vectors = eigsh(inner, k=dims, which="LA", v0=start)
    order = np.argsort(-values, kind="stable")[:dims]
    order = order[values[order] > LEAST * values.max(initial=0)]
    found[rows, : len(order)] = signed(vectors[:, order]) * np.sqrt(values[order])
    return found


def signed(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns with their largest entry (by size, the first of equals) made positive."""
    largest = np.take_along_axis(columns, np.abs(columns).argmax(axis=0, keepdims=True), axis=0)
    return columns * np.where(largest < 0, -1, 1)
