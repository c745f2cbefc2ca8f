"""Perceptrons of a `state_dict` as the arrays that `quantize.mlp` computes with."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.integrations.formats.codebooks.torch_file import StoredTensor

EPSILON = 1e-5
"""What BatchNorm1d adds to a variance."""
_BATCH_NORM = ("running_mean", "running_var", "weight", "bias")

Numbers = Mapping[str, NDArray[Any]]


def network_names(tensors: Mapping[str, StoredTensor], prefix: str) -> list[str]:
    """The names `PREFIX.N.PART` of the tensors of a `torch.nn.Sequential`."""
    pattern = re.compile(rf"{re.escape(prefix)}\.[0-9]{{1,4}}\.[a-z_]+")
    # the count of batches is recorded, and plays no part
    return [
        name
        for name in tensors
        if pattern.fullmatch(name) and not name.endswith("num_batches_tracked")
    ]


def network_arrays(numbers: Numbers, prefix: str, network: str) -> dict[str, NDArray[np.float32]]:
    """The arrays of the network `network`: linear layers, with max(x, 0) between them.

    A BatchNorm1d is folded into the linear layer before it, as it computes after training. Raises
    ValueError for a module of another kind, or if shapes do not fit."""
    layers: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for number in _module_numbers(numbers, prefix):
        module = f"{prefix}.{number}"
        parts = module_parts(numbers, module)
        if "running_mean" in parts:
            if not layers:
                raise ValueError(f"{module} normalizes before the first linear layer")
            layers[-1] = _folded(module, *layers[-1], parts)
        else:
            layers.append(_linear(module, parts))
    if not layers:
        raise ValueError(f"it has no linear layer {prefix}.N.weight")
    arrays = {}
    for layer, (weight, bias) in enumerate(layers):
        arrays[f"{network}_{layer}_weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        arrays[f"{network}_{layer}_bias"] = bias.astype(np.float32)
    return arrays


def module_parts(numbers: Numbers, module: str) -> dict[str, NDArray[Any]]:
    """The tensors of one module, by the last part of their names."""
    prefix = f"{module}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in numbers.items()
        if name.startswith(prefix)
    }


def _module_numbers(numbers: Numbers, prefix: str) -> Sequence[int]:
    places = {
        int(name.removeprefix(f"{prefix}.").partition(".")[0])
        for name in numbers
        if name.startswith(f"{prefix}.")
    }
    return sorted(places)


def _linear(module: str, parts: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    weight = parts.get("weight")
    if weight is None or weight.ndim != 2 or not {*parts} <= {"weight", "bias"}:
        raise ValueError(f"{module} is no linear layer: it has {', '.join(sorted(parts))}")
    bias = parts.get("bias", np.zeros(len(weight)))
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"{module} has weights {weight.shape} and a bias {bias.shape}")
    return weight.T.astype(np.float64), bias.astype(np.float64)  # (from, to)


def _folded(
    module: str, weight: NDArray[np.float64], bias: NDArray[np.float64], parts: Numbers
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    factor, shift = batch_norm_scale(module, parts)
    if factor.shape != bias.shape:
        raise ValueError(f"{module} has width {factor.shape}, the layer before it {bias.shape}")
    return weight * factor, bias * factor + shift


def batch_norm_scale(
    module: str, parts: Numbers
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The factor and the shift, (width,) each, by which a BatchNorm1d computes after training.

    Raises ValueError if a part is missing or has another shape."""
    missing = [part for part in _BATCH_NORM if part not in parts]
    if missing or len({parts[part].shape for part in _BATCH_NORM}) != 1:
        raise ValueError(f"{module} is no BatchNorm1d: its parts are {', '.join(sorted(parts))}")
    mean, variance, weight, bias = (parts[part].astype(np.float64) for part in _BATCH_NORM)
    if mean.ndim != 1 or not (variance >= 0).all():
        raise ValueError(f"{module} has variances below 0, or that are no numbers")
    factor = weight / np.sqrt(variance + EPSILON)
    return factor, bias - mean * factor
