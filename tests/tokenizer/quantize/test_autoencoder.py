"""Inference with numpy equals the networks trained with torch."""

import numpy as np
import pytest
import torch

from sidtool.tokenizer.quantize import autoencoder
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from tests.tokenizer.quantize.material import mixture, vectors_of


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
    latent = autoencoder.latents(model, scale.apply(vectors))
    back = model.decode(torch.from_numpy(latent)).detach().numpy() * scale.deviation + scale.mean
    # with a skip the space of the centroids is that of the embeddings, not of the scaled ones
    expected = latent * scale.deviation + scale.mean if skip else latent
    np.testing.assert_allclose(codebook.transform(vectors), expected, atol=1e-4)
    whole = Codebook("any", (expected.astype(np.float32),), model.arrays(scale), params)
    np.testing.assert_allclose(
        whole.reconstruct(np.arange(50, dtype=np.uint16)[:, None]), back, atol=1e-4
    )


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
