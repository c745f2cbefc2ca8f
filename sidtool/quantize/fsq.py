"""Finite scalar quantization: codes are the cells of a fixed grid (Mentzer et al. 2023).

Knows grids and training plans; knows nothing of items. Each level has a few latent dimensions of
its own, cut into equal cells between -1 and 1; an autoencoder learns what to put there."""

from collections.abc import Sequence
from math import log, prod

import numpy as np

from sidtool.data.vectors import VectorSource
from sidtool.quantize.codebook import Codebook
from sidtool.quantize.kmeans import Progress, training_rows
from sidtool.quantize.rqvae import HIDDEN
from sidtool.sid import Vectors

CELLS = 5
"""About how many cells a dimension has: fewer than this lose too much."""


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: bool = False,
    epochs: int = 100,
    progress: Progress | None = None,
) -> Codebook:
    """An autoencoder of (n, dim) float32 embeddings over a grid whose level l has `sizes[l]` cells.

    Raises DataError as residual k-means does.
    """
    import torch

    from sidtool.quantize import autoencoder as auto

    rows = training_rows(vectors, sizes, np.random.default_rng(seed), normalize)
    scale = auto.Scale.of(rows)
    rows = scale.apply(rows)
    cells = [cuts(size) for size in sizes]
    per_dimension = torch.tensor([count for level in cells for count in level], dtype=torch.float32)

    def round_to_grid(latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cell = ((latent + 1) / 2 * per_dimension).floor().clamp_min(0).minimum(per_dimension - 1)
        return latent + ((2 * cell + 1) / per_dimension - 1 - latent).detach(), latent.new_zeros(())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.Autoencoder((rows.shape[1], *HIDDEN, len(per_dimension)), bound=True)
        auto.train(model, rows, round_to_grid, epochs=epochs, seed=seed, progress=progress)
    facts = {
        "seed": seed,
        "normalize": normalize,
        "sample": len(rows),
        "dim": int(rows.shape[1]),
        "bound": "tanh",
    }
    return Codebook(
        "fsq",
        tuple(_grids(cells)),
        model.arrays(scale),
        {**facts, "epochs": epochs, "cells": cells},
    )


def cuts(size: int) -> list[int]:
    """How a level of `size` cells is cut along its dimensions: 256 -> [8, 8, 4]."""
    primes, rest = [], size
    for divisor in range(2, size + 1):
        while rest % divisor == 0:
            primes.append(divisor)
            rest //= divisor
    counts = [1] * max(1, round(log(size) / log(CELLS)))
    for prime in reversed(primes):
        counts[counts.index(min(counts))] *= prime
    return sorted(counts, reverse=True)


def _grids(cells: Sequence[Sequence[int]]) -> list[Vectors]:
    """Per level the centers of its cells, (size, all dimensions), zero in the dimensions of other
    levels."""
    levels, start = [], 0
    width = sum(len(counts) for counts in cells)
    for counts in cells:
        places = np.stack(
            np.unravel_index(np.arange(prod(counts)), counts), axis=1
        )  # (size, own dimensions)
        grid = np.zeros((len(places), width), dtype=np.float32)
        grid[:, start : start + len(counts)] = (2 * places + 1) / np.array(counts) - 1
        levels.append(grid)
        start += len(counts)
    return levels
