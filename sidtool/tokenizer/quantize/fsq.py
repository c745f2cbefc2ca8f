"""Finite scalar quantization: codes are the cells of a fixed grid (Mentzer et al. 2023).

Each level has a few latent dimensions, cut into equal cells between -1 and 1; an autoencoder learns
the latents."""

from collections.abc import Sequence
from math import log, prod

import numpy as np

from sidtool.base.progress import Progress
from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.quantize.kmeans import Normalize, training_rows
from sidtool.tokenizer.quantize.mlp import HIDDEN, Epochs

CELLS = 5
"""Approximate cells per dimension: fewer lose too much."""


def fit(
    vectors: Vectors | VectorSource,
    sizes: Sequence[int],
    *,
    seed: int = 0,
    normalize: Normalize = False,
    epochs: Epochs = 100,
    progress: Progress | None = None,
) -> Codebook:
    """An autoencoder of (n, dim) float32 embeddings over a grid with `sizes[l]` cells at level l.
    Raises DataError as residual k-means does."""
    import torch

    from sidtool.tokenizer.quantize.autoencoder import Autoencoder, Scale, train

    rows = training_rows(vectors, sizes, np.random.default_rng(seed), normalize)
    dim = int(rows.shape[1])
    scale = Scale.of(rows)
    rows = scale.apply(rows)
    cells = [cells_per_dimension(size) for size in sizes]
    cell_counts = torch.tensor([count for level in cells for count in level], dtype=torch.float32)

    def round_to_grid(latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scaled = (latent + 1) / 2 * cell_counts  # from [-1, 1] to [0, cells]
        cell = scaled.floor().clamp_min(0).minimum(cell_counts - 1)
        center = (2 * cell + 1) / cell_counts - 1
        straight_through = latent + (center - latent).detach()
        return straight_through, latent.new_zeros(())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder((dim, *HIDDEN, len(cell_counts)), bound=True)
        train(model, rows, round_to_grid, epochs=epochs, seed=seed, progress=progress)
    record = {"seed": seed, "sample": len(rows), "epochs": epochs, "cells": cells}
    params = QuantizerParams(dim=dim, normalize=normalize, bound="tanh", fit=record)
    return Codebook("fsq", tuple(_grids(cells)), model.arrays(scale), params)


def cells_per_dimension(size: int) -> list[int]:
    """How a level of `size` cells is cut along its dimensions: 256 -> [8, 8, 4]."""
    primes = []
    rest = size
    for divisor in range(2, size + 1):
        while rest % divisor == 0:
            primes.append(divisor)
            rest //= divisor
    counts = [1] * max(1, round(log(size) / log(CELLS)))
    for prime in reversed(primes):
        counts[counts.index(min(counts))] *= prime
    return sorted(counts, reverse=True)


def _grids(cells: Sequence[Sequence[int]]) -> list[Vectors]:
    """Per level the centers of its cells, (size, all dimensions), zero in other levels'
    dimensions."""
    levels = []
    start = 0
    width = sum(len(counts) for counts in cells)
    for counts in cells:
        coordinates = np.unravel_index(np.arange(prod(counts)), counts)
        cell = np.stack(coordinates, axis=1)  # (size, dimensions of the level)
        grid = np.zeros((len(cell), width), dtype=np.float32)
        grid[:, start : start + len(counts)] = (2 * cell + 1) / np.array(counts) - 1
        levels.append(grid)
        start += len(counts)
    return levels
