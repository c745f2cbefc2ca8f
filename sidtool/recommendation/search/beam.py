"""Beam search over the trie of valid SIDs, as one growing token tree per prompt.

A SID has a fixed depth, so L levels take the prefill and L - 1 steps. Each step computes logits for
the level's codes only, and gathers the valid codes from the trie. All beams of a prompt share one
key-value cache. A score is the sum of L log-probabilities: no end token, no length penalty.

With a memory, prefixes are ranked by an upper bound of their items: the rank of a prefix is (1 - w)
p_model(prefix) + w max p_memory(item below the prefix). No item below it has a larger mixed
probability. With w = 1 the beam finds the memory's best items."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sidtool.memory.mixture import NO_PRIOR, Prior
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation.search.device_trie import FilterArrays, TrieArrays, trie_arrays
from sidtool.recommendation.search.driver import TOKEN_BUDGET, Decoder, evaluation_mode, tree_tokens
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.results import (
    EMPTY_RESULT,
    BeamResult,
    Normalize,
    best_leaves,
    check_normalize,
)
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import Leaves


@torch.no_grad()
def beam_search(
    model: Any,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    tokens: SidTokens,
    *,
    num_beams: int,
    k: int,
    normalize: Normalize = "level",
    filters: Sequence[LeafFilter | None] | None = None,
    priors: Sequence[Prior | None] | None = None,
    targets: Sequence[int] | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> list[BeamResult]:
    """The k best SIDs after each prompt, which are token ids that end where a SID begins.

    `num_beams` prefixes survive each level, k if that is more; k SIDs are returned whenever the
    filter leaves k. With `normalize` "level" or "vocabulary" the probability of invalid codes is
    lost; "vocabulary" gives exactly the scores of `generate`. "trie" makes the probabilities of all
    SIDs sum to one; it suits models trained so (`softmax_over=trie`), and favors prefixes with few
    children with others. `filters`, one per prompt, exclude items exactly and change no score. With
    `priors`, one per prompt, the beam ranks by the mixture with a memory (`results.rank_items`
    then ranks the items). With `targets`, a leaf per prompt or -1, each result says after how many
    levels the target's prefix was among the beams. An empty prompt gets an empty result.

    Raises UsageError if `num_beams` or k is too large for a tree of MAX_TREE_TOKENS, if no mask
    steers the model's attention, or for priors where its scores are no distribution over items;
    DataError if a logit is NaN or a prompt is longer than the model's positions."""
    num_beams = min(max(num_beams, k), trie.n_leaves)
    capacity = tree_tokens(num_beams, trie.levels - 1, f"SIDs of {trie.levels} levels")
    filters = filters or [None] * len(prompts)
    targets = targets if targets is not None else [-1] * len(prompts)
    priors = priors if priors is not None and any(priors) else None
    if priors is not None:
        check_normalize(normalize)
    with evaluation_mode(model, prompts, trie.levels - 1) as model:
        decoder = Decoder.of(model, "SIDs cannot be searched with it")
        arrays = trie_arrays(trie, model.device)
        widths = [min(num_beams, len(codes)) for codes in trie.codes]
        results = [EMPTY_RESULT] * len(prompts)
        for batch, tree in decoder.trees(prompts, capacity, token_budget):
            search = _BeamSearch(
                trie,
                arrays,
                [filters[index] for index in batch],
                None if priors is None else [priors[index] for index in batch],
                [targets[index] for index in batch],
            )
            leaves = decoder.grow(tree, search, arrays, tokens, normalize, widths)
            for index, result in zip(batch, search.results(leaves, k), strict=True):
                results[index] = result
    return results


class _BeamSearch:
    """The scores and ranks of the beams of one batch."""

    def __init__(
        self,
        trie: Trie,
        arrays: TrieArrays,
        filters: Sequence[LeafFilter | None],
        priors: Sequence[Prior | None] | None,
        targets: Sequence[int],
    ) -> None:
        device = arrays.device
        self._arrays = arrays
        self._filters = FilterArrays(filters, arrays) if any(filters) else None
        self._mixture = None
        # (batch, beams) log of the model's probability of each beam, times its weight in a mixture
        self._scores = torch.zeros(len(filters), 1, device=device)
        if priors is not None:
            self._mixture = MixtureArrays(priors, filters, trie, arrays)
            self._scores = self._mixture.log_model
        self._target_nodes = None
        if max(targets) >= 0:  # -1 stands for no target
            paths = trie.leaf_nodes(Leaves(np.array(targets, dtype=np.int64)))
            self._target_nodes = torch.from_numpy(paths).to(device)  # (batch, levels)
        # (batch,) the number of levels after which the target's prefix was among the beams
        self._survived = torch.zeros(len(filters), dtype=torch.long, device=device)

    def rank(
        self, level: int, nodes: torch.Tensor, valid: torch.Tensor, log_probs: torch.Tensor
    ) -> torch.Tensor:
        """As `Search.rank`: by scores, or by the mixture."""
        if self._filters is not None:
            valid &= self._filters.eligible(level, nodes) > 0
        totals = self._scores.unsqueeze(-1) + log_probs
        totals = totals.masked_fill_(~valid, -torch.inf)
        if self._mixture is None:
            return totals
        if level == self._arrays.levels - 1 and self._arrays.log_size is not None:
            # items share the probability of their SID, where a memory distinguishes them
            is_mixed = self._mixture.is_mixed[:, None, None]
            totals -= self._arrays.log_size[nodes] * is_mixed
        self._totals = totals.flatten(1)
        return self._mixture.add_to(self._totals, level, totals.shape[-1])

    def follow(
        self, level: int, nodes: torch.Tensor, ranks: torch.Tensor, best: torch.Tensor
    ) -> None:
        """As `Search.follow`."""
        self._ranks = ranks
        self._scores = ranks
        if self._mixture is not None:
            self._scores = self._totals.gather(1, best)
            if level < self._arrays.levels - 1:
                self._mixture.follow(best)
        if self._target_nodes is not None:
            # a prefix that is lost never comes back; a beam of rank minus infinity is a dead end
            is_prefix = nodes == self._target_nodes[:, level : level + 1]
            self._survived += (is_prefix & (ranks > -torch.inf)).any(dim=1)

    def results(self, leaves: torch.Tensor, k: int) -> list[BeamResult]:
        """The k best of the (batch, beams) leaves of each prompt."""
        scores = self._scores
        if self._mixture is not None:
            scores = scores - self._mixture.log_model
        columns = [tensor.cpu().numpy() for tensor in (leaves, self._ranks, scores)]
        return [
            best_leaves(row_leaves, ranks, k, row_scores)._replace(survived=survived)
            for row_leaves, ranks, row_scores, survived in zip(
                *columns, self._survived.tolist(), strict=True
            )
        ]


class MixtureArrays:
    """The memories' shares of a batch, as tensors on one device: the best items of each request,
    and their places in the beam, level by level.

    Call `add_to` at each level, and `follow` after each but the last."""

    def __init__(
        self,
        priors: Sequence[Prior | None],
        filters: Sequence[LeafFilter | None],
        trie: Trie,
        arrays: TrieArrays,
    ) -> None:
        device = arrays.device
        every_prior = [NO_PRIOR if prior is None else prior for prior in priors]
        most = max(len(prior.distribution) for prior in every_prior)
        # (batch, most): rows are filled up with items of share 0, which change no score
        leaves = np.zeros((len(priors), most), dtype=np.int64)
        shares = np.full((len(priors), most), -np.inf, dtype=np.float32)
        log_model_weights = []
        for row, (prior, leaf_filter) in enumerate(zip(every_prior, filters, strict=True)):
            log_model_weight, log_memory_weight = prior.log_shares
            log_model_weights.append(log_model_weight)
            distribution = prior.distribution
            if leaf_filter is not None:
                distribution = distribution.select(leaf_filter.passes(distribution.positions))
            leaves[row, : len(distribution)] = trie.leaves(distribution.positions)
            shares[row, : len(distribution)] = distribution.log_probs + log_memory_weight
        self._shares = torch.from_numpy(shares).to(device)
        """(batch, most) log of what the memory adds to the probability of each item"""
        paths = arrays.paths[torch.from_numpy(leaves).to(device)]
        self._slots = paths.permute(2, 0, 1).long()  # (levels, batch, most)
        self._places = torch.zeros_like(self._slots[0])
        """(batch, most) index of each item's prefix among the candidates of a level"""
        self._beams = self._places
        """(batch, most) the beam that has each item's prefix; any one if none has it, and then the
        share is 0"""
        self.is_mixed = torch.tensor([prior.is_mixed for prior in every_prior], device=device)
        """(batch,): whether the memory has a share; elsewhere the model alone ranks"""
        self.log_model = torch.tensor(log_model_weights, device=device).unsqueeze(1)
        """(batch, 1) log of the model's weight in the mixture"""

    def add_to(self, totals: torch.Tensor, level: int, fan_out: int) -> torch.Tensor:
        """(batch, beams * fan-out) logs of the model's part for the candidates of a level -> the
        same with the memory's part."""
        self._places = torch.add(self._slots[level], self._beams, alpha=fan_out)
        mixture = torch.logaddexp(totals.gather(1, self._places), self._shares)
        # of the items below one prefix, that with the largest share counts
        return totals.scatter_reduce(1, self._places, mixture, "amax")

    def follow(self, best: torch.Tensor) -> None:
        """Go on with the items below the best candidates of a level, (batch, beams) indexes."""
        ordered, beam_order = best.sort()
        nearest = torch.searchsorted(ordered, self._places).clamp_max_(best.shape[1] - 1)
        in_beam = ordered.gather(1, nearest) == self._places
        self._shares = torch.where(in_beam, self._shares, -torch.inf)
        self._beams = beam_order.gather(1, nearest)
