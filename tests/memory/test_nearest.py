"""The nearest items of every item, against loops and against the comparison of all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.data.vectors import Vectors
from sidtool.memory import content as module
from sidtool.memory.content import nearest_items
from sidtool.tokenizer.quantize.mlp import unit
from tests.memory.cases import squared_cosines


def mixture(n: int, clusters: int, seed: int) -> Vectors:
    """n vectors of length 1 around so many centers."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(clusters, 16))
    vectors = centers[rng.integers(clusters, size=n)] + 0.3 * rng.normal(size=(n, 16))
    return unit(vectors.astype(np.float32))


@given(
    count=st.integers(2, 50),
    neighbors=st.sampled_from([1, 3, 100]),
    block=st.sampled_from([1, 200, 2**24]),
    seed=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_the_nearest_items_agree_with_loops(
    count: int, neighbors: int, block: int, seed: int
) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_VALUES", block)
        patch.setattr(module, "NEIGHBORS", neighbors)
        result = nearest_items(vectors).toarray()
    expected = np.triu(squared_cosines(vectors.astype(np.float64), neighbors))
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("block", [2**24, 64])
def test_comparing_all_cells_is_comparing_all_pairs(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = mixture(300, 12, seed=1)
    exact = nearest_items(vectors)
    monkeypatch.setattr(module, "MOST_COMPARED", 100)
    monkeypatch.setattr(module, "PROBED", 300)
    monkeypatch.setattr(module, "BLOCK_VALUES", block)
    by_cells = nearest_items(vectors)
    np.testing.assert_allclose(by_cells.toarray(), exact.toarray(), rtol=1e-4, atol=1e-9)


def test_a_few_cells_hold_nearly_all_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = mixture(2000, 100, seed=2)
    monkeypatch.setattr(module, "NEIGHBORS", 10)
    exact = nearest_items(vectors)
    monkeypatch.setattr(module, "MOST_COMPARED", 100)
    by_cells = nearest_items(vectors)
    in_both = by_cells.multiply(exact > 0)
    assert in_both.sum() > 0.95 * exact.sum()
    assert by_cells.nnz < 1.1 * exact.nnz


def test_items_with_one_vector_in_common_are_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.repeat(mixture(3, 3, seed=3), 40, axis=0)  # fewer distinct ones than cells
    monkeypatch.setattr(module, "MOST_COMPARED", 100)
    monkeypatch.setattr(module, "NEIGHBORS", 5)
    similarity = nearest_items(vectors)
    symmetric = (similarity + similarity.T).tocsr()
    assert (np.diff(symmetric.indptr) >= 5).all()
    np.testing.assert_allclose(symmetric.data, 1.0, rtol=1e-5)
