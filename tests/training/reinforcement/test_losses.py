import math

import pytest
import torch

from sidtool.training.reinforcement.list_trainer import preference_loss
from sidtool.training.reinforcement.trainer import clip_early


def test_preference_loss_by_hand() -> None:
    chosen = torch.tensor([-1.0, -1.0])
    rejected = torch.tensor([-2.0, -0.5])
    is_preference = torch.tensor([True, False])
    loss = preference_loss(
        chosen, rejected, torch.zeros(2), torch.tensor([0.5, 0.0]), is_preference, beta=0.1
    )
    # r: chosen -0.1, rejected -0.25
    assert loss.tolist() == pytest.approx([-math.log(1 / (1 + math.exp(-0.15))), 0.0])


def test_early_clipping_bounds_ratios_at_negative_advantages_only() -> None:
    old = torch.tensor([[0.1, 0.2], [0.1, 0.2]]).log()
    log_probs = torch.tensor([[0.4, 0.2], [0.4, 0.2]]).log().requires_grad_()
    advantages = torch.tensor([[-1.0], [1.0]])
    mask = torch.ones(2, 2)
    clipped = clip_early(log_probs, old, advantages, mask, bound=1.3)
    assert not clipped.requires_grad
    ratios = (log_probs - clipped).exp()
    torch.testing.assert_close(ratios, torch.tensor([[1.3, 1.0], [4.0, 1.0]]))
    # the gradient of the ratio is that of log pi, times the bound
    ratios[0, 0].backward()
    assert float(log_probs.grad[0, 0]) == pytest.approx(1.3)


def test_early_clipping_of_sequences_bounds_the_geometric_mean() -> None:
    old = torch.tensor([[0.1, 0.2]]).log()
    log_probs = torch.tensor([[0.4, 0.4]]).log()
    mask = torch.ones(1, 2)
    clipped = clip_early(log_probs, old, torch.tensor([[-1.0]]), mask, bound=1.3, level="sequence")
    assert float((log_probs - clipped).mean().exp()) == pytest.approx(1.3)
    within = clip_early(log_probs, log_probs, -mask, mask, bound=1.3, level="sequence")
    torch.testing.assert_close(within, log_probs)
