"""Weights of a model: read into the process's own memory, and finite.

A mapped file is read when a weight is used: overwriting it would change the model, truncating it
would kill the process. A training that diverged leaves NaN or infinity in weights, and such a model
recommends nothing."""

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint.files import check_folder, read_entries
from sidtool.base.checkpoint.guard import loading
from sidtool.base.errors import DataError, IntegrityError

_PATCHING = threading.Lock()


def read_weights(path: Path, digest: str | None = None) -> dict[str, Any]:
    """The tensors of a safetensors file by name, on the CPU. It is read once, tensor by tensor, so
    peak memory is that of the tensors. Raises as `read_entries` for a damaged file, DataError for
    one that becomes shorter, IntegrityError if the SHA-256 (hex) of what was read is not
    `digest`."""
    import torch
    from safetensors.torch import load

    tensors = {}
    with path.open("rb") as stream:
        start, entries = read_entries(stream)
        state = hashlib.sha256(start)
        nothing = {"shape": [0], "data_offsets": [0, 0]}
        header = json.dumps({name: entry | nothing for name, entry in entries.items()}).encode()
        empty = load(len(header).to_bytes(8, "little") + header)  # which has the dtypes
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            data = torch.empty(end - begin, dtype=torch.uint8)
            if stream.readinto(data.numpy()) != len(data):
                raise DataError(f"{path} became shorter while it was read")
            state.update(data.numpy())
            tensors[name] = data.view(empty[name].dtype).reshape(entry["shape"])
    if digest not in (None, state.hexdigest()):
        raise IntegrityError(
            f"{path} is not the file that the model's contract records: SHA-256 "
            f"{state.hexdigest()[:12]}, not {digest[:12]}"
        )
    return tensors


@contextmanager
def private_weights(digests: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let transformers load safetensors files by `read_weights` in this block, with the SHA-256
    (hex) of each file by its name. It maps them otherwise, and has an option only for reading a
    whole file beside its tensors, which takes twice the memory."""
    from safetensors import safe_open
    from transformers import modeling_utils

    def open_private(file: str, **options: Any) -> Any:
        if "backend" not in options:  # types and shapes only
            return safe_open(file, **options)
        return _Opened(read_weights(Path(file), (digests or {}).get(Path(file).name)))

    with _PATCHING:
        modeling_utils.safe_open = open_private
        try:
            yield
        finally:
            modeling_utils.safe_open = safe_open


class _Opened:
    """What transformers uses of an open file."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self._tensors = tensors

    def keys(self) -> Iterable[str]:
        return tuple(self._tensors)

    def get_slice(self, name: str) -> Any:
        return self._tensors.pop(name)

    def __exit__(self, *_: object) -> None:
        pass


def non_finite(weights: Iterable[tuple[str, Any]]) -> list[str]:
    """Names of the (name, tensor) pairs with a value that is NaN or infinite; one pass over memory,
    at a fraction of the cost of loading it."""
    import torch

    names = []
    finite = []
    for name, weight in weights:
        if weight.is_floating_point() and weight.numel():
            # both bounds are NaN if any value is
            bounds = torch.stack(torch.aminmax(weight.detach()))
            names.append(name)
            finite.append(bounds.isfinite().all())
    if not names or bool(torch.stack(finite).all()):  # of a GPU, one transfer for all weights
        return []
    return [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]


def check_finite(model: Any, name: str | Path) -> None:
    """Raise DataError if a parameter of a model has a value that is NaN or infinite."""
    _refuse(non_finite(model.named_parameters()), name)


def check_finite_files(folder: Path) -> None:
    """As `check_finite`, for the safetensors files of a model folder, without building the model.
    Raises DataError also for a damaged file."""
    from safetensors import safe_open

    check_folder(folder)
    for path in sorted(folder.glob("*.safetensors")):
        with loading(path, "as weights"), safe_open(path, framework="pt") as file:
            names = non_finite((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118
        _refuse(names, path)


def _refuse(names: list[str], where: str | Path) -> None:
    if names:
        more = f" and {len(names) - 1} more weights" if len(names) > 1 else ""
        raise DataError(
            f"{where} has values in {names[0]}{more} that are NaN or infinite",
            hint="a training that diverges leaves such weights, or a precision that is too narrow: "
            "use an earlier checkpoint, or --dtype float32",
        )
