"""Shares, projections and predictions of fused vectors against scikit-learn and their definitions;
PPMI against values computed by hand, its factors against a dense decomposition."""

from math import log, sqrt

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from sidtool.base.errors import UsageError
from sidtool.tokenizer.quantize.fusion import (
    FusedSource,
    Fusion,
    FusionOptions,
    add_collaborative,
    check_fusion,
    factors,
    fuse,
    fuse_sources,
    ppmi,
)
from sidtool.tokenizer.quantize.methods import METHODS, fit
from sidtool.tokenizer.quantize.mlp import unit
from tests.tokenizer.quantize.material import QUICK, mixture, vectors_of


def test_weights_are_shares_of_the_squared_norm() -> None:
    sources = [5 * vectors_of(0, 20, 6), vectors_of(1, 20, 3)]
    fused = fuse({}, fuse_sources(sources, (3, 1)), np.concatenate(sources, axis=1))
    np.testing.assert_allclose(np.square(fused[:, :6]).sum(axis=1), 0.75, rtol=1e-5)
    np.testing.assert_allclose(np.square(fused[:, 6:]).sum(axis=1), 0.25, rtol=1e-5)
    np.testing.assert_allclose(unit(fused[:, :6]), unit(sources[0]), atol=1e-6)


def test_a_stored_projection_of_a_source_is_applied() -> None:
    vectors, weight = mixture(0, 200, 10), vectors_of(1, 10, 4)
    arrays = {"source0_0_weight": weight, "source0_0_bias": np.zeros(4, dtype=np.float32)}
    fused = fuse(arrays, Fusion((FusedSource(10, 4, 1.0),)), vectors)
    np.testing.assert_allclose(fused, unit(unit(vectors) @ weight), rtol=1e-4, atol=1e-6)


def collaborative_of(vectors: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Collaborative vectors of the items with events, partly predictable from the vectors."""
    correlated = vectors[:, :3] + 0.3 * vectors_of(9, len(vectors), 3)
    return (correlated * (events > 0)[:, None]).astype(np.float32)


def test_a_stored_prediction_of_several_layers_is_applied() -> None:
    fusion = fuse_sources([np.zeros((1, 2), dtype=np.float32)])
    arrays = {
        "collaborative_0_weight": np.array([[1, 0, -1], [0, 1, 0]], dtype=np.float32),
        "collaborative_0_bias": np.zeros(3, dtype=np.float32),
        "collaborative_1_weight": np.array([[2], [3], [5]], dtype=np.float32),
        "collaborative_1_bias": np.array([7], dtype=np.float32),
    }
    check_fusion(arrays, fusion, 3)
    fused = fuse(arrays, fusion, np.array([[0, 4], [-9, 0]], dtype=np.float32))
    assert fused.tolist() == [[0, 1, 10], [-1, 0, 12]]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ((), "a fusion has no sources"),
        ((FusedSource(0, 3, 1.0),), "source 0 has dim 0 and weight 1.0"),
        ((FusedSource(3, 3, -1.0),), "source 0 has dim 3 and weight -1.0"),
        ((FusedSource(3, 2, 1.0),), "source 0 gives width 3, not 2"),
        ((FusedSource(2, 2, 0.5), FusedSource(2, 2, 0.5)), "fused to width 4, not 3"),
    ],
)
def test_a_fusion_that_cannot_be_computed_is_refused(
    sources: tuple[FusedSource, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_fusion({}, Fusion(sources), 3)


def test_an_item_gets_a_mixture_of_its_factors_and_the_predicted_ones() -> None:
    vectors, events = mixture(1, 120, 8), np.arange(120) % 5
    collaborative = collaborative_of(vectors, events)
    plain = fuse_sources([vectors])
    fusion, arrays, fused = add_collaborative(plain, vectors, collaborative, events, 0.4)
    content = unit(vectors) * np.sqrt(0.6)
    latent = unit(collaborative) * np.sqrt(0.4)
    np.testing.assert_allclose(fused[:, :8], content, atol=1e-6)
    warm = events > 0
    strength = np.square(content[warm] - content[warm].mean(axis=0)).sum() / 8
    predicted = Ridge(strength).fit(content[warm], latent[warm]).predict(content)
    trust = (events / (events + 2))[:, None]
    np.testing.assert_allclose(fused[:, 8:], trust * latent + (1 - trust) * predicted, atol=1e-4)
    np.testing.assert_allclose(fuse(arrays, fusion, vectors)[:, 8:], predicted, atol=1e-4)
    assert [source.weight for source in fusion.sources] == [0.6]
    assert fusion.collaborative.warm_items == warm.sum()
    assert Fusion.from_json(fusion.to_json()) == fusion


@pytest.mark.parametrize("method", METHODS)
def test_a_codebook_with_a_fusion_is_the_codebook_of_fused_vectors(method: str) -> None:
    sources = [mixture(2, 300, 9), mixture(3, 300, 4)]
    joined, events = np.concatenate(sources, axis=1), np.arange(300) % 4
    collaborative = collaborative_of(joined, events)
    plain = fuse_sources(sources, (2, 1))
    fusion, arrays, fused = add_collaborative(plain, joined, collaborative, events, 0.5)
    inner = fit(fused, (16, 8), method=method, normalize=method == "pq", **QUICK.get(method, {}))
    outer = inner.with_fusion(fusion, arrays)
    assert (outer.dims, outer.dim) == ((9, 4), 13)
    assert (outer.width, outer.sizes) == (inner.width, inner.sizes)
    again = fuse(arrays, fusion, joined)
    assert (outer.encode(joined) == inner.encode(again)).all()
    assert (outer.encode(joined[5:6]) == outer.encode(joined)[5]).all()  # whatever stands beside it
    assert (outer.transform(joined) == inner.transform(again)).all()
    codes = outer.encode(joined)
    assert (outer.reconstruct(codes) == inner.reconstruct(codes)).all()
    assert outer.reconstruct(codes).shape == outer.prepare(joined).shape


@pytest.mark.parametrize(
    "settings",
    [{"collaborative_weight": 1.0}, {"collaborative_weight": 10**400}, {"collaborative_dim": 2.5}],
)
def test_options_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="collaborative_"):
        FusionOptions(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [(1,), (1, 0), (1, -2), (1, float("nan"))])
def test_weights_that_make_no_sense_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="2 sources of vectors"):
        fuse_sources([vectors_of(0, 3, 2), vectors_of(1, 3, 2)], weights)


def test_ppmi_equals_values_computed_by_hand() -> None:
    # a-b twice, a-c once, c-d twice: sums a 3, b 2, c 3, d 2, all 10
    counts = np.array([[0, 2, 1, 0], [2, 0, 0, 0], [1, 0, 0, 2], [0, 0, 2, 0]], dtype=float)
    near, far = log(2 * 10 / (3 * 2)), log(1 * 10 / (3 * 3))
    expected = [[0, near, far, 0], [near, 0, 0, 0], [far, 0, 0, near], [0, 0, near, 0]]
    np.testing.assert_allclose(ppmi(sparse.csr_matrix(counts)).toarray(), expected)


def test_pairs_rarer_than_by_chance_are_left_out() -> None:
    counts = np.zeros((4, 4))
    # sums 10, 9, 10, 9: a-c is 1 * 38 / (10 * 10) < 1
    for left, right, weight in ((0, 1, 9), (2, 3, 9), (0, 2, 1)):
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
    products = vectors_of_items[:, :rank] @ vectors_of_items[:, :rank].T
    np.testing.assert_allclose(products, expected @ expected.T, atol=1e-4)
    largest = np.abs(vectors_of_items[:, :rank]).argmax(axis=0)
    assert (vectors_of_items[largest, np.arange(rank)] > 0).all()


def test_two_items_that_only_co_occur_with_each_other_have_one_direction() -> None:
    # singular values are 4 and 4
    vectors_of_items = factors(sparse.csr_matrix(np.array([[0, 4.0], [4.0, 0]])), 2, seed=0)
    np.testing.assert_allclose(vectors_of_items, [[sqrt(2), 0], [sqrt(2), 0]], atol=1e-6)
