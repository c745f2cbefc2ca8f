"""Fits one network of a re-ranker by a smooth NDCG and a listwise cross-entropy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.memory import HIDDEN, N_FEATURES, Network

BATCH_USERS = 128
EPOCHS = 12
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
DROPOUT = 0.1
TEMPERATURE = 0.5
"""Of the smooth ranks, in units of log-probability."""
NDCG_WEIGHT = 3.0
ENTROPY_WEIGHT = 0.3


def fit_network(
    inputs: NDArray[np.float32],
    mixed: NDArray[np.float64],
    targets: NDArray[np.int64],
    importance: NDArray[np.float64],
    *,
    seed: int,
) -> Network:
    """A network for (m, c, N_FEATURES) standardized features, (m, c) logs of mixed probabilities,
    minus infinity where there is no item, the (m,) columns of the targets, and how much each user
    counts. Unfitted, it scores every item 0."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _module()
        users = len(inputs)
        steps = EPOCHS * -(-users // BATCH_USERS)
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=LEARNING_RATE, total_steps=steps
        )
        tensors = (
            torch.from_numpy(inputs),
            torch.from_numpy(mixed.astype(np.float32)),
            torch.from_numpy(targets),
            torch.from_numpy(importance.astype(np.float32)),
        )
        module.train()
        for _ in range(EPOCHS):
            for rows in torch.randperm(users).split(BATCH_USERS):
                x, log_mixed, target, weight = (tensor[rows] for tensor in tensors)
                added = module["linear"](x) + module["deep"](x)  # (b, c, 1)
                loss = (weight * _losses(log_mixed + added[..., 0], target)).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
    first, second, output = (layer for layer in module["deep"] if isinstance(layer, nn.Linear))
    arrays = (
        first.weight.T,
        first.bias,
        second.weight.T,
        second.bias,
        output.weight[0],
        module["linear"].weight[0],
    )
    return Network(*(array.detach().numpy().copy() for array in arrays))


def _module() -> Any:
    """The layers of a `Network`, of which the last ones are zero. All items of a user lose the same
    units to dropout: a third of the time of fitting would go to drawing other ones for each."""
    import torch
    from torch import nn

    class ListDropout(nn.Dropout):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            units = hidden.new_ones(len(hidden), 1, hidden.shape[-1])  # (b, 1, units)
            return hidden * super().forward(units)

    deep = nn.Sequential(
        nn.Linear(N_FEATURES, HIDDEN),
        nn.GELU(approximate="tanh"),
        ListDropout(DROPOUT),
        nn.Linear(HIDDEN, HIDDEN),
        nn.GELU(approximate="tanh"),
        ListDropout(DROPOUT),
        nn.Linear(HIDDEN, 1, bias=False),
    )
    linear = nn.Linear(N_FEATURES, 1, bias=False)
    nn.init.zeros_(deep[-1].weight)
    nn.init.zeros_(linear.weight)
    return nn.ModuleDict({"deep": deep, "linear": linear})


def _losses(scores: Any, targets: Any) -> Any:
    """(b,) losses of (b, c) scores: 1 less a smooth NDCG (ApproxNDCG, Qin et al., 2010), and the
    listwise cross-entropy."""
    import torch

    of_target = scores.gather(1, targets[:, None])  # (b, 1)
    # minus infinity adds 0; the target itself adds a half
    ranks = 0.5 + torch.sigmoid((scores - of_target) / TEMPERATURE).sum(dim=1)
    ndcg = 1 / torch.log2(1 + ranks)
    entropy = torch.logsumexp(scores, dim=1) - of_target[:, 0]
    return NDCG_WEIGHT * (1 - ndcg) + ENTROPY_WEIGHT * entropy
