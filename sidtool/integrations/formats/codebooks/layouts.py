"""Codebooks of other systems as ours: which file is whose, by the names of its tensors.

| system | file | tensors |
| --- | --- | --- |
| OpenOneRec `res_kmeans.py` | `model.pt` | `centroids.L` (codes, dim) |
| MiniOneRec, LC-Rec, LETTER `rqvae.py` | `.pth`, under `state_dict` | `encoder.mlp_layers.N.*`, `decoder.mlp_layers.N.*`, `rq.vq_layers.L.embedding.weight` |
| MiniOneRec `rqkmeans_plus.py` | `.pth`, under `state_dict` | the same with `encoder.mlp.mlp_layers.N.*`, whose input is added to its output |
| MiniOneRec `rqkmeans_constrained.py` | `.npz` | `codebook_L` (codes, dim) |
| GRID `residual_quantization.py` | Lightning `.ckpt`, under `state_dict` | `quantization_layer_list.L.centroids`, perhaps `encoder.model.N.*`, `normalization_layer.0.*` |
"""  # noqa: E501

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data import Vectors
from sidtool.data.tables import library_errors
from sidtool.integrations.formats.codebooks.tensor_files import (
    StoredTensor,
    TorchFile,
    items_of,
    read_npz,
    tensors_of,
)
from sidtool.tokenizer.quantize import Codebook, QuantizerParams
from sidtool.tokenizer.sid import MAX_CODES

Layout = Literal["openonerec", "rq-vae", "rq-kmeans+", "rq-kmeans", "grid"]
"""Whose codebook it is, by how it is stored."""

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".npz")
_CONTAINERS = ("state_dict", "model", "model_state_dict")
"""Keys of a checkpoint under which its tensors may be."""
_RESKMEANS = "centroids.{}"
_RQVAE = "rq.vq_layers.{}.embedding.weight"
_NPZ = "codebook_{}"
_GRID = "quantization_layer_list.{}.centroids"
_GRID_NORM = "normalization_layer.0"
_EPSILON = 1e-5
"""What BatchNorm1d adds to a variance."""
_BATCH_NORM = ("running_mean", "running_var", "weight", "bias")

OPENONEREC_ENCODER = "hf://Qwen/Qwen3-Embedding-8B"
OPENONEREC_DIM = 4096
"""The encoder that OpenOneRec's tokenizer demands, and the width of its vectors."""


@dataclass(frozen=True)
class ForeignCodebook:
    """A codebook of another system."""

    layout: Layout
    codebook: Codebook
    may_count_from_one: bool = False
    """The system's scripts write maps whose codes are the numbers of centroids plus 1."""
    encoder: str | None = None
    """The encoder of the vectors, if the system has only one."""


def read_codebook(path: Path) -> ForeignCodebook:
    """The codebook in a file of another system; only its tensors are read, and nothing is run.

    Raises DataError if the file is damaged or hostile, has no known tensors, or tensors whose
    shapes do not fit or whose values are not finite."""
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"{path}: no known codebook has the suffix {path.suffix!r}",
            hint=f"known suffixes are {', '.join(SUFFIXES)}",
        )
    with library_errors(path, "a codebook"):
        if path.suffix == ".npz":
            arrays = read_npz(path)
            names = _level_names(path, arrays, _NPZ)
            if not names:
                raise _unknown(path, list(arrays))
            codebook = Codebook("rq-kmeans", levels=_levels(arrays, names), encoder={})
            foreign = ForeignCodebook("rq-kmeans", codebook, may_count_from_one=True)
        else:
            foreign = _read_torch(path)
        for number, level in enumerate(foreign.codebook.levels):
            if len(level) >= MAX_CODES:
                raise ValueError(f"level {number} has {len(level)} codes, not 1 to {MAX_CODES - 1}")
        foreign.codebook.check()
    return foreign


def _read_torch(path: Path) -> ForeignCodebook:
    file = TorchFile(path)
    tensors = _tensors(file.value)
    if not tensors:
        raise DataError(
            f"{path} has no tensors by name, like a module that was saved whole",
            hint="load it with its own program, and save its state_dict()",
        )
    if names := _level_names(path, tensors, _RESKMEANS):
        levels = _levels(file.arrays({name: tensors[name] for name in names}), names)
        is_openonerec = levels[0].shape[1] == OPENONEREC_DIM
        encoder = OPENONEREC_ENCODER if is_openonerec else None
        codebook = Codebook("rq-kmeans", levels, encoder={})
        return ForeignCodebook("openonerec", codebook, encoder=encoder)
    if names := _level_names(path, tensors, _RQVAE):
        return _rqvae(file, tensors, names)
    if names := _level_names(path, tensors, _GRID):
        return _grid(file, tensors, names)
    raise _unknown(path, list(tensors))


def _tensors(value: Any) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint: of the value itself, or of the mapping that it has for them."""
    members = dict(items_of(value))
    for key in _CONTAINERS:
        if tensors := tensors_of(members.get(key)):
            return tensors
    return tensors_of(value)


def _rqvae(
    file: TorchFile, tensors: Mapping[str, StoredTensor], names: list[str]
) -> ForeignCodebook:
    """The RQ-VAE of LC-Rec, which LETTER and MiniOneRec share."""
    adds_input = bool(_network_names(tensors, "encoder.mlp.mlp_layers"))
    encoder = "encoder.mlp.mlp_layers" if adds_input else "encoder.mlp_layers"
    # the decoder of RQ-K-means+ does not add its input, so its values are those of the centroids
    decoder = [] if adds_input else _network_names(tensors, "decoder.mlp_layers")
    tensor_names = [*names, *_network_names(tensors, encoder), *decoder]
    numbers = file.arrays({name: tensors[name] for name in tensor_names})
    networks = _network_arrays(numbers, encoder, "in")
    if decoder:
        networks |= _network_arrays(numbers, "decoder.mlp_layers", "out")
    dim = len(networks["in_0_weight"])
    params = QuantizerParams(dim=dim, skip=adds_input)
    layout: Layout = "rq-kmeans+" if adds_input else "rq-vae"
    codebook = Codebook(layout, _levels(numbers, names), networks, params)
    return ForeignCodebook(layout, codebook, may_count_from_one=adds_input)


def _grid(
    file: TorchFile, tensors: Mapping[str, StoredTensor], names: list[str]
) -> ForeignCodebook:
    """GRID's residual quantization. Its BatchNorm1d, if it has one, is followed by a scaling to
    length 1, as in its configuration."""
    has_norm = f"{_GRID_NORM}.running_mean" in tensors
    encoder = _network_names(tensors, "encoder.model")
    decoder = _network_names(tensors, "decoder.model")
    norm = _network_names(tensors, "normalization_layer")
    numbers = file.arrays({name: tensors[name] for name in (*names, *encoder, *decoder, *norm)})
    networks: dict[str, NDArray[np.float32]] = {}
    if encoder:
        networks |= _network_arrays(numbers, "encoder.model", "in")
    if decoder:
        networks |= _network_arrays(numbers, "decoder.model", "out")
    if has_norm:
        factor, shift = _batch_norm_scale(_GRID_NORM, _module_parts(numbers, _GRID_NORM))
        networks |= {"scale": factor.astype(np.float32), "shift": shift.astype(np.float32)}
    levels = _levels(numbers, names)
    # Lightning stores the settings; the default of this one is true
    settings = dict(items_of(dict(items_of(file.value)).get("hyper_parameters")))
    normalize_residuals = settings.get("normalize_residuals", True)
    if not isinstance(normalize_residuals, bool):
        raise ValueError("its normalize_residuals is neither true nor false")
    params = QuantizerParams(
        dim=len(networks["in_0_weight"]) if encoder else levels[0].shape[1],
        normalize=has_norm,
        normalize_residuals=normalize_residuals,
    )
    method = "rq-vae" if encoder else "rq-kmeans"
    return ForeignCodebook("grid", Codebook(method, levels, networks, params))


def _level_names(path: Path, names: Mapping[str, Any], template: str) -> list[str]:
    """The names of the levels, in order; empty if there are none. Raises DataError for a gap."""
    head, tail = template.split("{}")
    pattern = re.compile(rf"{re.escape(head)}([0-9]{{1,3}}){re.escape(tail)}")
    places = sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))
    if places != list(range(len(places))):
        raise DataError(f"{path} has the levels {places[:20]}, not 0, 1, 2 ...")
    return [template.format(level) for level in places]


def _levels(numbers: Mapping[str, NDArray[Any]], names: list[str]) -> tuple[Vectors, ...]:
    """The centroids of every level as float32. Raises ValueError for another shape."""
    levels = []
    for name in names:
        centroids = numbers[name]
        if centroids.ndim != 2 or not centroids.size or centroids.dtype.kind != "f":
            raise ValueError(
                f"{name} has the shape {centroids.shape} and the type {centroids.dtype}, not "
                "(codes, width) and floating-point numbers"
            )
        levels.append(np.ascontiguousarray(centroids, dtype=np.float32))
    return tuple(levels)


def _unknown(path: Path, names: list[str]) -> DataError:
    examples = ", ".join(repr(name[:60]) for name in names[:4]) or "none"
    return DataError(
        f"{path} has no known codebook; its tensors are {examples}"[:500],
        hint="known are those of OpenOneRec, MiniOneRec, LC-Rec, LETTER and GRID",
    )


def _network_names(tensors: Mapping[str, StoredTensor], prefix: str) -> list[str]:
    """The names `PREFIX.N.PART` of the tensors of a `torch.nn.Sequential`."""
    pattern = re.compile(rf"{re.escape(prefix)}\.[0-9]{{1,4}}\.[a-z_]+")
    # the count of batches is recorded, and plays no part
    return [
        name
        for name in tensors
        if pattern.fullmatch(name) and not name.endswith("num_batches_tracked")
    ]


def _network_arrays(
    numbers: Mapping[str, NDArray[Any]], prefix: str, network: str
) -> dict[str, NDArray[np.float32]]:
    """The arrays of the network `network`: linear layers, with max(x, 0) between them.

    A BatchNorm1d is folded into the linear layer before it, as it computes after training. Raises
    ValueError for a module of another kind, or if shapes do not fit."""
    layers: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    modules = _module_parts(numbers, prefix)
    for number in sorted({int(name.partition(".")[0]) for name in modules}):
        module = f"{prefix}.{number}"
        parts = _module_parts(numbers, module)
        if "running_mean" in parts:
            if not layers:
                raise ValueError(f"{module} normalizes before the first linear layer")
            weight, bias = layers.pop()
            factor, shift = _batch_norm_scale(module, parts)
            if factor.shape != bias.shape:
                raise ValueError(
                    f"{module} has width {factor.shape}, the layer before it {bias.shape}"
                )
            layers.append((weight * factor, bias * factor + shift))
            continue
        if "weight" not in parts or parts["weight"].ndim != 2 or not {*parts} <= {"weight", "bias"}:
            raise ValueError(f"{module} is no linear layer: it has {', '.join(sorted(parts))}")
        weight = parts["weight"]
        bias = parts.get("bias", np.zeros(len(weight)))
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"{module} has weights {weight.shape} and a bias {bias.shape}")
        layers.append((weight.T.astype(np.float64), bias.astype(np.float64)))  # (from, to)
    if not layers:
        raise ValueError(f"it has no linear layer {prefix}.N.weight")
    arrays = {}
    for layer, (weight, bias) in enumerate(layers):
        arrays[f"{network}_{layer}_weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        arrays[f"{network}_{layer}_bias"] = bias.astype(np.float32)
    return arrays


def _module_parts(numbers: Mapping[str, NDArray[Any]], module: str) -> dict[str, NDArray[Any]]:
    """The tensors of one module, by the last part of their names."""
    prefix = f"{module}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in numbers.items()
        if name.startswith(prefix)
    }


def _batch_norm_scale(
    module: str, parts: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The factor and the shift, (width,) each, by which a BatchNorm1d computes after training.

    Raises ValueError if a part is missing or has another shape."""
    missing = [part for part in _BATCH_NORM if part not in parts]
    if missing or len({parts[part].shape for part in _BATCH_NORM}) != 1:
        raise ValueError(f"{module} is no BatchNorm1d: its parts are {', '.join(sorted(parts))}")
    mean, variance, weight, bias = (parts[part].astype(np.float64) for part in _BATCH_NORM)
    if mean.ndim != 1 or not (variance >= 0).all():
        raise ValueError(f"{module} has variances below 0, or that are no numbers")
    factor = weight / np.sqrt(variance + _EPSILON)
    return factor, bias - mean * factor
