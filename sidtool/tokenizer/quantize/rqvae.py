"""RQ-VAE: residual codes of a learned latent space (TIGER, LC-Rec, MiniOneRec), and RQ-K-means+
(GPR).

Torch trains the networks; numpy encodes, so codes have one source."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from sidtool.base.progress import Progress
from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.quantize import rqkmeans
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.quantize.kmeans import Normalize, kmeans, nearest, training_rows
from sidtool.tokenizer.quantize.mlp import HIDDEN, Epochs


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: Normalize = False,
    width: Annotated[int, "Width of the latent vectors that are quantized."] = 32,
    epochs: Epochs = 100,
    progress: Progress | None = None,
) -> Codebook:
    """An autoencoder of (n, dim) float32 embeddings with residual codes of its `width`-dim latents.
    After a warm-up without codes the centroids start from k-means; commitment 0.25,
    straight-through gradients, unused codes restart after every epoch. Raises DataError as residual
    k-means does."""
    import torch

    from sidtool.tokenizer.quantize import autoencoder

    rng = np.random.default_rng(seed)
    rows = training_rows(vectors, sizes, rng, normalize)
    scale = autoencoder.Scale.of(rows)
    rows = scale.apply(rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = autoencoder.Autoencoder((rows.shape[1], *HIDDEN, width))
        warm_up = max(1, int(autoencoder.WARM_UP * epochs))
        autoencoder.train(model, rows, None, epochs=warm_up, seed=seed)
        with torch.no_grad():
            residual: Vectors = model.encode(torch.from_numpy(rows)).numpy()
        start: list[Vectors] = []
        for size in sizes:
            centroids, _ = kmeans(residual, size, rng)
            residual = residual - centroids[nearest(residual, centroids)[0]]
            start.append(centroids)
        quantizer = autoencoder.ResidualQuantizer(start)
        autoencoder.train(model, rows, quantizer, epochs=epochs, seed=seed, progress=progress)
    record = {"seed": seed, "sample": len(rows), "epochs": epochs}
    levels = tuple(level.detach().numpy().copy() for level in quantizer.levels)
    params = QuantizerParams(dim=int(rows.shape[1]), normalize=normalize, fit=record)
    return Codebook("rq-vae", levels, model.arrays(scale), params)


def fit_warm(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: Normalize = False,
    epochs: Epochs = 30,
    progress: Progress | None = None,
) -> Codebook:
    """RQ-K-means+: residual k-means, refined as an RQ-VAE whose networks start as the identity.
    Latents have the width of the embeddings. Raises DataError as residual k-means does."""
    import torch

    from sidtool.tokenizer.quantize import autoencoder

    start = rqkmeans.fit(vectors, sizes, seed=seed, normalize=normalize, balanced=False)
    rows = training_rows(vectors, sizes, np.random.default_rng(seed), normalize)
    dim = int(rows.shape[1])
    scale = autoencoder.Scale.of(rows)
    rows = scale.apply(rows)
    first = scale.apply(start.levels[0])
    later = [level / scale.deviation for level in start.levels[1:]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = autoencoder.Autoencoder((dim, HIDDEN[0], dim), skip=True)
        quantizer = autoencoder.ResidualQuantizer([first, *later])
        autoencoder.train(model, rows, quantizer, epochs=epochs, seed=seed, progress=progress)
    levels = [level.detach().numpy() * np.float32(scale.deviation) for level in quantizer.levels]
    levels[0] = levels[0] + scale.mean
    record = {"seed": seed, "sample": len(rows), "epochs": epochs}
    params = QuantizerParams(dim=dim, normalize=normalize, skip=True, fit=record)
    return Codebook("rq-kmeans+", tuple(levels), model.arrays(scale), params)
