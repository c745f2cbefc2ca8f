"""Models whose weights are divided among processes by PyTorch's FSDP2: every weight is then a
DTensor, of which a process holds a part. The functions that gather must be called by every
process."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of a model are divided among processes."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds: all of a tensor that is not divided."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, on its device and detached."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A whole value, which every process has, divided as `target` is, on its device. No process
    waits for another."""
    value = value.to(target.device)
    if not isinstance(target, DTensor):
        return value
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)


def gathered(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """The whole tensors by name, on the CPU, one after the other; nothing without `keep`. Names of
    one tensor (tied weights) have one in the result."""
    wholes: dict[int, torch.Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) in wholes:
            continue
        gathered_tensor = whole(tensor)
        wholes[id(tensor)] = gathered_tensor.cpu() if keep else gathered_tensor.new_empty(0)
    return {name: wholes[id(tensor)] for name, tensor in tensors.items()} if keep else {}


@contextmanager
def whole_model(model: nn.Module) -> Iterator[None]:
    """Give every process the whole weights, without gradients, and take FSDP2 out of the model:
    processes may then run it as often as each likes. A model that is not divided stays as it is."""
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        # some weights stay gathered after a forward pass
        module.reshard()
    # every place of a divided weight
    parts = [
        (module, name, weight)
        for module in model.modules()
        for name, weight in module._parameters.items()
        if isinstance(weight, DTensor)
    ]
    wholes: dict[int, nn.Parameter] = {}
    for _, _, part in parts:
        if id(part) not in wholes:
            wholes[id(part)] = nn.Parameter(whole(part), requires_grad=False)
    saved = [_take_out(module) for module in sharded]
    try:
        for module, name, part in parts:
            module._parameters[name] = wholes[id(part)]
        yield
    finally:
        for module, name, part in parts:
            module._parameters[name] = part
        for module, attributes in zip(sharded, saved, strict=True):
            for attribute, value in attributes.items():
                setattr(module, attribute, value)


def _take_out(module: nn.Module) -> dict[str, Any]:
    """Restore the class of a module and remove the hooks of FSDP2. Returns what was there."""
    attributes = {name: getattr(module, name) for name in _HOOKS}
    attributes["__class__"] = type(module)
    # FSDP2 replaces the class by one that is derived from FSDPModule and the original
    module.__class__ = type(module).__bases__[1]
    for name in _HOOKS:
        other_hooks = OrderedDict(
            (key, hook)
            for key, hook in attributes[name].items()
            if not str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp")
        )
        setattr(module, name, other_hooks)
    return attributes
