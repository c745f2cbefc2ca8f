"""Balanced k-means: even to within one, near the optimum, and even for later items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.data.vectors import VectorSource
from sidtool.tokenizer.quantize import fit, kmeans, rqkmeans
from tests.tokenizer.quantize.material import mixture, vectors_of


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 120),
    size=st.integers(1, 12),
    tied=st.booleans(),
)
def test_codes_are_even_to_within_one(seed, n, size, tied):
    priced = np.square(vectors_of(seed, n, size))
    priced = np.round(priced) if tied else priced
    counts = np.bincount(rqkmeans.even_codes(priced), minlength=size)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1


def test_assignment_is_near_the_optimum():
    optimize = pytest.importorskip("scipy.optimize")
    vectors = mixture(0, 600, 8)
    centroids, _ = kmeans.kmeans(vectors, 12, np.random.default_rng(0))
    distances = rqkmeans.squared_distances(vectors, centroids)
    rows, seats = optimize.linear_sum_assignment(np.repeat(distances, 50, axis=1))
    best = distances[rows, seats // 50].sum()
    prices = rqkmeans.even_prices(distances, np.zeros(12, dtype=np.float32), 60, 1.0)
    ours = distances[rows, rqkmeans.even_codes(distances + prices)].sum()
    assert best * (1 - 1e-5) <= ours <= best * 1.01


def test_catalog_and_later_items_spread_evenly():
    vectors = mixture(1, 6000, 8)
    known, new = vectors[:4000], vectors[4000:]
    spread = {}
    for even in (False, True):
        codebook = fit(known, (16, 8), balanced=even)
        for name, rows in (("known", known), ("new", new)):
            counts = np.array(
                [
                    np.bincount(column, minlength=k)
                    for column, k in zip(codebook.encode(rows).T, (16, 8), strict=True)
                ],
                dtype=object,
            )
            spread[name, even] = [float(np.std(c / len(rows) * len(c))) for c in counts]
    assert max(spread["known", True]) < 0.1
    assert max(spread["new", True]) < 0.25
    assert min(spread["known", False]) > 0.2


@pytest.mark.parametrize(("rows", "expected"), [(63, True), (64, False)])
def test_few_vectors_per_code_are_balanced_by_default(rows, expected):
    vectors = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    default, explicit = fit(vectors, (8, 4)), fit(vectors, (8, 4), balanced=expected)
    assert default.params.fit["balanced"] is expected
    assert all(
        np.array_equal(one, other)
        for one, other in zip(default.levels, explicit.levels, strict=True)
    )
    assert fit(vectors, (8, 4), balanced=not expected).params.fit["balanced"] is not expected


def test_a_small_budget_does_not_change_the_default():
    vectors = np.random.default_rng(2).normal(size=(400, 4)).astype(np.float32)
    codebook = fit(
        VectorSource(vectors, 200), (32, 2)
    )  # 200 rows at once are few for 32 codes, 400 are not
    assert codebook.params.fit["balanced"] is False
