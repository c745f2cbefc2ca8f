"""Muon for the hidden layers' matrices, AdamW for the rest, as one optimizer.

Knows which weights are matrices of hidden layers; knows nothing of losses or schedules. A matrix
moves by its momentum with all singular values made nearly equal (K. Jordan et al., Muon, 2024),
scaled to the size that AdamW's steps have (J. Liu et al., Muon is Scalable for LLM Training, 2025),
so one learning rate does for both."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from sidtool.errors import UsageError


class MuonAdamW(Optimizer):
    """Two optimizers that share their groups and their state with this one: schedules and
    checkpoints see one.

    Matrices are made orthogonal in bfloat16, as torch does it, or in float32 without `bf16`: a
    processor that does not multiply in bfloat16 takes many times as long for it. Raises UsageError
    where torch has no Muon."""

    def __init__(
        self, model: nn.Module, *, lr: float, weight_decay: float, bf16: bool = True, **adamw: Any
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UsageError(
                f"torch {torch.__version__} has no Muon", hint="pip install 'torch>=2.9'"
            )
        matrices = hidden_matrices(model)
        held = set(map(id, matrices))
        others = [
            weight
            for weight in model.parameters()
            if weight.requires_grad and id(weight) not in held
        ]
        tables, vectors = (
            [w for w in others if (w.ndim > 1) == is_table] for is_table in (True, False)
        )
        groups = [
            {"params": tables, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._parts: tuple[Optimizer, ...] = (
            (torch.optim.Muon if bf16 else _float32_muon())(
                matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            AdamW([group for group in groups if group["params"]], lr=lr, **adamw),
        )
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step of both. There is no closure: neither looks twice at a loss."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        first = 0
        for part in self._parts:
            stop = first + len(part.param_groups)
            part.param_groups, part.state, first = self.param_groups[first:stop], self.state, stop


def _float32_muon() -> type[torch.optim.Muon]:
    """torch's Muon with its products in float32; a function, for an older torch has none to derive
    from."""

    class Float32Muon(torch.optim.Muon):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                lr, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
                for weight in (weight for weight in group["params"] if weight.grad is not None):
                    state = self.state[weight]
                    if "momentum_buffer" not in state:
                        state["momentum_buffer"] = torch.zeros_like(weight.grad)
                    average = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                    update = orthogonal(
                        weight.grad.lerp(average, momentum),
                        group["ns_coefficients"],
                        group["ns_steps"],
                    )
                    weight.mul_(1 - lr * decay)
                    weight.add_(
                        update, alpha=-lr * 0.2 * math.sqrt(max(weight.shape))
                    )  # match_rms_adamw

    return Float32Muon


def orthogonal(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int
) -> torch.Tensor:
    """(m, n) -> (m, n): singular values all near 1, by Newton and Schulz's iteration in the
    matrix's own precision."""
    a, b, c = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(
        min=torch.finfo(wide.dtype).tiny
    )  # no singular value is above 1
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def hidden_matrices(model: Any) -> list[nn.Parameter]:
    """The weights that learn of the linear layers between embeddings and head.

    Raises UsageError if there are none.
    """
    from transformers.pytorch_utils import Conv1D

    ends = {
        id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Linear | Conv1D))
    found = [
        layer.weight
        for layer in layers
        if layer.weight.requires_grad and id(layer.weight) not in ends
    ]
    if not found:
        raise UsageError(
            "optimizer=muon is for the matrices of hidden layers, and none of them learns here"
        )
    return list(dict.fromkeys(found))
