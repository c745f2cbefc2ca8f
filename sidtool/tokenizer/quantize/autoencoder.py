"""Autoencoders with a quantizer between encoder and decoder, trained in torch, stored as numpy
arrays.

Imported only to fit such a codebook: encoding needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sidtool.base.progress import Progress
from sidtool.data import Vectors

COMMITMENT = 0.25
BATCH = 512
LEARNING_RATE = 1e-3
WARM_UP = 0.1
"""Share of the epochs without the quantizer, so that there are clusters to start from."""


@dataclass(frozen=True)
class Scale:
    """A shift to mean 0 in each dimension, and a factor for all of them: the standard deviation of
    all values after the shift."""

    mean: NDArray[np.float32]
    deviation: float

    @classmethod
    def of(cls, rows: Vectors) -> "Scale":
        """The scale of (n, dim) rows."""
        mean = rows.mean(axis=0)
        return cls(mean, float((rows - mean).std()) or 1.0)

    def apply(self, rows: Vectors) -> Vectors:
        """Scaled rows."""
        return ((rows - self.mean) / self.deviation).astype(np.float32)


class Autoencoder(nn.Module):
    """Two perceptrons; with `skip` each adds its input to its output and starts as the identity."""

    def __init__(self, widths: Sequence[int], *, skip: bool = False) -> None:
        super().__init__()
        self.encoder = perceptron(widths)
        self.decoder = perceptron(widths[::-1])
        self.skip = skip
        if skip:
            for last in (self.encoder[-1], self.decoder[-1]):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def encode(self, rows: Tensor) -> Tensor:
        """(batch, dim) -> (batch, width)."""
        latent = self.encoder(rows)
        return latent + rows if self.skip else latent

    def decode(self, latent: Tensor) -> Tensor:
        """(batch, width) -> (batch, dim)."""
        rows = self.decoder(latent)
        return rows + latent if self.skip else rows

    def arrays(self, scale: Scale) -> dict[str, NDArray[np.float32]]:
        """Both networks as `mlp.forward` reads them, for embeddings that are not scaled."""
        zero = np.float32(0)
        if self.skip:
            # centroids lie in the space of the unscaled embeddings, and corrections have no mean
            encoder = _layers("in", self.encoder, scale, factor=scale.deviation, shift=zero)
            decoder = _layers("out", self.decoder, scale, factor=scale.deviation, shift=zero)
        else:
            encoder = _layers("in", self.encoder, scale, factor=1.0, shift=zero)
            decoder = _layers("out", self.decoder, None, factor=scale.deviation, shift=scale.mean)
        return encoder | decoder


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given widths with max(x, 0) between them."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _layers(
    name: str,
    network: nn.Sequential,
    scale: Scale | None,
    factor: float,
    shift: NDArray[np.float32] | np.float32,
) -> dict[str, NDArray[np.float32]]:
    """Weights as arrays. The first layer applies `scale` to the input, the last one `factor` and
    `shift` to the output."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().double().numpy().T.copy() for layer in linear]  # (from, to)
    biases = [layer.bias.detach().double().numpy().copy() for layer in linear]
    if scale is not None:
        # ((x - mean) / deviation) @ W + b, as one layer
        weights[0] /= scale.deviation
        biases[0] -= scale.mean @ weights[0]
    weights[-1] *= factor
    biases[-1] = biases[-1] * factor + shift
    arrays = {}
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        arrays[f"{name}_{layer}_weight"] = weight.astype(np.float32)
        arrays[f"{name}_{layer}_bias"] = bias.astype(np.float32)
    return arrays


class ResidualQuantizer(nn.Module):
    """Nearest centroids of residuals; the centroids learn by gradient."""

    def __init__(self, levels: Sequence[Vectors]) -> None:
        super().__init__()
        self.levels = nn.ParameterList(nn.Parameter(torch.from_numpy(x.copy())) for x in levels)
        self._used = [torch.zeros(len(level), dtype=torch.bool) for level in levels]
        self._residuals: list[Tensor] = [torch.empty(0)] * len(levels)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Straight-through quantized latents, and codebook and commitment losses of all levels."""
        residual = latent
        loss = latent.new_zeros(())
        quantized = torch.zeros_like(latent)
        for level, centroids in enumerate(self.levels):
            with torch.no_grad():
                distances = centroids.square().sum(dim=1) - 2 * residual @ centroids.T
                codes = distances.argmin(dim=1)  # |residual|^2 is equal for all codes
                self._used[level][codes] = True
                self._residuals[level] = residual.detach()
            nearest = centroids[codes]
            loss = loss + COMMITMENT * _error(residual, nearest.detach())
            loss = loss + _error(nearest, residual.detach())
            residual = residual - nearest.detach()
            quantized = quantized + nearest
        return latent + (quantized - latent).detach(), loss

    @torch.no_grad()
    def revive(self, generator: torch.Generator) -> None:
        """Restart codes that an epoch left unused at residuals of its last batch."""
        for level, used in enumerate(self._used):
            unused = torch.nonzero(~used)[:, 0]
            residuals = self._residuals[level]
            rows = torch.randint(len(residuals), (len(unused),), generator=generator)
            self.levels[level][unused] = residuals[rows]
            used.fill_(False)


def _error(left: Tensor, right: Tensor) -> Tensor:
    """Squared distance, averaged over rows."""
    return (left - right).square().sum(dim=1).mean()


def train(
    model: Autoencoder,
    rows: Vectors,
    quantizer: ResidualQuantizer | None,
    *,
    epochs: int,
    seed: int,
    progress: Progress | None = None,
) -> None:
    """Train in place on scaled (n, dim) rows; without a quantizer latents are not quantized."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.from_numpy(rows)
    weights = [*model.parameters()]
    if quantizer is not None:
        weights += quantizer.parameters()
    n_batches = -(-len(data) // BATCH)  # at least 1
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * n_batches)
    for epoch in range(epochs):
        # of equal size: a step on a few rows is as large, and restarts codes at these rows alone
        for batch in torch.randperm(len(data), generator=generator).tensor_split(n_batches):
            latent = model.encode(data[batch])
            quantized, loss = (latent, 0.0) if quantizer is None else quantizer(latent)
            loss = loss + _error(model.decode(quantized), data[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if quantizer is not None and epoch + 1 < epochs:
            quantizer.revive(generator)
        if progress:
            progress(epoch + 1, epochs)
