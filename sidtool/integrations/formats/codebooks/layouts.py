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
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data import Vectors, npy_header
from sidtool.data.tables import library_errors, require_regular
from sidtool.integrations.formats.codebooks.networks import (
    batch_norm_scale,
    module_parts,
    network_arrays,
    network_names,
)
from sidtool.integrations.formats.codebooks.torch_file import (
    StoredTensor,
    TorchFile,
    items_of,
    tensors_of,
)
from sidtool.integrations.formats.codebooks.zip_entries import (
    expanding_entries,
    open_zip,
    read_exactly,
)
from sidtool.tokenizer import Codebook, QuantizerParams
from sidtool.tokenizer.sid import LETTERS, MAX_CODES

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
    foreign = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    with library_errors(path, "a codebook"):
        if len(foreign.codebook.levels) > len(LETTERS):
            raise ValueError(f"it has {len(foreign.codebook.levels)} levels")
        for number, level in enumerate(foreign.codebook.levels):
            if not 0 < len(level) < MAX_CODES:
                raise ValueError(f"level {number} has {len(level)} codes, not 1 to {MAX_CODES - 1}")
        foreign.codebook.check()
    return foreign


def _read_npz(path: Path) -> ForeignCodebook:
    arrays = read_npz(path)
    names = _level_names(path, arrays, _NPZ)
    if not names:
        raise _unknown(path, list(arrays))
    with library_errors(path, "a codebook"):
        levels = _levels(arrays, names)
        codebook = Codebook("rq-kmeans", levels, {}, QuantizerParams())
    return ForeignCodebook("rq-kmeans", codebook, may_count_from_one=True)


def _read_torch(path: Path) -> ForeignCodebook:
    file = TorchFile(path)
    with library_errors(path, "a codebook"):
        tensors = _tensors(file.value)
        if names := _level_names(path, tensors, _RESKMEANS):
            levels = _levels(file.arrays({name: tensors[name] for name in names}), names)
            is_own = levels[0].shape[1] == OPENONEREC_DIM
            encoder = OPENONEREC_ENCODER if is_own else None
            codebook = Codebook("rq-kmeans", levels, {}, QuantizerParams())
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
    adds_input = bool(network_names(tensors, "encoder.mlp.mlp_layers"))
    encoder = "encoder.mlp.mlp_layers" if adds_input else "encoder.mlp_layers"
    # the decoder of RQ-K-means+ does not add its input, so its values are those of the centroids
    decoder = [] if adds_input else network_names(tensors, "decoder.mlp_layers")
    tensor_names = [*names, *network_names(tensors, encoder), *decoder]
    numbers = file.arrays({name: tensors[name] for name in tensor_names})
    networks = network_arrays(numbers, encoder, "in")
    if decoder:
        networks |= network_arrays(numbers, "decoder.mlp_layers", "out")
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
    encoder = network_names(tensors, "encoder.model")
    decoder = network_names(tensors, "decoder.model")
    norm = network_names(tensors, "normalization_layer")
    numbers = file.arrays({name: tensors[name] for name in (*names, *encoder, *decoder, *norm)})
    networks: dict[str, NDArray[np.float32]] = {}
    if encoder:
        networks |= network_arrays(numbers, "encoder.model", "in")
    if decoder:
        networks |= network_arrays(numbers, "decoder.model", "out")
    if has_norm:
        factor, shift = batch_norm_scale(_GRID_NORM, module_parts(numbers, _GRID_NORM))
        networks |= {"scale": factor.astype(np.float32), "shift": shift.astype(np.float32)}
    levels = _levels(numbers, names)
    params = QuantizerParams(
        dim=len(networks["in_0_weight"]) if encoder else levels[0].shape[1],
        normalize=has_norm,
        normalize_residuals=_normalizes_residuals(file.value),
    )
    method = "rq-vae" if encoder else "rq-kmeans"
    return ForeignCodebook("grid", Codebook(method, levels, networks, params))


def _normalizes_residuals(checkpoint: Any) -> bool:
    """GRID's setting, which Lightning stores; its default is true."""
    settings = dict(items_of(dict(items_of(checkpoint)).get("hyper_parameters")))
    value = settings.get("normalize_residuals", True)
    if not isinstance(value, bool):
        raise ValueError("its normalize_residuals is neither true nor false")
    return value


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


NUMBERS = "fiu"


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of numbers by name. Raises DataError if the file is damaged, or has an array of
    another type or of another size than its bytes."""
    require_regular(path)
    with library_errors(path, "an .npz"), path.open("rb") as stream:
        archive = open_zip(stream)
        entries = expanding_entries(archive, path.stat().st_size)
        arrays = {}
        for name, entry in entries.items():
            with archive.open(entry) as member:
                shape, order, dtype = npy_header(member)  # type: ignore[arg-type]
                claimed = member.tell() + dtype.itemsize * prod(shape)
                if dtype.kind not in NUMBERS or min(shape, default=0) < 0:
                    raise ValueError(f"{name} has the shape {shape} and the type {dtype}")
                if claimed != entry.file_size:
                    raise ValueError(
                        f"{name} claims {claimed} bytes of shape {shape}, it has {entry.file_size}"
                    )
                flat = np.empty(prod(shape), dtype=dtype)
                read_exactly(member, flat)
                member.read(1)  # zipfile compares the checksum at the end of an entry
            arrays[name.removesuffix(".npy")] = flat.reshape(shape, order=order)
        return arrays
