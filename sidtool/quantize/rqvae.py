"""RQ-VAE: residual codes of a learned latent space (TIGER, LC-Rec, MiniOneRec), and its relative
RQ-K-means+ (GPR).

Knows levels and training plans; knows nothing of items. Torch trains; numpy encodes, from the first
code on, so there is one source of codes."""

from collections.abc import Sequence

import numpy as np

from sidtool.data.vectors import VectorSource
from sidtool.quantize import rqkmeans
from sidtool.quantize.codebook import Codebook
from sidtool.quantize.contrastive import Contrast, Pairs
from sidtool.quantize.kmeans import Progress, kmeans, nearest, training_rows
from sidtool.quantize.mlp import unit
from sidtool.sid import Vectors

HIDDEN = (512, 256, 128)


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: bool = False,
    width: int = 32,
    epochs: int = 100,
    ema: float | None = None,
    progressive: bool = False,
    contrastive: float = 0.1,
    pairs: Pairs | None = None,
    progress: Progress | None = None,
) -> Codebook:
    """An autoencoder of (n, dim) float32 embeddings whose latent space of `width` dimensions is
    coded residually.

    After a warm-up without codes the centroids start from k-means; commitment 0.25,
    straight-through gradients, unused codes revived after every epoch. `ema` (for example 0.99)
    lets centroids follow means instead of gradients. `progressive` keeps a random number of levels
    of each row in training. With `pairs` of rows that occur together, an InfoNCE loss of weight
    `contrastive` draws their quantized latents together. Raises DataError as residual k-means does.
    """
    import torch

    from sidtool.quantize import autoencoder as auto

    rng = np.random.default_rng(seed)
    rows = training_rows(vectors, sizes, rng, normalize)
    scale = auto.Scale.of(rows)
    rows = scale.apply(rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.Autoencoder((rows.shape[1], *HIDDEN, width))
        warm_up = max(1, int(auto.WARM_UP * epochs))
        auto.train(model, rows, None, epochs=warm_up, seed=seed)
        start = _clustered(auto.latents(model, rows), sizes, rng)
        quantizer = auto.ResidualQuantizer(start, ema, progressive=progressive)
        contrast = None
        if pairs is not None:
            source = VectorSource.of(vectors)
            contrast = Contrast(
                pairs, source, lambda x: scale.apply(unit(x) if normalize else x), contrastive, rng
            )
        auto.train(
            model, rows, quantizer, epochs=epochs, seed=seed, contrast=contrast, progress=progress
        )
    facts = {"seed": seed, "normalize": normalize, "sample": len(rows), "dim": int(rows.shape[1])}
    more = {"epochs": epochs, "ema": ema, "progressive": progressive}
    more["contrastive"] = contrastive if pairs is not None else None
    levels = tuple(level.detach().numpy().copy() for level in quantizer.levels)
    return Codebook("rq-vae", levels, model.arrays(scale), facts | more)


def fit_warm(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: bool = False,
    epochs: int = 30,
    progress: Progress | None = None,
) -> Codebook:
    """RQ-K-means+: residual k-means, refined as an RQ-VAE whose networks only correct what goes in,
    from nothing on.

    Latents have the width of the embeddings. Raises DataError as residual k-means does.
    """
    import torch

    from sidtool.quantize import autoencoder as auto

    start = rqkmeans.fit(vectors, sizes, seed=seed, normalize=normalize, balanced=False)
    rows = training_rows(vectors, sizes, np.random.default_rng(seed), normalize)
    scale = auto.Scale.of(rows)
    rows = scale.apply(rows)
    first = scale.apply(start.levels[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.Autoencoder((rows.shape[1], HIDDEN[0], rows.shape[1]), skip=True)
        quantizer = auto.ResidualQuantizer(
            [first, *(level / scale.deviation for level in start.levels[1:])]
        )
        auto.train(model, rows, quantizer, epochs=epochs, seed=seed, progress=progress)
    levels = [level.detach().numpy() * np.float32(scale.deviation) for level in quantizer.levels]
    levels[0] = levels[0] + scale.mean
    facts = {
        "seed": seed,
        "normalize": normalize,
        "sample": len(rows),
        "dim": int(rows.shape[1]),
        "skip": True,
    }
    return Codebook("rq-kmeans+", tuple(levels), model.arrays(scale), {**facts, "epochs": epochs})


def _clustered(rows: Vectors, sizes: Sequence[int], rng: np.random.Generator) -> list[Vectors]:
    """Residual k-means of latents, level by level."""
    levels, residual = [], rows.copy()
    for size in sizes:
        levels.append(kmeans(residual, size, rng)[0])
        residual -= levels[-1][nearest(residual, levels[-1])[0]]
    return levels
