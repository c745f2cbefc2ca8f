import warnings
from typing import Annotated

import numpy as np
import pytest
import torch

from sidtool.base.errors import UsageError
from sidtool.tokenizer.codes.assign import assign
from sidtool.tokenizer.codes.measure import level_use, residual_variance
from sidtool.tokenizer.quantize import autoencoder
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.quantize.methods import METHODS, Quantizer, fit
from tests.tokenizer.quantize.material import QUICK, mixture, slow_codes, vectors_of

SLOW = pytest.mark.slow
COSTLY = ("rq-kmeans+", "opq")
"""Methods that share most of their code with others."""
ways = pytest.mark.parametrize(
    ("method", "options"),
    [
        *(pytest.param(name, {}, marks=SLOW if name in COSTLY else ()) for name in METHODS),
        ("rq-kmeans", {"balanced": True}),
        pytest.param("opq", {"normalize": True}, marks=SLOW),
    ],
)


def quick(vectors, sizes, method, options, seed=0):
    return fit(vectors, sizes, method=method, seed=seed, **QUICK.get(method, {}), **options)


def test_equal_vectors_have_principal_axes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codebook = fit(np.ones((5, 4), dtype=np.float32), (1, 1), method="opq")
    np.testing.assert_allclose(codebook.reconstruct(codebook.encode(np.ones((1, 4)))), 1)


@ways
def test_same_seed_same_codebook(method, options):
    vectors = mixture(0, 400, 12)
    reports = []
    options = {**options, "progress": lambda *at: reports.append(at)}
    first, again, other = (quick(vectors, (16, 8), method, options, seed) for seed in (1, 1, 2))
    assert reports[-1][0] == reports[-1][1]
    assert first.params == again.params
    assert all((a == b).all() for a, b in zip(first.levels, again.levels, strict=True))
    assert all((first.encoder[name] == again.encoder[name]).all() for name in first.encoder)
    assert (first.encode(vectors) != other.encode(vectors)).any()


@ways
def test_codes_are_the_nearest_reduce_the_error_and_are_made_unique(method, options):
    vectors = mixture(1, 500, 12)
    vectors[:30] = vectors[0]  # more equal items than the last level has codes
    codebook = quick(vectors, (16, 8, 9), method, options)
    assert (codebook.method, codebook.sizes, codebook.dim) == (method, (16, 8, 9), 12)
    arrays = (*codebook.levels, *codebook.encoder.values())
    assert all(array.dtype == np.float32 for array in arrays)
    assert codebook.transform(vectors).shape == (500, codebook.width)
    codes, margins = slow_codes(vectors, codebook)
    encoded = codebook.encode(vectors)
    clear = margins > 1e-5
    assert clear.mean() > 0.9
    assert (encoded[clear] == codes[clear]).all()
    assert (codebook.encode(vectors[7:8]) == encoded[7]).all()
    assert codebook.reconstruct(encoded).shape == vectors.shape
    left = residual_variance(vectors, codebook, encoded)
    assert left[-1] < left[0] < 1
    ids = [f"{row:03}" for row in range(500)]
    result = assign(encoded, vectors, codebook, ids, "reassign")
    assert len(np.unique(result.codes, axis=0)) == 500


def test_product_quantization_encodes_each_part_separately():
    vectors = mixture(4, 500, 10)
    codebook = fit(vectors, (8, 8), method="pq")
    codes = codebook.encode(vectors)
    for level, part in enumerate((slice(0, 5), slice(5, 10))):
        centers = codebook.levels[level][:, part].astype(np.float64)
        distances = np.square(vectors[:, None, part] - centers).sum(axis=2)
        assert (distances[np.arange(500), codes[:, level]] < distances.min(axis=1) + 1e-4).all()


def test_the_rotation_is_orthogonal_and_helps_with_correlated_dimensions():
    rng = np.random.default_rng(0)
    turned = mixture(5, 1500, 3) @ rng.standard_normal((3, 12))
    vectors = (turned + 0.1 * vectors_of(6, 1500, 12)).astype(np.float32)
    plain, turned = (fit(vectors, (16, 16, 16), method=method) for method in ("pq", "opq"))
    rotation = turned.encoder["in_0_weight"]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(12), atol=1e-5)
    lost = [residual_variance(vectors, book, book.encode(vectors))[-1] for book in (plain, turned)]
    assert lost[1] < 0.8 * lost[0]


def test_training_lowers_the_error_of_the_k_means_initialization():
    vectors = np.tanh(mixture(7, 1500, 12))
    start, tuned = (fit(vectors, (8, 8), method=method) for method in ("rq-kmeans", "rq-kmeans+"))
    lost = [residual_variance(vectors, book, book.encode(vectors))[-1] for book in (start, tuned)]
    assert lost[1] < lost[0]


def test_an_autoencoder_learns_vectors_with_a_common_offset_as_well():
    vectors = mixture(8, 1500, 12)
    lost = []
    for length in (0, 30):
        moved = vectors + length * vectors_of(9, 1, 12)  # another offset in each dimension
        codebook = fit(moved, (16, 16), method="rq-vae", epochs=10)
        lost.append(residual_variance(moved, codebook, codebook.encode(moved))[-1])
    assert lost[1] < 1.1 * lost[0]


def test_one_vector_more_than_whole_batches_costs_nothing():
    vectors = mixture(8, 2 * autoencoder.BATCH + 1, 12)
    lost = []
    for rows in (vectors[:-1], vectors):
        codebook = fit(rows, (32, 32), method="rq-vae", epochs=20)
        lost.append(residual_variance(rows, codebook, codebook.encode(rows))[-1])
    assert lost[1] < 1.1 * lost[0]


@pytest.mark.slow
def test_learned_codes_do_not_collapse():
    vectors = mixture(8, 2000, 16)
    codes = fit(vectors, (32, 32), method="rq-vae", epochs=20).encode(vectors)
    assert all(use.utilization >= 0.9 for use in level_use(codes, (32, 32)))


def test_methods_options_and_sizes_that_make_no_sense_are_refused():
    vectors = vectors_of(0, 50, 4)
    with pytest.raises(UsageError, match="rq-magic"):
        fit(vectors, (4,), method="rq-magic")
    with pytest.raises(UsageError, match="method pq has no option 'balanced'"):
        fit(vectors, (4,), method="pq", balanced=True)
    for option in ({"width": 0}, {"width": -3}, {"epochs": 0}, {"epochs": -1}):
        with pytest.raises(UsageError, match=r"must be at least 1, not (0|-3|-1)$"):
            fit(vectors, (4,), method="rq-vae", **option)
    with pytest.raises(UsageError):
        fit(vectors, (4, 0))
    with pytest.raises(UsageError, match="5 levels cannot share 4 dimensions"):
        fit(vectors, (2,) * 5, method="opq")


def test_values_of_options_are_checked_by_their_types(monkeypatch):
    fraction, whole = Annotated[float, "Spread."], Annotated[int | None, "Width."]

    def fit_wide(vectors, sizes, *, seed, progress, spread: fraction = 2.0, width: whole = None):
        return spread, width

    monkeypatch.setitem(METHODS, "wide", Quantizer(fit_wide))
    made = [fit(None, (4,), method="wide", spread=spread) for spread in (0, 3, 0.5)]
    made += [fit(None, (4,), method="wide", width=width) for width in (None, 3)]
    assert made == [(0, None), (3, None), (0.5, None), (2.0, None), (2.0, 3)]
    with pytest.raises(UsageError, match="option spread of method wide must be a number"):
        fit(None, (4,), method="wide", spread=True)
    with pytest.raises(UsageError, match="option width of method wide must be at least 1, not 0"):
        fit(None, (4,), method="wide", width=0)


@pytest.mark.parametrize("skip", [False, True])
def test_numpy_inference_equals_the_torch_networks(skip):
    vectors = 3 + 2 * mixture(0, 50, 6)
    scale = autoencoder.Scale.of(vectors)
    torch.manual_seed(0)
    model = autoencoder.Autoencoder((6, 9, 6 if skip else 4), skip=skip)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    width = 6 if skip else 4
    params = QuantizerParams(dim=6, skip=skip)
    codebook = Codebook("any", (vectors_of(1, 5, width),), model.arrays(scale), params)
    latent = model.encode(torch.from_numpy(scale.apply(vectors))).detach().numpy()
    back = model.decode(torch.from_numpy(latent)).detach().numpy() * scale.deviation + scale.mean
    # with a skip the space of the centroids is that of the embeddings, not of the scaled ones
    expected = latent * scale.deviation + scale.mean if skip else latent
    np.testing.assert_allclose(codebook.transform(vectors), expected, atol=1e-4)
    whole = Codebook("any", (expected.astype(np.float32),), model.arrays(scale), params)
    reconstructed = whole.reconstruct(np.arange(50, dtype=np.uint16)[:, None])
    np.testing.assert_allclose(reconstructed, back, atol=1e-4)


def test_unused_codes_are_revived():
    levels = [np.array([[0, 0], [99, 99]], dtype=np.float32)]
    quantizer = autoencoder.ResidualQuantizer(levels)
    quantizer(torch.tensor([[0.1, 0.0], [0.2, 0.0]]))
    quantizer.revive(torch.Generator().manual_seed(0))
    assert quantizer.levels[0][0].tolist() == [0, 0]
    assert quantizer.levels[0][1].tolist()[0] in (pytest.approx(0.1), pytest.approx(0.2))


def test_gradients_pass_straight_through_the_quantizer():
    quantizer = autoencoder.ResidualQuantizer([vectors_of(0, 4, 3), vectors_of(1, 4, 3)])
    latent = torch.from_numpy(vectors_of(2, 5, 3)).requires_grad_()
    quantized, _ = quantizer(latent)
    quantized.sum().backward()
    assert (latent.grad == 1).all()
