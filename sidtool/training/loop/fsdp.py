"""What FSDP2, which divides weights, gradients and optimizer states among processes, can train, and
the configuration of it by accelerate's files and variables or by the setting `fsdp`."""

import os
from typing import Any

from sidtool.base.errors import UsageError

OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")
"""Values of `optim` whose states have the shape of their weight, and are divided as it is."""

_ONE_PROCESS = "torchrun --nproc_per_node or accelerate launch starts several"


def wants_fsdp(arguments: Any) -> bool:
    """Whether a setting or the configuration of accelerate asks for FSDP. `arguments` is the
    configuration of a trainer."""
    return arguments.fsdp_plugin_args is not None or is_set("ACCELERATE_USE_FSDP")


def check_fsdp(arguments: Any) -> None:
    """Raise UsageError if FSDP is wanted in a way that training does not support."""
    if not wants_fsdp(arguments):
        return
    if arguments.world_size == 1:
        raise UsageError("fsdp divides weights among processes, and this is one", hint=_ONE_PROCESS)
    optim = str(getattr(arguments.optim, "value", arguments.optim))
    if optim not in OPTIMIZERS:
        raise UsageError(
            f"optim={optim} cannot be combined with fsdp", hint=f"optim={', '.join(OPTIMIZERS)}"
        )
    for is_chosen, name, reason, instead in _unsupported(arguments):
        if is_chosen:
            raise UsageError(f"{name} is not supported: {reason}", hint=instead)


def check_active(arguments: Any, accelerator: Any) -> None:
    """Raise UsageError if FSDP is wanted, and accelerate left it out."""
    if wants_fsdp(arguments) and not accelerator.is_fsdp2:
        raise UsageError(
            f"fsdp divides weights among GPUs, and accelerate leaves it out on {arguments.device}",
            hint="train without it",
        )


def _unsupported(arguments: Any) -> list[tuple[bool, str, str, str]]:
    """Choices of FSDP that training does not support: whether it is made, its name, the reason and
    what to choose instead."""
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import CPUOffloadPolicy, StateDictType

    plugin = FullyShardedDataParallelPlugin(**(arguments.fsdp_plugin_args or {}))
    is_full = plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    return [
        (
            plugin.fsdp_version != 2,
            f"fsdp_version: {plugin.fsdp_version}",
            "FSDP1 joins the weights of a layer to one",
            "fsdp_version: 2",
        ),
        (
            not is_full,
            f"fsdp_state_dict_type: {plugin.state_dict_type.name}",
            "checkpoints have whole weights, so that any number of processes can resume them",
            "fsdp_state_dict_type: FULL_STATE_DICT",
        ),
        (
            bool(plugin.cpu_ram_efficient_loading),
            "fsdp_cpu_ram_efficient_loading: true",
            "every process checks the weights that it loads",
            "fsdp_cpu_ram_efficient_loading: false",
        ),
        (
            isinstance(plugin.cpu_offload, CPUOffloadPolicy),
            "fsdp_offload_params: true",
            "validation needs the weights on the GPU",
            "fsdp_offload_params: false",
        ),
        (
            bool(plugin.activation_checkpointing),
            "fsdp_activation_checkpointing: true",
            "it replaces layers of the model",
            "fsdp_activation_checkpointing: false, and --set gradient_checkpointing=true",
        ),
    ]


def is_set(variable: str) -> bool:
    """Whether a variable of the environment says yes, as accelerate reads it."""
    return os.environ.get(variable, "false").lower() in ("true", "1")
