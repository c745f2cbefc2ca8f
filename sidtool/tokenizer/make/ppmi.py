"""Collaborative vectors: a truncated decomposition of the PPMI matrix of item co-occurrence.

Positive pointwise mutual information, decomposed with the square root of the values (Levy,
Goldberg, Dagan 2015): items that co-occur get similar vectors. Of the symmetric matrix the largest
eigenvalues are taken, not those of largest magnitude. If these are positive, as on real catalogs,
this is the singular value decomposition; a negative one would separate items that co-occur.
"""

from typing import Any

import numpy as np

from sidtool.data.vectors import Vectors
from sidtool.tokenizer.quantize.fusion import fix_signs

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
