"""Faster inference on a CPU: attention that copies no keys, and linear layers on oneDNN, on
processors where it is faster than MKL.

On x86 PyTorch multiplies float32 matrices with MKL, which uses its AVX-512 kernels on Intel's
processors only: on others oneDNN takes about half the time for the same product. Results differ in
the last bits, as between any two machines."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.integrations import sdpa_attention

SMALL = 1 << 21
"""Products of fewer multiplications than this stay with MKL: the call would cost more."""

_shares_keys_elsewhere = sdpa_attention.use_gqa_in_sdpa


@contextmanager
def fast_linear(model: nn.Module) -> Iterator[None]:
    """Run the model's float32 linear layers on a CPU with the faster library; inference only, as
    oneDNN products carry no gradient."""
    from transformers.pytorch_utils import Conv1D

    layers = [
        layer
        for layer in (model.modules() if onednn_is_faster() else ())
        if type(layer) in (nn.Linear, Conv1D) and "forward" not in layer.__dict__
    ]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextmanager
def grouped_keys() -> Iterator[None]:
    """Let masked attention on a CPU share a key among the query heads of its group. transformers
    copies keys and values for each of them where there is a mask, which CUDA's kernels need."""
    sdpa_attention.use_gqa_in_sdpa = _shares_keys
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = _shares_keys_elsewhere


def _shares_keys(mask: Any, key: torch.Tensor, *others: Any) -> bool:
    return key.device.type == "cpu" or bool(_shares_keys_elsewhere(mask, key, *others))


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor on which MKL lacks AVX-512 kernels and oneDNN has them."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    cpu_info = Path("/proc/cpuinfo")
    vendor = "GenuineIntel"
    if cpu_info.exists():
        vendor = cpu_info.read_text(encoding="utf-8", errors="replace")
    return "GenuineIntel" not in vendor and torch.backends.cpu.get_cpu_capability() == "AVX512"


def product(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(..., dim) states by a (columns, dim) weight -> (..., columns), like
    `torch.nn.functional.linear`."""
    float32 = hidden.dtype == weight.dtype == torch.float32
    on_cpu = hidden.device.type == weight.device.type == "cpu"
    large = hidden.numel() * weight.shape[0] >= SMALL
    inference = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    if float32 and on_cpu and large and inference and onednn_is_faster():
        return torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    return nn.functional.linear(hidden, weight, bias)


def _forward(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    # GPT-2's Conv1D stores its weight as (dim, columns)
    weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()
    return product(hidden, weight, layer.bias)
