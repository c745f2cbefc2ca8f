"""Precision, memory and library logs of a training run on this machine, and what FSDP2, which
divides weights, gradients and optimizer states among processes, can train."""

import os
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.errors import UsageError
from sidtool.base.process_setting import errors_only, hidden_bars


def is_faster_in_bf16() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 faster than those of float32, as far as torch
    (2.10 or later) detects its instructions: AMX, those of Arm, or AVX512_BF16 of AMD.

    Without any, bfloat16 takes many times as long. An Intel Xeon with AVX512_BF16 and without AMX
    trained more slowly in it; on an AMD EPYC, where MKL's float32 uses AVX2, a step of SmolLM2-135M
    took half the time in it, and one of a small model as long."""
    import torch

    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if any(capable.get(name, False) for name in ("amx_bf16", "bf16")):
        return True
    return "AMD" in str(capable.get("cpu_name", "")) and bool(capable.get("avx512_bf16", False))


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


@contextmanager
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


_TRAINING = threading.RLock()
"""Held by the thread that trains."""


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and logs of the libraries, which concern their own defaults. One thread at
    a time trains: these are settings of the process, and so are the random states that a trainer
    seeds and draws from."""
    import transformers  # noqa: F401 - which gives its logger a level

    with _TRAINING, warnings.catch_warnings(), hidden_bars(), ExitStack() as logs:
        for name in ("accelerate", "trl", "transformers"):
            logs.enter_context(errors_only(name))
        for module in ("trl", "transformers", "torch", "accelerate", "datasets"):
            warnings.filterwarnings("ignore", module=rf"{module}\.")
        yield


_DETERMINISM = (
    *("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC"),
    *("ASCEND_LAUNCH_BLOCKING", "HCCL_DETERMINISTIC"),
)
"""The variables of the environment that `full_determinism` sets."""


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Give the caller the random states of the processor back, which a trainer seeds, and what
    `full_determinism` changes."""
    import torch

    state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the one that transformers seeds
    mode, cudnn = torch.get_deterministic_debug_mode(), torch.backends.cudnn
    cudnn_flags = cudnn.deterministic, cudnn.benchmark
    variables = {name: os.environ[name] for name in _DETERMINISM if name in os.environ}
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_deterministic_debug_mode(mode)
        cudnn.deterministic, cudnn.benchmark = cudnn_flags
        for name in _DETERMINISM:
            os.environ.pop(name, None)
        os.environ.update(variables)


OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")
"""Values of `optim` whose states have the shape of their weight, and are divided as it is."""

_ONE_PROCESS = "torchrun --nproc_per_node or accelerate launch starts several"
_SUPPORTED = {
    "fsdp_version": ("2", "FSDP1 joins the weights of a layer to one"),
    "fsdp_state_dict_type": (
        "FULL_STATE_DICT",
        "checkpoints have whole weights, so that any number of processes can resume them",
    ),
    "fsdp_cpu_ram_efficient_loading": ("false", "every process checks the weights that it loads"),
    "fsdp_offload_params": ("false", "validation needs the weights on the GPU"),
    "fsdp_activation_checkpointing": (
        "false, and --set gradient_checkpointing=true",
        "it replaces layers of the model",
    ),
}
"""The only value of each of these settings of FSDP, and why."""


def wants_fsdp(arguments: Any) -> bool:
    """Whether a setting or the configuration of accelerate asks for FSDP. `arguments` is the
    configuration of a trainer."""
    return arguments.fsdp_plugin_args is not None or is_set("ACCELERATE_USE_FSDP")


def check_fsdp(arguments: Any) -> None:
    """Raise UsageError if FSDP is wanted in a way that training does not support."""
    if not wants_fsdp(arguments):
        return
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import CPUOffloadPolicy

    if arguments.world_size == 1:
        raise UsageError("fsdp divides weights among processes, and this is one", hint=_ONE_PROCESS)
    optim = str(getattr(arguments.optim, "value", arguments.optim))
    if optim not in OPTIMIZERS:
        raise UsageError(
            f"optim={optim} cannot be combined with fsdp", hint=f"optim={', '.join(OPTIMIZERS)}"
        )
    plugin = FullyShardedDataParallelPlugin(**(arguments.fsdp_plugin_args or {}))
    plugin_settings = {
        "fsdp_version": str(plugin.fsdp_version),
        "fsdp_state_dict_type": plugin.state_dict_type.name,
        "fsdp_cpu_ram_efficient_loading": str(bool(plugin.cpu_ram_efficient_loading)).lower(),
        "fsdp_offload_params": str(isinstance(plugin.cpu_offload, CPUOffloadPolicy)).lower(),
        "fsdp_activation_checkpointing": str(bool(plugin.activation_checkpointing)).lower(),
    }
    for name, value in plugin_settings.items():
        supported, reason = _SUPPORTED[name]
        if value != supported.partition(",")[0]:
            raise UsageError(
                f"{name}: {value} is not supported: {reason}", hint=f"{name}: {supported}"
            )


def check_active(arguments: Any, accelerator: Any) -> None:
    """Raise UsageError if FSDP is wanted, and accelerate left it out."""
    if wants_fsdp(arguments) and not accelerator.is_fsdp2:
        raise UsageError(
            f"fsdp divides weights among GPUs, and accelerate leaves it out on {arguments.device}",
            hint="train without it",
        )


def is_set(variable: str) -> bool:
    """Whether a variable of the environment says yes, as accelerate reads it."""
    return os.environ.get(variable, "false").lower() in ("true", "1")


@contextmanager
def class_forward(model: Any) -> Iterator[None]:
    """Use the forward of the model's class: TRL and accelerate replace it by closures, which cannot
    be copied."""
    patched = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if patched is not None:
            model.__dict__["forward"] = patched
