"""Autoencoders with a quantizer in the middle, trained in torch and handed over as numpy arrays.

Knows networks and gradients; knows nothing of items. Only the methods that train import this:
encoding needs no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sidtool.quantize.contrastive import Contrast, info_nce
from sidtool.quantize.kmeans import Progress
from sidtool.sid import Vectors

COMMITMENT = 0.25
BATCH = 512
RATE = 1e-3
WARM_UP = 0.1
"""Share of the epochs that pass without the quantizer, so that there is something to cluster."""

Quantize = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(batch, width) latents -> quantized latents that let gradients through, and a loss."""


@dataclass(frozen=True)
class Scale:
    """What brings embeddings to mean 0 and standard deviation 1, over all dimensions alike."""

    mean: NDArray[np.float32]
    deviation: float

    @classmethod
    def of(cls, rows: Vectors) -> "Scale":
        """The scale of (n, dim) rows."""
        return cls(rows.mean(axis=0), float(rows.std()) or 1.0)

    def apply(self, rows: Vectors) -> Vectors:
        """Scaled rows."""
        return ((rows - self.mean) / self.deviation).astype(np.float32)


class Autoencoder(nn.Module):
    """Two perceptrons; with `skip` each only corrects what goes in, and starts by correcting
    nothing."""

    def __init__(self, widths: Sequence[int], *, skip: bool = False, bound: bool = False) -> None:
        super().__init__()
        self.encoder, self.decoder = perceptron(widths), perceptron(widths[::-1])
        self.skip, self.bound = skip, bound
        for last in (self.encoder[-1], self.decoder[-1]) if skip else ():
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def encode(self, rows: Tensor) -> Tensor:
        """(batch, dim) -> (batch, width)."""
        latent = self.encoder(rows) + rows if self.skip else self.encoder(rows)
        return torch.tanh(latent) if self.bound else latent

    def decode(self, latent: Tensor) -> Tensor:
        """(batch, width) -> (batch, dim)."""
        return self.decoder(latent) + latent if self.skip else self.decoder(latent)

    def arrays(self, scale: Scale) -> dict[str, NDArray[np.float32]]:
        """Both networks as `network.forward` reads them, for embeddings that are not scaled."""
        nothing = np.float32(0)
        if (
            self.skip
        ):  # the space of the centroids is the embeddings' own, and a correction has no mean
            inward = _layers("in", self.encoder, scale, scale.deviation, nothing)
            return inward | _layers("out", self.decoder, scale, scale.deviation, nothing)
        inward = _layers("in", self.encoder, scale, 1.0, nothing)
        return inward | _layers("out", self.decoder, None, scale.deviation, scale.mean)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of those widths with max(x, 0) between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _layers(
    direction: str,
    network: nn.Sequential,
    scale: Scale | None,
    factor: float,
    shift: NDArray[np.float32] | np.float32,
) -> dict[str, NDArray[np.float32]]:
    """Weights as arrays; the first layer scales what goes in, the last one what comes out
    (`factor`, `shift`)."""
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().double().numpy().T.copy() for layer in linear]  # (from, to)
    biases = [layer.bias.detach().double().numpy().copy() for layer in linear]
    if scale is not None:
        weights[0] /= scale.deviation
        biases[0] -= scale.mean @ weights[0]
    weights[-1] *= factor
    biases[-1] = biases[-1] * factor + shift
    arrays = {}
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        arrays[f"{direction}_{layer}_weight"] = weight.astype(np.float32)
        arrays[f"{direction}_{layer}_bias"] = bias.astype(np.float32)
    return arrays


class ResidualQuantizer(nn.Module):
    """Nearest centroids of residuals, learned by gradient or, with `ema`, as decayed means of what
    they are given.

    With `progressive` a row keeps its first r levels in training, r drawn anew each time (PLUM):
    prefixes mean more."""

    def __init__(
        self, levels: Sequence[Vectors], ema: float | None = None, *, progressive: bool = False
    ) -> None:
        super().__init__()
        self.progressive = progressive
        self.levels = nn.ParameterList(
            nn.Parameter(torch.from_numpy(x.copy()), ema is None) for x in levels
        )
        self.ema = ema
        self.counts = [torch.ones(len(level)) for level in levels]
        self.used = [torch.zeros(len(level), dtype=torch.bool) for level in levels]
        self.residuals: list[Tensor] = [torch.empty(0)] * len(levels)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Straight-through quantized latents, and the codebook and commitment losses of all levels."""
        residual, loss, quantized = latent, latent.new_zeros(()), torch.zeros_like(latent)
        kept = self._kept(latent)
        for level, centroids in enumerate(self.levels):
            with torch.no_grad():
                codes = (centroids.square().sum(dim=1) - 2 * residual @ centroids.T).argmin(dim=1)
                self.used[level][codes] = True
                self.residuals[level] = residual.detach()
            chosen = centroids[codes]
            loss = loss + COMMITMENT * _error(residual, chosen.detach())
            if self.ema is None:
                loss = loss + _error(chosen, residual.detach())
            elif self.training:
                self._follow(level, codes, residual.detach())
            residual = residual - chosen.detach()
            quantized = quantized + chosen * (kept > level)
        return latent + (quantized - latent).detach(), loss

    def _kept(self, latent: Tensor) -> Tensor:
        """(batch, 1): how many levels each row keeps."""
        levels = len(self.levels)
        if self.progressive and self.training:
            return torch.randint(1, levels + 1, (len(latent), 1))
        return torch.full((len(latent), 1), levels)

    @torch.no_grad()
    def _follow(self, level: int, codes: Tensor, residual: Tensor) -> None:
        assert self.ema is not None
        centroids, counts = self.levels[level], self.counts[level]
        fresh = torch.zeros_like(counts).index_add_(0, codes, torch.ones(len(codes)))
        sums = torch.zeros_like(centroids).index_add_(0, codes, residual)
        updated = self.ema * counts + (1 - self.ema) * fresh
        moved = self.ema * counts[:, None] * centroids + (1 - self.ema) * sums
        centroids.copy_(moved / updated[:, None].clamp_min(1e-6))
        self.counts[level] = updated

    @torch.no_grad()
    def revive(self, generator: torch.Generator) -> None:
        """Codes that an epoch left unused start anew at residuals of its last batch."""
        for level, used in enumerate(self.used):
            dead = torch.nonzero(~used)[:, 0]
            rows = torch.randint(len(self.residuals[level]), (len(dead),), generator=generator)
            self.levels[level][dead] = self.residuals[level][rows]
            self.counts[level][dead] = 1
            used.fill_(False)


def _error(left: Tensor, right: Tensor) -> Tensor:
    """Squared distance, averaged over rows."""
    return (left - right).square().sum(dim=1).mean()


def train(
    model: Autoencoder,
    rows: Vectors,
    quantizer: nn.Module | Quantize | None,
    *,
    epochs: int,
    seed: int,
    contrast: Contrast | None = None,
    progress: Progress | None = None,
) -> None:
    """Train in place on scaled (n, dim) rows; without a quantizer the latents pass as they are.

    `contrast` gives scaled rows of pairs, whose quantized latents are drawn together beside.
    """
    generator = torch.Generator().manual_seed(seed)
    data = torch.from_numpy(rows)
    learned = [*model.parameters()]
    if isinstance(quantizer, nn.Module):
        learned += [weight for weight in quantizer.parameters() if weight.requires_grad]
    steps = epochs * -(-len(data) // BATCH)
    optimizer = torch.optim.AdamW(learned, lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for epoch in range(epochs):
        for batch in torch.randperm(len(data), generator=generator).split(BATCH):
            drawn_together = (
                _contrast(model, quantizer, contrast) if contrast and quantizer else 0.0
            )
            latent = model.encode(data[batch])
            quantized, loss = (latent, 0.0) if quantizer is None else quantizer(latent)
            loss = loss + drawn_together
            loss = loss + _error(model.decode(quantized), data[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if isinstance(quantizer, ResidualQuantizer) and epoch + 1 < epochs:
            quantizer.revive(generator)
        if progress:
            progress(epoch + 1, epochs)


def _contrast(model: Autoencoder, quantizer: nn.Module | Quantize, contrast: Contrast) -> Tensor:
    items, rows = contrast.draw()
    quantized, _ = quantizer(model.encode(torch.from_numpy(rows)))
    return contrast.weight * info_nce(quantized, items)


def latents(model: Autoencoder, rows: Vectors) -> Vectors:
    """(n, dim) scaled rows -> (n, width)."""
    with torch.no_grad():
        encoded: Vectors = model.encode(torch.from_numpy(rows)).numpy()
    return encoded
