"""Sampling of distinct SIDs from a policy, without replacement: stochastic beam search over the
trie (W. Kool et al., arXiv:1903.06059).

The k largest of the log-probabilities of all SIDs, each perturbed by Gumbel noise, are a sample
without replacement. They are drawn from the root down, level by level: the noise of a node is that
of its best SID, and the noise of its children is drawn on condition that the largest is that of the
node. The sample is exact, at the cost of one beam search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.model.prompt import SidTokens
from sidtool.recommendation.search.columns import token_columns
from sidtool.recommendation.search.device_trie import trie_arrays
from sidtool.recommendation.search.driver import (
    TOKEN_BUDGET,
    Children,
    Decoder,
    evaluation_mode,
    tree_tokens,
)
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import Leaves


@dataclass(frozen=True, eq=False)
class LeafSample:
    """Distinct leaves drawn for one prompt, in the order of a draw one by one."""

    leaves: Leaves
    """(m,): m is the requested size, or the number of leaves that may be drawn if that is less"""
    log_probs: NDArray[np.float64]
    """(m,): of each leaf"""
    inclusion: NDArray[np.float64]
    """(m,): the probability that the leaf is in the sample, given the first leaf that is not.
    Dividing by it makes sums unbiased: E[sum of p(leaf) / inclusion * f(leaf)] is the sum of p * f
    over all leaves that may be drawn (N. Duffield et al., 2007)."""


@torch.no_grad()
def sample_leaves(
    model: Any,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    tokens: SidTokens,
    *,
    size: int,
    excluded: Sequence[Leaves],
    generator: torch.Generator,
    token_budget: int = TOKEN_BUDGET,
) -> list[LeafSample]:
    """Draw `size` distinct leaves per prompt from a model whose scores are normalized over the
    trie, never one of the (e,) leaves that are excluded for the prompt.

    Excluding leaves changes no probability: the sample is that of the unnormalized distribution
    over the other leaves. `generator` is one of the CPU. Raises UsageError if the model's attention
    cannot be steered or a tree is too large, DataError if a prompt is too long."""
    # one more than `size` tells the threshold; each excluded leaf may take a place
    most_excluded = max((len(leaves) for leaves in excluded), default=0)
    beams = min(size + 1 + most_excluded, trie.n_leaves)
    capacity = tree_tokens(beams, trie.levels - 1, f"SIDs of {trie.levels} levels")
    samples: dict[int, LeafSample] = {}
    with evaluation_mode(model, prompts, trie.levels - 1) as bare:
        decoder = Decoder.of(bare, "SIDs cannot be sampled from it")
        arrays = trie_arrays(trie, bare.device)
        columns = token_columns(tokens, bare.device)
        for batch, tree in decoder.trees(prompts, capacity, token_budget):
            search = _DrawSearch(len(batch), generator, bare.device)
            leaves = decoder.grow(tree, search, arrays, columns, "trie", [beams] * trie.levels)
            # (batch, beams) each, by descending perturbed log-probability
            drawn, log_probs, noisy = (
                tensor.cpu().numpy() for tensor in (leaves, search.log_probs, search.noisy)
            )
            for row, index in enumerate(batch):
                samples[index] = _select(
                    drawn[row], log_probs[row], noisy[row], size, excluded[index]
                )
    return [samples[index] for index in range(len(prompts))]


class _DrawSearch:
    """The beams with the largest perturbed log-probabilities, of one batch."""

    def __init__(self, batch: int, generator: torch.Generator, device: Any) -> None:
        self._generator = generator
        self.log_probs = torch.zeros(batch, 1, dtype=torch.float64, device=device)
        """(batch, beams)"""
        self.noisy = gumbel_noise((batch, 1), generator).to(device)
        """(batch, beams): the same, perturbed"""

    def rank(self, level: int, children: Children) -> torch.Tensor:
        """As `Search.rank`: by perturbed log-probabilities."""
        # places of a beam that is not full
        valid = children.valid & (self.noisy > -torch.inf).unsqueeze(-1)
        self._totals = self.log_probs.unsqueeze(-1) + children.log_probs.double()
        noise = gumbel_noise(tuple(valid.shape), self._generator).to(valid.device)
        return perturb_children(self.noisy, self._totals, valid, noise)

    def follow(
        self, level: int, nodes: torch.Tensor, ranks: torch.Tensor, best: torch.Tensor
    ) -> None:
        """As `Search.follow`."""
        self.noisy = ranks
        self.log_probs = self._totals.flatten(1).gather(1, best)


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


def _select(
    leaves: NDArray[np.int64],
    log_probs: NDArray[np.float64],
    noisy: NDArray[np.float64],
    size: int,
    excluded: Leaves,
) -> LeafSample:
    """The first `size` leaves of one prompt that may be drawn. The next one is the threshold."""
    allowed = (noisy > -np.inf) & ~np.isin(leaves, excluded)
    leaves = leaves[allowed]
    log_probs = log_probs[allowed]
    threshold = noisy[allowed][size] if len(leaves) > size else -np.inf
    log_probs = log_probs[:size]
    # P(log p + Gumbel > threshold) = 1 - exp(-exp(log p - threshold))
    inclusion = -np.expm1(-np.exp(np.minimum(log_probs - threshold, 700.0)))
    return LeafSample(Leaves(leaves[:size]), log_probs, inclusion)
