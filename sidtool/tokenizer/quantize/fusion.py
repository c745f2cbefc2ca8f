"""Fusion of several sources of vectors (text, image, collaborative) into one vector per item.

Each source has unit norm and is scaled by the square root of its weight, so weights are shares of
the squared norm. Collaborative vectors exist only for items with events: a stored ridge regression
predicts them from the other sources, and an item with events gets a mixture of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.options import check_options, option
from sidtool.base.records import JsonRecord
from sidtool.data import Vectors
from sidtool.tokenizer.quantize.mlp import Arrays, by_blocks, check_network, forward, has, unit

CHUNK = 8192
COLLABORATIVE = "collaborative"
"""Name of the network that predicts collaborative vectors."""
PRIOR = 2.0
"""An item with c training events has c / (c + PRIOR) of its observed collaborative vector, and the
rest of the predicted one."""
RIDGE = 1.0
"""Penalty of the regression, in units of the mean variance of its inputs."""
MIN_EIGENVALUE = 1e-6
"""Eigenvalues below this share of the largest are rounding errors."""


@dataclass(frozen=True)
class FusionOptions:
    """How sources and collaborative vectors are made and fused. Raises UsageError for values out of
    range."""

    collaborative_dim: int = option(64, minimum=1)
    """Width of the collaborative vectors."""
    collaborative_weight: float = option(0.5, above=0, below=1)
    """Their share of the squared norm; the other sources have the rest."""

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class FusedSource(JsonRecord):
    """One source of a fusion."""

    dim: int
    """Width of the source's vectors."""
    width: int
    """Width of its part of the fused vector."""
    weight: float
    """Its share of the squared norm."""


@dataclass(frozen=True)
class CollaborativePart(JsonRecord):
    """The collaborative part of a fusion."""

    dim: int
    weight: float
    warm_items: int
    """Items with an observed collaborative vector."""
    prior: float
    ridge: float


@dataclass(frozen=True)
class Fusion(JsonRecord):
    """The parts of a fused vector, in order.

    The networks that go with it are arrays by name (see `quantize.mlp`): "source0" projects the
    first source, "collaborative" predicts the collaborative part from all sources."""

    OMITTED = ("collaborative",)
    sources: tuple[FusedSource, ...]
    collaborative: CollaborativePart | None = None


def fuse(arrays: Arrays, fusion: Fusion, vectors: Vectors) -> Vectors:
    """(n, sum of dims) sources side by side -> (n, fused width) float32. The collaborative part, if
    there is one, is predicted for every row."""
    width = sum(source.width for source in fusion.sources)
    if has(arrays, COLLABORATIVE):
        width += check_network(arrays, COLLABORATIVE, width)

    def fuse_block(rows: Vectors) -> Vectors:
        parts = []
        start = 0
        for number, source in enumerate(fusion.sources):
            vectors_of_source = unit(rows[:, start : start + source.dim])
            projected = unit(forward(arrays, f"source{number}", vectors_of_source))
            parts.append(projected * np.float32(sqrt(source.weight)))
            start += source.dim
        sources = np.concatenate(parts, axis=1)
        if not has(arrays, COLLABORATIVE):
            return sources
        return np.concatenate([sources, forward(arrays, COLLABORATIVE, sources)], axis=1)

    return by_blocks(fuse_block, vectors, width)


def check_fusion(arrays: Arrays, fusion: Fusion, fused: int) -> None:
    """Raise ValueError or KeyError unless `fuse` can compute with the arrays and gives vectors of
    width `fused`."""
    if not fusion.sources:
        raise ValueError("a fusion has no sources")
    for number, source in enumerate(fusion.sources):
        if source.dim < 1 or source.weight < 0:
            raise ValueError(f"source {number} has dim {source.dim} and weight {source.weight}")
        width = check_network(arrays, f"source{number}", source.dim)
        if width != source.width:
            raise ValueError(f"source {number} gives width {width}, not {source.width}")
    width = sum(source.width for source in fusion.sources)
    if has(arrays, COLLABORATIVE):
        width += check_network(arrays, COLLABORATIVE, width)
    if width != fused:
        raise ValueError(f"the sources are fused to width {width}, not {fused}")


def source_shares(n: int, weights: Sequence[float] = ()) -> NDArray[np.float64]:
    """(n,) the shares of n sources, which add up to 1; equal ones without weights. Raises
    UsageError unless there are n positive weights."""
    shares = np.array(weights or [1.0] * n, dtype=np.float64)
    if len(shares) != n or not ((shares > 0) & np.isfinite(shares)).all():
        raise UsageError(f"{n} sources of vectors need {n} positive weights, not {list(weights)}")
    normalized: NDArray[np.float64] = shares / shares.sum()
    return normalized


def fuse_sources(sources: Sequence[Vectors], weights: Sequence[float] = ()) -> Fusion:
    """The fusion of sources of (n, dim_i) vectors. Weights (equal if none are given) are scaled to
    add up to 1. Raises UsageError if there are not as many positive weights as sources."""
    shares = source_shares(len(sources), weights).tolist()
    dims = [int(source.shape[1]) for source in sources]
    return Fusion(
        tuple(FusedSource(dim, dim, share) for dim, share in zip(dims, shares, strict=True))
    )


def add_collaborative(
    fusion: Fusion,
    vectors: Vectors,
    collaborative: Vectors,
    events: NDArray[np.int64],
    share: float,
) -> tuple[Fusion, dict[str, NDArray[Any]], Vectors]:
    """Add collaborative vectors to a fusion -> fusion, arrays, and (n, width) fused vectors.

    `vectors` is (n, sum of dims); `collaborative` is (n, collaborative_dim), zero for items without
    one; `events` (n,) is the number of training events of each item, and `share` that of the
    collaborative part in the squared norm. The mixture of observed and predicted vector is not
    scaled to unit norm: it is the expected collaborative vector, and the centroid nearest to an
    expectation is the one nearest on average."""
    sources = tuple(
        FusedSource(source.dim, source.width, source.weight * (1 - share))
        for source in fusion.sources
    )
    inputs = fuse({}, Fusion(sources), vectors)
    observed = unit(collaborative) * np.float32(sqrt(share))
    is_warm = collaborative.any(axis=1)
    trust = np.where(is_warm, events / (events + PRIOR), 0)
    trust = trust.astype(np.float32)[:, None]  # (n, 1)
    # ridge regression with intercept in closed form, on the items that have a collaborative vector
    warm_inputs, warm_targets = inputs[is_warm], observed[is_warm]
    n, width = warm_inputs.shape
    input_mean = warm_inputs.mean(axis=0, dtype=np.float64)
    target_mean = warm_targets.mean(axis=0, dtype=np.float64)
    variance = _products(warm_inputs, warm_inputs) - n * np.outer(input_mean, input_mean)
    covariance = _products(warm_inputs, warm_targets) - n * np.outer(input_mean, target_mean)
    # never 0: there may be fewer rows than columns
    strength = RIDGE * (np.trace(variance) / width or 1.0)
    weight = np.linalg.solve(variance + strength * np.eye(width), covariance)
    bias = target_mean - input_mean @ weight
    del warm_inputs, warm_targets  # they are not held beside the fused vectors
    arrays = {
        f"{COLLABORATIVE}_0_weight": weight.astype(np.float32),
        f"{COLLABORATIVE}_0_bias": bias.astype(np.float32),
    }
    part = CollaborativePart(
        dim=int(collaborative.shape[1]),
        weight=share,
        warm_items=int(is_warm.sum()),
        prior=PRIOR,
        ridge=RIDGE,
    )
    fusion = Fusion(sources, part)
    fused = fuse(arrays, fusion, vectors)
    # shrinkage: the more events an item has, the more its observed vector counts
    fused[:, width:] = trust * observed + (1 - trust) * fused[:, width:]
    return fusion, arrays, fused


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
    """(n, n) symmetric CSR -> (n, dims) float32 whose inner products approximate it best. They are
    eigenvectors times the roots of the largest eigenvalues. Rows without entries are zero; so are
    columns beyond the positive eigenvalues. The largest entry of each column is positive, so the
    same seed gives the same signs."""
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


def fix_signs(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns with the sign that makes their entry of largest magnitude positive."""
    peak = np.abs(columns).argmax(axis=0, keepdims=True)
    largest = np.take_along_axis(columns, peak, axis=0)
    return columns * np.where(largest < 0, -1, 1)


def _products(left: Vectors, right: Vectors) -> NDArray[np.float64]:
    """(n, a), (n, b) float32 -> (a, b) float64, a chunk of rows at a time."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for start in range(0, len(left), CHUNK):
        rows = slice(start, start + CHUNK)
        total += left[rows].astype(np.float64).T @ right[rows].astype(np.float64)
    return total
