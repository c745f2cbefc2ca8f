from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.model.extend import EmbeddingStatistics, Init, initial_embeddings
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import SidSpace
from tests.model.cases import DIM, SIZES, make_codebook

SPACE = SidSpace(SIZES)


def existing(width: int = 64, seed: int = 0) -> np.ndarray:
    """Embedding rows like those of language models: a mean that is not zero, and dimensions of
    unequal variance."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.01, 0.1, width) * rng.uniform(0.5, 1.5, (500, 1))
    rows = rng.normal(size=width) * 0.05 + rng.normal(size=(500, width)) * scale
    return rows.astype(np.float32)


@pytest.mark.parametrize("init", get_args(Init))
@given(
    width=st.sampled_from([2, DIM // 2, DIM, 80]),
    seed=st.integers(0, 2**32 - 1),
    constant=st.booleans(),
    sizes=st.sampled_from([SIZES, (1, 4)]),
)
@settings(max_examples=20, deadline=None)
def test_rows_differ_and_are_finite(
    init: Init, width: int, seed: int, constant: bool, sizes: tuple[int, ...]
) -> None:
    """Also where every centroid of a level is the same, as after clusters became empty, where the
    codebook is wider than the model, and where a level has one code."""
    codebook, space = make_codebook(seed % 100, sizes), SidSpace(sizes)
    if constant:
        levels = tuple(np.ones_like(level) for level in codebook.levels)
        codebook = Codebook("rq-kmeans", levels, {}, {})
    rows = initial_embeddings(space, codebook, init, EmbeddingStatistics.of(existing(width)), seed)
    assert (rows.dtype, rows.shape) == (np.float32, (len(space.tokens), width))
    assert np.isfinite(rows).all()
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_codebook_rows_have_the_norms_of_the_existing_rows() -> None:
    sizes = (64, 128)
    old = existing()
    codebook, statistics = make_codebook(sizes=sizes), EmbeddingStatistics.of(old)
    rows = initial_embeddings(SidSpace(sizes), codebook, "codebook", statistics, 0)
    lengths = np.linalg.norm(old, axis=1)
    begin_end_lengths = np.linalg.norm(rows[192:], axis=1)
    assert begin_end_lengths == pytest.approx(lengths.mean(), rel=0.2)
    for level in (rows[:64], rows[64:192]):
        assert np.linalg.norm(level, axis=1).mean() == pytest.approx(lengths.mean(), rel=0.05)
        distances = np.linalg.norm(level - old.mean(axis=0), axis=1)
        expected = np.linalg.norm(old - old.mean(axis=0), axis=1)
        assert distances.mean() == pytest.approx(expected.mean(), rel=0.05)
        assert distances.std() == pytest.approx(expected.std(), rel=0.25)


def test_codebook_rows_have_the_cosines_of_the_centroids() -> None:
    sizes = (40,)
    codebook, statistics = make_codebook(3, sizes), EmbeddingStatistics.of(existing(512))
    rows = initial_embeddings(SidSpace(sizes), codebook, "codebook", statistics, 0)[:40]
    lower = np.tril_indices(40, -1)

    def cosines(points: np.ndarray) -> np.ndarray:
        unit = points - points.mean(axis=0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        return (unit @ unit.T)[lower]

    assert np.corrcoef(cosines(rows), cosines(codebook.levels[0]))[0, 1] > 0.9
    shuffled = np.random.default_rng(0).permutation(codebook.levels[0])
    assert abs(np.corrcoef(cosines(rows), cosines(shuffled))[0, 1]) < 0.3


def test_random_rows_follow_the_existing_rows_per_dimension() -> None:
    old, space = existing(16), SidSpace((4096,))
    rows = initial_embeddings(space, None, "random", EmbeddingStatistics.of(old), 1)
    np.testing.assert_allclose(rows.mean(axis=0), old.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(rows.std(axis=0), old.std(axis=0), rtol=0.06)


def test_mean_rows_stay_near_the_mean() -> None:
    old = existing()
    rows = initial_embeddings(SPACE, None, "mean", EmbeddingStatistics.of(old), 1)
    expected = np.linalg.norm(old - old.mean(axis=0), axis=1).mean()
    assert np.linalg.norm(rows - old.mean(axis=0), axis=1).max() < 0.2 * expected


@pytest.mark.parametrize("init", get_args(Init))
def test_scale_multiplies_the_distance_from_the_mean_row(init: Init) -> None:
    old = EmbeddingStatistics.of(existing())
    whole, half = (
        initial_embeddings(SPACE, make_codebook(), init, old, 3, scale=scale)
        for scale in (1.0, 0.5)
    )
    np.testing.assert_allclose(half - old.mean, (whole - old.mean) / 2, atol=1e-6)
