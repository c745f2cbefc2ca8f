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

from sidtool.base.errors import UsageError
from sidtool.model.positions import check_positions
from sidtool.model.prompt.tokens import SidTokens
from sidtool.recommendation.search.batching import batches, evaluation_mode
from sidtool.recommendation.search.beam import TOKEN_BUDGET, check_tree_tokens
from sidtool.recommendation.search.columns import token_columns
from sidtool.recommendation.search.device_trie import (
    TrieArrays,
    normalize_over_children,
    trie_arrays,
)
from sidtool.recommendation.search.noise import gumbel_noise, perturb_children
from sidtool.recommendation.search.partial_head import DecodingHead
from sidtool.recommendation.search.probe import decoding_method
from sidtool.recommendation.search.token_tree import TokenTree
from sidtool.tokenizer.bundle.trie import Trie


@dataclass(frozen=True, eq=False)
class LeafSample:
    """Distinct leaves drawn for one prompt, in the order of a draw one by one."""

    leaves: NDArray[np.int64]
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
    excluded: Sequence[NDArray[np.int64]],
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
    check_tree_tokens(beams, trie.levels)
    lengths = [len(prompt) for prompt in prompts]
    tree_tokens = beams * (trie.levels - 1)
    samples: dict[int, LeafSample] = {}
    with evaluation_mode(model) as bare:
        check_positions(bare, max(lengths, default=0), trie.levels - 1)
        method = decoding_method(bare)
        if method == "generate":
            raise UsageError(
                f"{type(bare).__name__} does not support a 4-D attention mask: SIDs cannot be "
                "sampled from it"
            )
        head = DecodingHead(bare, sliced=method == "sliced")
        arrays = trie_arrays(trie, bare.device)
        for batch in batches(lengths, tree_tokens, token_budget):
            tree = TokenTree.of(
                bare, [prompts[index] for index in batch], capacity=tree_tokens, head=head
            )
            leaves, log_probs, noisy = _search(tree, head, arrays, tokens, beams, generator)
            rows = zip(leaves, log_probs, noisy, strict=True)
            for index, (row_leaves, row_log_probs, row_noisy) in zip(batch, rows, strict=True):
                samples[index] = _select(
                    row_leaves, row_log_probs, row_noisy, size, excluded[index]
                )
    return [samples[index] for index in range(len(prompts))]


def _search(
    tree: TokenTree,
    head: DecodingHead,
    arrays: TrieArrays,
    tokens: SidTokens,
    beams: int,
    generator: torch.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The leaves with the largest perturbed log-probabilities, descending: (batch, <= beams)
    leaves, log-probabilities and perturbed ones."""
    hidden = tree.prefill()  # (batch, 1, dim)
    batch = len(hidden)
    nodes = torch.zeros(batch, 1, dtype=torch.long, device=hidden.device)  # the root
    log_probs = torch.zeros(batch, 1, dtype=torch.float64, device=hidden.device)
    noisy = gumbel_noise((batch, 1), generator).to(hidden.device)
    for level, columns in enumerate(token_columns(tokens, hidden.device).levels):
        of_level = head.log_probs(hidden, columns.columns, "trie")
        # (batch, beams, fan-out) each
        children, codes, valid = arrays.candidates(level, nodes)
        steps = of_level.gather(-1, columns.places(codes))
        steps = normalize_over_children(steps, valid).double()
        valid &= (noisy > -torch.inf).unsqueeze(-1)  # places of a beam that is not full
        totals = log_probs.unsqueeze(-1) + steps
        noise = gumbel_noise(tuple(totals.shape), generator).to(totals.device)
        perturbed = perturb_children(noisy, totals, valid, noise)
        width = min(beams, perturbed.shape[1] * perturbed.shape[2])
        noisy, best = perturbed.flatten(1).topk(width)  # (batch, width)
        nodes = children.flatten(1).gather(1, best)
        codes = codes.flatten(1).gather(1, best)
        log_probs = totals.flatten(1).gather(1, best)
        if level < arrays.levels - 1:
            hidden = tree.step(columns.ids(codes), best // children.shape[-1])
    return nodes.cpu().numpy(), log_probs.cpu().numpy(), noisy.cpu().numpy()


def _select(
    leaves: NDArray[np.int64],
    log_probs: NDArray[np.float64],
    noisy: NDArray[np.float64],
    size: int,
    excluded: NDArray[np.int64],
) -> LeafSample:
    """The first `size` leaves of one prompt that may be drawn. The next one is the threshold."""
    allowed = (noisy > -np.inf) & ~np.isin(leaves, excluded)
    leaves = leaves[allowed]
    log_probs = log_probs[allowed]
    threshold = noisy[allowed][size] if len(leaves) > size else -np.inf
    log_probs = log_probs[:size]
    # P(log p + Gumbel > threshold) = 1 - exp(-exp(log p - threshold))
    inclusion = -np.expm1(-np.exp(np.minimum(log_probs - threshold, 700.0)))
    return LeafSample(leaves[:size], log_probs, inclusion)
