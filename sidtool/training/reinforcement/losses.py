"""The losses that TRL's GRPOTrainer lacks, as functions of log-probabilities of codes.

n is the number of groups or sequences, L that of levels."""

import math

import torch


def sft_loss(log_probs: torch.Tensor) -> torch.Tensor:
    """(): cross-entropy of (n, L) log-probabilities of the targets' codes, mean over codes."""
    return -log_probs.mean()


def clip_early(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    bound: float,
    level: str = "token",
) -> torch.Tensor:
    """(n, L): old log-probabilities by which no importance ratio exceeds `bound` where the
    advantage is negative: max(pi / bound, pi_old), without a gradient.

    ECPO (arXiv:2508.20900) so keeps the gradient of an item that the policy already moved away
    from, but bounds its size; plain clipping does not bound ratios at negative advantages.
    `advantages` are (n, 1) or (n, L), `mask` is (n, L). At the level "sequence", where TRL's ratio
    is that of the mean log-probability, all codes of a sequence are shifted alike."""
    log_probs = log_probs.detach()
    log_ratio = log_probs - old_log_probs
    if level == "sequence":
        log_ratio = (log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(
            1
        )
    excess = (log_ratio - math.log(bound)).clamp_min(0)
    return old_log_probs + torch.where(advantages < 0, excess, torch.zeros_like(excess))


def preference_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    chosen_reference: torch.Tensor,
    rejected_reference: torch.Tensor,
    valid: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """(n,): the loss of preferring one item to several others: S-DPO (arXiv:2406.09215).

    With r = beta * (log pi - log pi_reference), the loss is -log sigmoid(-log sum exp(r_rejected -
    r_chosen)), which is the cross-entropy of a softmax over the chosen item and the rejected ones.
    `chosen` and its reference are (n,) log-probabilities of whole SIDs, `rejected` and theirs
    (n, N), of which those with `valid` (n, N) count. A group without a rejected item has the loss
    0."""
    rewards = beta * (chosen - chosen_reference)
    others = beta * (rejected - rejected_reference)
    gaps = (others - rewards[:, None]).masked_fill(~valid, -torch.inf)
    # -log sigmoid(-x) is log(1 + exp(x)), and exp(x) is the sum over the rejected items
    zero = torch.zeros_like(gaps[:, :1])
    return torch.cat([zero, gaps], dim=1).logsumexp(dim=1)
