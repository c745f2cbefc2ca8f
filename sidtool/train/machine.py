"""What a run takes of the machine and says on it: precision as stored, peak memory, and libraries
kept quiet."""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def stored_dtype(folder: Path) -> str:
    """The precision that a model's folder says it is stored in; float32 where it says none."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def multiplies_in_bf16() -> bool:
    """Whether the processor multiplies in bfloat16, as far as torch can tell (from 2.10 on).

    One that does not takes many times as long as in float32.
    """
    import torch

    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capable.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def peak_memory() -> dict[str, float]:
    """The most memory of this process so far, in GiB: resident, and on the GPU where there is one."""
    import resource

    import torch

    unit = 1 << 30 if sys.platform == "darwin" else 1 << 20  # macOS counts bytes, Linux KiB
    peak = {"peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if torch.cuda.is_available():
        peak["peak_cuda_gib"] = torch.cuda.max_memory_allocated() / (1 << 30)
    return peak


@contextlib.contextmanager
def float32_attention() -> Iterator[None]:
    """Within, attention under autocast on a CPU is computed in float32, between products in
    bfloat16.

    The backward pass of PyTorch's bfloat16 attention takes several times as long there as that of
    float32."""
    from torch import Tensor, autocast, nn

    own = nn.functional.scaled_dot_product_attention

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any
    ) -> Any:
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.float()
        with autocast("cpu", enabled=False):
            return own(query.float(), key.float(), value.float(), attn_mask=attn_mask, **options)

    nn.functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = own


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings and logs, which are about their own defaults, out of the user's
    way."""
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
