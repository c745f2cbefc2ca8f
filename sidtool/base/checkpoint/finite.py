"""Whether the weights of a model are finite: a training that diverged leaves NaN or infinity in
them, and such a model recommends nothing."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint.files import check_folder
from sidtool.base.checkpoint.guard import loading
from sidtool.base.errors import DataError


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
