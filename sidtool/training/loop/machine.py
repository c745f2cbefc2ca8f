"""Precision, memory and library logs of a training run on this machine."""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def stored_dtype(folder: Path) -> str:
    """The precision in which a model folder is stored, by its config.json; default float32."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def supports_bf16() -> bool:
    """Whether the CPU has bfloat16 instructions, as far as torch (2.10 or later) detects them.

    Without them, bfloat16 takes many times as long as float32."""
    import torch

    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capable.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def peak_rss_gib() -> float:
    """The peak resident memory of this process in GiB."""
    import resource

    unit = 1 << 30 if sys.platform == "darwin" else 1 << 20  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def resident_gib() -> float:
    """The resident memory of this process in GiB; where the system does not say, its peak."""
    import resource

    try:
        n_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_rss_gib()
    return n_pages * resource.getpagesize() / (1 << 30)


def peak_cuda_gib() -> float | None:
    """The peak memory on the GPU in GiB; None without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_allocated() / (1 << 30)


@contextlib.contextmanager
def float32_attention() -> Iterator[None]:
    """Compute attention in float32 under autocast on a CPU; other products stay in bfloat16.

    The backward pass of PyTorch's attention takes several times as long in bfloat16 there."""
    from torch import Tensor, autocast, nn

    original = nn.functional.scaled_dot_product_attention

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any
    ) -> Any:
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.float()
        with autocast("cpu", enabled=False):
            return original(
                query.float(), key.float(), value.float(), attn_mask=attn_mask, **options
            )

    nn.functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = original


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and logs of the libraries, which concern their own defaults."""
    import transformers

    logging.getLogger("accelerate").setLevel(logging.ERROR)
    logging.getLogger("trl").setLevel(logging.ERROR)
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for module in ("trl", "transformers", "torch", "accelerate", "datasets"):
                warnings.filterwarnings("ignore", module=rf"{module}\.")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()
