"""Gumbel noise that is drawn from the root of a tree down (stochastic beam search, W. Kool et al.,
arXiv:1903.06059): the noise of a node is that of its best leaf, and the noise of its children is
drawn on condition that the largest is that of the node."""

import torch


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Standard Gumbel noise, float64, on the CPU: the same on every device."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    # `rand` may return 0, never 1
    return -torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float64).tiny)))


def perturb_children(
    parents: torch.Tensor, log_probs: torch.Tensor, valid: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """(..., n) perturbed log-probabilities of the children of nodes whose own are (...), the
    largest of each row being its node's; minus infinity where a child is not valid.

    `log_probs` and `noise` are (..., n). A Gumbel variable is truncated at the node's value by its
    distribution function, in the numerically stable form of appendix B.3 of the paper."""
    perturbed = (log_probs + noise).masked_fill(~valid, -torch.inf)
    largest = perturbed.amax(-1, keepdim=True)
    parents = parents.unsqueeze(-1)
    # log(1 - exp(perturbed - largest)) is minus infinity at the largest, which gets `parents`
    gaps = (perturbed - largest).masked_fill(~valid, -torch.inf)
    shifted = parents - perturbed + torch.log(-torch.expm1(gaps))
    values = parents - shifted.clamp_min(0) - torch.log1p(torch.exp(-shifted.abs()))
    return torch.where(valid, values, -torch.inf)
