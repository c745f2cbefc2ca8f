"""Checkpoints as other systems write them, by small PyTorch modules with the same names, and the
codes that those systems compute."""

import argparse
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

SIZES = (7, 5, 6)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nearest(residual: Tensor, centroids: Tensor) -> Tensor:
    """The code of each row: all distances, one row after the other, in float64."""
    differences = residual.double()[:, None] - centroids.double()[None]
    return differences.square().sum(dim=2).argmin(dim=1)


def residual_codes(rows: Tensor, levels: list[Tensor], *, normalize: bool = False) -> NDArray[Any]:
    """(n, levels): subtract the nearest centroid, level by level."""
    codes = []
    residual = rows
    for centroids in levels:
        if normalize:
            residual = F.normalize(residual, dim=-1)
        code = nearest(residual, centroids)
        residual = residual - centroids[code]
        codes.append(code)
    return torch.stack(codes, dim=1).numpy()


def mlp_layers(widths: list[int], *, bn: bool = False, bn_at_end: bool = False) -> nn.Module:
    """Dropout, linear, perhaps BatchNorm1d, ReLU: the perceptron of LC-Rec."""
    modules: list[nn.Module] = []
    for at, (width_in, width_out) in enumerate(pairwise(widths)):
        modules += [nn.Dropout(0.1), nn.Linear(width_in, width_out)]
        is_last = at == len(widths) - 2
        if bn and (bn_at_end or not is_last):
            modules.append(nn.BatchNorm1d(width_out))
        if not is_last:
            modules.append(nn.ReLU())
    return nn.Sequential(OrderedDict(mlp_layers=nn.Sequential(*modules)))


class AddsInput(nn.Module):
    """The encoder of RQ-K-means+."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, rows: Tensor) -> Tensor:
        return rows + self.mlp(rows)


class RQVAE(nn.Module):
    """The model of LC-Rec, LETTER and MiniOneRec."""

    def __init__(self, dim: int, width: int, *, plus: bool = False, **bn: bool) -> None:
        super().__init__()
        widths = [dim, 16, 12, width]
        self.encoder = mlp_layers(widths, **bn)
        if plus:
            self.encoder = AddsInput(self.encoder)
        layers = (nn.ModuleDict({"embedding": nn.Embedding(size, width)}) for size in SIZES)
        self.rq = nn.ModuleDict({"vq_layers": nn.ModuleList(layers)})
        self.decoder = mlp_layers(widths[::-1], **bn)

    @property
    def levels(self) -> list[Tensor]:
        return [layer["embedding"].weight for layer in self.rq["vq_layers"]]

    @torch.no_grad()
    def codes(self, rows: Tensor) -> NDArray[Any]:
        return residual_codes(self.encoder(rows), self.levels)


class ResKmeans(nn.Module):
    """The tokenizer of OpenOneRec."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.centroids = nn.ParameterList(
            nn.Parameter(torch.randn(size, dim), requires_grad=False) for size in SIZES
        )

    def codes(self, rows: Tensor) -> NDArray[Any]:
        return residual_codes(rows, [centroids.data for centroids in self.centroids])


def grid_mlp(widths: list[int], *, bias: bool) -> nn.Module:
    """Linear, then ReLU, linear, dropout ...: GRID's perceptron."""
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1], bias=bias)]
    for width_in, width_out in pairwise(widths[1:]):
        layers += [nn.ReLU(), nn.Linear(width_in, width_out, bias=bias), nn.Dropout(0.0)]
    return nn.Sequential(OrderedDict(model=nn.Sequential(*layers)))


class UnitLength(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=-1)


class Grid(nn.Module):
    """GRID's ResidualQuantization: of residual k-means, or of an RQ-VAE."""

    def __init__(self, dim: int, *, is_vae: bool, normalize: bool, bias: bool = True) -> None:
        super().__init__()
        width = 6 if is_vae else dim
        self.normalize = normalize
        self.normalization_layer: nn.Module = nn.Identity()
        self.encoder: nn.Module = nn.Identity()
        self.decoder: nn.Module = nn.Identity()
        if is_vae:
            self.normalization_layer = nn.Sequential(nn.BatchNorm1d(dim), UnitLength())
            self.encoder = grid_mlp([dim, 14, 10, width], bias=bias)
            self.decoder = grid_mlp([width, 10, 14, dim], bias=bias)
        levels = (nn.ParameterDict({"centroids": torch.randn(size, width)}) for size in SIZES)
        self.quantization_layer_list = nn.ModuleList(levels)

    @property
    def levels(self) -> list[Tensor]:
        return [layer["centroids"] for layer in self.quantization_layer_list]

    @torch.no_grad()
    def codes(self, rows: Tensor) -> NDArray[Any]:
        encoded = self.encoder(self.normalization_layer(rows))
        return residual_codes(encoded, self.levels, normalize=self.normalize)


def trained(model: Any, dim: int) -> Any:
    """A model whose BatchNorm1d layers have seen data, whose weights are no initial ones, and whose
    centroids are residuals of data, so that codes differ."""
    rows = 3 * torch.randn(400, dim, generator=seeded(2)) + 1
    normalization = getattr(model, "normalization_layer", nn.Identity())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded(1))
        model.train()
        model.decoder(model.encoder(normalization(rows)))
        model.eval()
        residual = model.encoder(normalization(rows))
        for level, centroids in enumerate(model.levels):
            if getattr(model, "normalize", False):
                residual = F.normalize(residual, dim=-1)
            first = 100 * level
            centroids.copy_(residual[first : first + len(centroids)])
            residual = residual - centroids[nearest(residual, centroids)]
    return model


def save_rqvae(model: nn.Module, path: Path, *, protocol: int = 4) -> None:
    """As LC-Rec's trainer saves it: with the optimizer, and the arguments as an object."""
    optimizer = torch.optim.AdamW(model.parameters())
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.step()
    model.load_state_dict(before)
    state = {
        "args": argparse.Namespace(lr=1e-3, layers=[16, 12], data_path="x.emb-qwen-td.npy"),
        "epoch": 3,
        "best_loss": 0.5,
        "best_collision_rate": np.float64(0.25),
        "losses": np.arange(3.0),
        "frozen": frozenset({"rq"}),
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, path, pickle_protocol=protocol)


def save_grid(model: Grid, path: Path, *, settings: dict[str, Any] | None = None) -> None:
    """As Lightning saves it: settings with modules among them, loops and callbacks."""
    checkpoint = {
        "epoch": 0,
        "global_step": 3000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'train/loss'}": {"best": torch.tensor(0.5)}},
        "hyper_parameters": {
            "normalize_residuals": model.normalize,
            "reconstruction_loss_function": nn.MSELoss(),
            **(settings or {}),
        },
        "current_layer": 2,
        "layers_initialized": [True] * len(SIZES),
    }
    torch.save(checkpoint, path)
