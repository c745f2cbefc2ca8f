"""Muon for the matrices of hidden layers and AdamW for other weights, as one optimizer.

A matrix moves by its momentum with all singular values made nearly equal (K. Jordan et al., Muon,
2024), scaled to the size of AdamW's steps (J. Liu et al., Muon is Scalable for LLM Training, 2025),
so both use one learning rate."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from sidtool.base.errors import UsageError
from sidtool.model.network import part_like, vocabulary_weights, whole


class MuonAdamW(Optimizer):
    """Two optimizers that share parameter groups and state with this one, so that schedules and
    checkpoints handle one.

    Matrices are orthogonalized in bfloat16, as torch does, or in float32 without `bf16`: a CPU
    without bfloat16 instructions takes many times as long for it. `divided` says that FSDP2 will
    divide them among processes: each of these then orthogonalizes one whole matrix at a time.
    Raises UsageError if torch has no Muon."""

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        weight_decay: float,
        bf16: bool = True,
        divided: bool = False,
        **adamw: Any,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UsageError(
                f"torch {torch.__version__} has no Muon", hint="pip install 'torch>=2.9'"
            )
        matrices = hidden_matrices(model)
        matrix_ids = set(map(id, matrices))
        others = [
            weight
            for weight in model.parameters()
            if weight.requires_grad and id(weight) not in matrix_ids
        ]
        tables = [weight for weight in others if weight.ndim > 1]
        vectors = [weight for weight in others if weight.ndim <= 1]
        pairs = ((tables, weight_decay), (vectors, 0.0))
        groups = [{"params": part, "weight_decay": decay} for part, decay in pairs if part]
        muon_class = torch.optim.Muon
        if divided or not bf16:
            muon_class = _whole_matrix_muon(torch.bfloat16 if bf16 else torch.float32)
        muon = muon_class(
            matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._parts: tuple[Optimizer, ...] = (muon, AdamW(groups, lr=lr, **adamw))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step of both; `closure` is not used."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a checkpoint."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        first = 0
        for part in self._parts:
            stop = first + len(part.param_groups)
            part.param_groups = self.param_groups[first:stop]
            part.state = self.state
            first = stop


def _whole_matrix_muon(precision: torch.dtype) -> type[torch.optim.Muon]:
    """torch's Muon with products in this precision, of whole matrices where weights are divided; a
    function, because older versions of torch have no Muon to derive from."""

    class WholeMatrixMuon(torch.optim.Muon):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                lr = group["lr"]
                decay = group["weight_decay"]
                momentum = group["momentum"]
                for weight in group["params"]:
                    if weight.grad is None:
                        continue
                    state = self.state[weight]
                    if "momentum_buffer" not in state:
                        state["momentum_buffer"] = torch.zeros_like(weight.grad)
                    average = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                    update = orthogonal(
                        whole(weight.grad.lerp(average, momentum)).to(precision),
                        group["ns_coefficients"],
                        group["ns_steps"],
                    )
                    weight.mul_(1 - lr * decay)
                    # the factor of torch's adjust_lr_fn="match_rms_adamw"
                    step_size = lr * 0.2 * math.sqrt(max(weight.shape))
                    weight.add_(part_like(weight, update.to(weight.dtype)), alpha=-step_size)

    return WholeMatrixMuon


def orthogonal(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int
) -> torch.Tensor:
    """(m, n) -> (m, n) with all singular values near 1, by Newton-Schulz iteration in the precision
    of the matrix."""
    a, b, c = coefficients
    # the smaller dimension first: the Gram matrix is as small as possible
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    # then no singular value is above 1
    wide = wide / wide.norm().clamp(min=torch.finfo(wide.dtype).tiny)
    for _ in range(steps):
        # a * wide + (b * gram + c * gram @ gram) @ wide
        gram = wide @ wide.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.addmm(wide, polynomial, wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def hidden_matrices(model: Any) -> list[nn.Parameter]:
    """The trainable weights of linear layers, without embeddings and output head.

    Raises UsageError if there are none."""
    from transformers.pytorch_utils import Conv1D

    ends = {id(weight) for weight in vocabulary_weights(model)}
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Linear | Conv1D))
    matrices = [
        layer.weight
        for layer in layers
        if layer.weight.requires_grad and id(layer.weight) not in ends
    ]
    if not matrices:
        raise UsageError(
            "optimizer=muon trains matrices of hidden layers, and this model has none to train"
        )
    return list(dict.fromkeys(matrices))
