"""PPMI against values computed by hand, its factors against a dense decomposition."""

from math import log, sqrt

import numpy as np
import pytest
from scipy import sparse

from sidtool.tokenizer.quantize.fusion import factors, ppmi


def test_ppmi_equals_values_computed_by_hand() -> None:
    # a-b twice, a-c once, c-d twice: sums a 3, b 2, c 3, d 2, all 10
    counts = np.array([[0, 2, 1, 0], [2, 0, 0, 0], [1, 0, 0, 2], [0, 0, 2, 0]], dtype=float)
    near, far = log(2 * 10 / (3 * 2)), log(1 * 10 / (3 * 3))
    expected = [[0, near, far, 0], [near, 0, 0, 0], [far, 0, 0, near], [0, 0, near, 0]]
    np.testing.assert_allclose(ppmi(sparse.csr_matrix(counts)).toarray(), expected)


def test_pairs_rarer_than_by_chance_are_left_out() -> None:
    counts = np.zeros((4, 4))
    for left, right, weight in (
        (0, 1, 9),
        (2, 3, 9),
        (0, 2, 1),
    ):  # sums 10, 9, 10, 9: a-c is 1 * 38 / (10 * 10) < 1
        counts[left, right] = counts[right, left] = weight
    assert ppmi(sparse.csr_matrix(counts)).nnz == 4


@pytest.mark.parametrize("dims", [3, 8, 40])  # by Lanczos, by Lanczos, dense
def test_factors_are_those_of_a_dense_decomposition(dims: int) -> None:
    rng = np.random.default_rng(0)
    dense = np.maximum(rng.standard_normal((30, 30)), 0)
    dense = dense + dense.T
    dense[[4, 9]] = dense[:, [4, 9]] = 0
    vectors_of_items = factors(sparse.csr_matrix(dense), dims, seed=1)
    values, vectors = np.linalg.eigh(dense)
    rank = min(dims, int((values > 1e-9).sum()))
    expected = vectors[:, ::-1][:, :rank] * np.sqrt(values[::-1][:rank])
    assert vectors_of_items.shape == (30, dims)
    assert not vectors_of_items[[4, 9]].any()
    assert not vectors_of_items[:, rank:].any()
    np.testing.assert_allclose(
        vectors_of_items[:, :rank] @ vectors_of_items[:, :rank].T, expected @ expected.T, atol=1e-4
    )
    largest = np.abs(vectors_of_items[:, :rank]).argmax(axis=0)
    assert (vectors_of_items[largest, np.arange(rank)] > 0).all()


def test_the_same_seed_gives_the_same_factors() -> None:
    matrix = sparse.random_array((60, 60), density=0.2, rng=np.random.default_rng(2)).tocsr()
    matrix = matrix + matrix.T
    assert (factors(matrix, 5, seed=3) == factors(matrix, 5, seed=3)).all()


def test_without_negative_eigenvalues_factors_are_the_singular_vectors() -> None:
    root = np.abs(np.random.default_rng(4).standard_normal((30, 12)))
    vectors_of_items = factors(sparse.csr_matrix(root @ root.T), 5, seed=0)
    left, values, _ = np.linalg.svd(root @ root.T)
    np.testing.assert_allclose(
        np.abs(vectors_of_items), np.abs(left[:, :5]) * np.sqrt(values[:5]), atol=1e-4
    )


def test_two_items_that_only_co_occur_with_each_other_have_one_direction() -> None:
    vectors_of_items = factors(
        sparse.csr_matrix(np.array([[0, 4.0], [4.0, 0]])), 2, seed=0
    )  # singular values are 4 and 4
    np.testing.assert_allclose(vectors_of_items, [[sqrt(2), 0], [sqrt(2), 0]], atol=1e-6)
