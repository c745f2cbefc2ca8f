"""Encoding against an independent, level-by-level computation."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.quantize.mlp import BLOCK
from tests.tokenizer.quantize.material import codebook_of, slow_codes, vectors_of


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dim=st.integers(1, 12),
    offset=st.sampled_from([0.0, 30.0]),
    normalize=st.booleans(),
    max_stacked=st.sampled_from([0, 12, 12_288]),  # larger codebooks are encoded level by level
)
def test_each_code_is_nearest_given_its_residual(seed, sizes, dim, offset, normalize, max_stacked):
    codebook = codebook_of(seed, sizes, dim, offset=0 if normalize else offset, normalize=normalize)
    vectors = vectors_of(seed + 1, 40, dim) + np.float32(offset)
    codes, margins = slow_codes(vectors, codebook)
    clear = margins > 1e-4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidtool.tokenizer.quantize.codebook.MAX_STACKED", max_stacked)
        assert (codebook.encode(vectors)[clear] == codes[clear]).all()
    assert np.count_nonzero(clear) > 0 or margins.max() < 1e-4


def test_ties_take_the_lowest_code():
    centroids = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], dtype=np.float32)
    codebook = Codebook("rq-kmeans", (centroids,), {})
    assert codebook.encode(centroids).tolist() == [[0], [1], [0], [1]]


@pytest.mark.parametrize("dim", [16, 100, 384])
def test_codes_do_not_depend_on_the_other_vectors(dim):
    codebook = codebook_of(0, (64, 50, 33), dim)
    vectors = vectors_of(1, 2 * BLOCK + 7, dim)
    vectors[5:25] = vectors[5]  # equal rows at different places
    whole = codebook.encode(vectors)
    order = np.random.default_rng(2).permutation(len(vectors))
    assert (codebook.encode(vectors[order]) == whole[order]).all()
    for row in (0, 7, BLOCK - 1, BLOCK, len(vectors) - 1):
        assert (codebook.encode(vectors[row : row + 1]) == whole[row]).all()


def test_decode_sums_centroids_of_a_whole_sid_or_a_prefix():
    codebook = codebook_of(3, (4, 3, 2), 5)
    codes = np.array([[1, 2, 0], [3, 0, 1]], dtype=np.uint16)
    expected = codebook.levels[0][[1, 3]] + codebook.levels[1][[2, 0]] + codebook.levels[2][[0, 1]]
    np.testing.assert_allclose(codebook.decode(codes), expected, rtol=1e-6)
    np.testing.assert_array_equal(codebook.decode(codes[:, :1]), codebook.levels[0][[1, 3]])


def test_normalized_codebooks_ignore_vector_length():
    codebook = codebook_of(3, (8, 8), 6, normalize=True)
    vectors = vectors_of(4, 50, 6)
    lengths = np.float32(2) ** np.arange(50, dtype=np.float32)[:, None]  # which lose no digit
    assert (codebook.encode(vectors * lengths) == codebook.encode(vectors)).all()
    assert codebook.encode(np.zeros((1, 6), dtype=np.float32)).shape == (1, 2)


def test_no_vectors_give_no_codes():
    assert codebook_of(0, (4, 3), 5).encode(np.empty((0, 5), dtype=np.float32)).shape == (0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    vectors = vectors_of(0, BLOCK + 9, 5)
    vectors[BLOCK + 6, 2] = bad
    with pytest.raises(DataError, match=rf"1 of {BLOCK + 9} vectors .* row {BLOCK + 6}\n"):
        codebook_of(0, (4,), 5).encode(vectors)


def test_vectors_of_half_precision_are_converted_in_blocks():
    codebook = codebook_of(0, (4,), 64)
    vectors = np.tile(vectors_of(0, BLOCK, 64).astype(np.float16), (40, 1))
    expected = codebook.encode(vectors[:BLOCK])
    tracemalloc.start()
    codes = codebook.encode(vectors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < vectors.nbytes / 2
    assert (codes == np.tile(expected, (40, 1))).all()


def test_vectors_of_another_width_are_refused():
    with pytest.raises(DataError, match=r"\(9, 4\)"):
        codebook_of(0, (4,), 5).encode(vectors_of(0, 9, 4))


@given(seed=st.integers(0, 2**32 - 1), first=st.integers(1, 2), unit_residuals=st.booleans())
def test_codes_below_the_first_one_are_never_given(seed, first, unit_residuals):
    plain = codebook_of(seed, (5, 4), 3)
    plain = replace(plain, params=QuantizerParams(normalize_residuals=unit_residuals))
    before = np.zeros((first, 3), dtype=np.float32)
    padded = tuple(np.concatenate([before, level]) for level in plain.levels)
    shifted = replace(plain, levels=padded, params=replace(plain.params, first_code=first))
    shifted.check()
    vectors = vectors_of(seed + 1, 30, 3) * np.float32(0.1)  # zero is often the nearest
    _, margins = slow_codes(vectors, plain)
    clear = margins > 1e-4
    if unit_residuals:
        clear[:] = True
    assert (shifted.encode(vectors)[clear] == plain.encode(vectors)[clear] + first).all()


def test_residuals_are_scaled_to_length_1_before_each_level():
    params = QuantizerParams(normalize_residuals=True)
    codebook = replace(codebook_of(2, (6, 5, 4), 3), params=params)
    vectors = vectors_of(3, BLOCK + 5, 3)
    codes = codebook.encode(vectors)
    for vector, sid in zip(vectors[:50].astype(np.float64), codes[:50].tolist(), strict=True):
        residual = vector
        for level, code in zip(codebook.levels, sid, strict=True):
            residual = residual / np.linalg.norm(residual)
            distances = np.square(residual - level).sum(axis=1)
            assert distances[code] <= distances.min() + 1e-5
            residual = residual - level[code]
    assert (codebook.encode(vectors[-1:]) == codes[-1]).all()  # not a matter of the other rows


def test_vectors_are_scaled_and_shifted_before_their_length():
    plain = codebook_of(1, (8, 8), 4, normalize=True)
    scale = np.array([2, 0.5, 1, 3], dtype=np.float32)
    shift = np.array([0, 1, -1, 0.5], dtype=np.float32)
    scaled = replace(plain, encoder={"scale": scale, "shift": shift})
    scaled.check()
    assert scaled.min_format == 2
    assert plain.min_format == 1
    vectors = vectors_of(2, 60, 4)
    assert (scaled.encode(vectors) == plain.encode(vectors * scale + shift)).all()


DECODER = np.ones((4, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {"scale": np.ones(4, dtype=np.float32)}}, "shift"),
        ({"encoder": dict.fromkeys(("scale", "shift"), np.ones(3, dtype=np.float32))}, "shape"),
        ({"encoder": dict.fromkeys(("scale", "shift"), np.ones(4))}, "not finite float32"),
        ({"encoder": {"unused": np.full(4, np.nan, dtype=np.float32)}}, "unused is not finite"),
        ({"params": QuantizerParams(dim=0)}, "dim is 0, not a whole number from 1"),
        ({"encoder": {"out_0_weight": DECODER, "out_0_bias": DECODER[0]}}, "'out' gives 3, dim is"),
        ({"params": QuantizerParams(first_code=8)}, "first_code is 8"),
        ({"params": QuantizerParams(first_code=-1)}, "first_code is -1"),
    ],
)
def test_a_scale_or_first_code_that_does_not_fit_is_refused(changes, message):
    with pytest.raises((ValueError, KeyError), match=message):
        replace(codebook_of(1, (8, 9), 4), **changes).check()


def test_latents_of_bundles_by_fsq_are_bounded():
    vectors = vectors_of(0, 20, 4)
    weight = vectors_of(1, 4, 3)
    network = {"in_0_weight": weight, "in_0_bias": np.zeros(3, dtype=np.float32)}
    params = QuantizerParams(dim=4, bound="tanh")
    codebook = Codebook("fsq", (vectors_of(2, 5, 3),), network, params)
    np.testing.assert_allclose(codebook.transform(vectors), np.tanh(vectors @ weight), rtol=1e-5)
