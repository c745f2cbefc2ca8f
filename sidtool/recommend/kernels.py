"""Linear layers on oneDNN, where the processor's other library is the slower one.

On x86 PyTorch multiplies float32 matrices by MKL, which keeps its AVX-512 kernels for Intel's
processors: on others oneDNN takes about half the time for the same product. Knows which layers are
plain products; knows nothing of what they belong to. Results differ in the last bits, as between
any two machines."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

SMALL = 1 << 21
"""Multiplications below which the call costs more than the product."""


@contextmanager
def fast_linear(model: nn.Module) -> Iterator[None]:
    """Within, the model's float32 linear layers on a CPU take the faster library. No gradient goes
    through them."""
    layers = [layer for layer in model.modules() if _plain(layer)] if onednn_is_faster() else []
    for layer in layers:
        layer.forward = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor on which MKL does without AVX-512 and oneDNN does not."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    facts = Path("/proc/cpuinfo")
    vendor = (
        facts.read_text(encoding="utf-8", errors="replace") if facts.exists() else "GenuineIntel"
    )
    return "GenuineIntel" not in vendor and torch.backends.cpu.get_cpu_capability() == "AVX512"


def product(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(..., dim) states by a (columns, dim) weight -> (..., columns), as
    `torch.nn.functional.linear`."""
    if onednn_is_faster() and _takes(hidden, weight):
        return torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    return nn.functional.linear(hidden, weight, bias)


def _plain(layer: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return type(layer) in (nn.Linear, Conv1D) and "forward" not in layer.__dict__


def _forward(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    # GPT-2's layers keep their weight as (dim, columns)
    return product(
        hidden, layer.weight if isinstance(layer, nn.Linear) else layer.weight.t(), layer.bias
    )


def _takes(hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    single = (
        hidden.dtype == weight.dtype == torch.float32
        and hidden.device.type == weight.device.type == "cpu"
    )
    large = hidden.numel() * weight.shape[0] >= SMALL
    return single and large and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
