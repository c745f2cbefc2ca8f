"""Search for lists: a beam is a partial list, and all beams of all items share one token tree.

A list of m items with L codes each takes the prefill of its prompt and m L - 1 steps. A step
appends one token per beam to the tree of its prompt, so the keys and values of items that partial
lists have in common are computed once. Where SIDs have begin and end tokens, the last code of an
item, the end token and the begin token of the next are one step.

Draws are those of stochastic beam search (W. Kool et al., arXiv:1903.06059) over the tree of lists:
without replacement, from the model's distribution renormalized over the paths that are open."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sidtool.base.errors import UsageError
from sidtool.model.prompt import SidTokens
from sidtool.recommendation.search.columns import token_columns
from sidtool.recommendation.search.device_trie import (
    FilterArrays,
    TrieArrays,
    normalize_over_children,
    trie_arrays,
)
from sidtool.recommendation.search.driver import (
    TOKEN_BUDGET,
    Children,
    Decoder,
    evaluation_mode,
    tree_tokens,
)
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.results import ItemList, Normalize, check_scores
from sidtool.recommendation.search.search_options import ListOptions
from sidtool.tokenizer import Codebook
from sidtool.tokenizer.bundle import Trie


@torch.no_grad()
def search_lists(
    model: Any,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    tokens: SidTokens,
    *,
    length: int,
    num_beams: int,
    n_lists: int = 1,
    options: ListOptions | None = None,
    normalize: Normalize = "level",
    filters: Sequence[LeafFilter | None] | None = None,
    codebook: Codebook | None = None,
    seeds: Sequence[int] | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> list[list[ItemList]]:
    """The `n_lists` best lists of `length` items after each prompt, which are token ids that end
    where a SID begins; best first, or in the order of their draws.

    A list has `length` items, or all that its filter leaves if they are fewer; lists are distinct
    as sequences of SIDs. `num_beams` partial lists survive each step, `n_lists` if that is more;
    with search "greedy" `n_lists` survive, and with "gumbel" `n_lists` are drawn, by the noise of
    `seeds`, one per prompt. `normalize` is as in `beam_search`, and `filters`, one per prompt,
    exclude items and change no score; nor do `options` for diversity, which change what ranks
    first. An empty prompt gets no list.

    Raises UsageError if the tree is too large or the model's attention cannot be steered;
    DataError if a logit is NaN or a prompt and its list are longer than the model's positions."""
    options = options or ListOptions()
    beams = max(num_beams, n_lists) if options.search == "beam" else n_lists
    filters = filters or [None] * len(prompts)
    seeds = seeds if seeds is not None else range(len(prompts))
    lengths = [
        min(length, trie.n_items if leaf_filter is None else leaf_filter.n_eligible)
        for leaf_filter in filters
    ]
    # begin and end tokens are both there or neither is
    between = [token for token in (tokens.end, tokens.begin) if token is not None]
    longest = max(lengths, default=0)
    chain = max(longest * (trie.levels + len(between)) - len(between) - 1, 1)
    capacity = tree_tokens(beams, chain, f"lists of {longest} items", "lower --num-beams or --list")
    results: list[list[ItemList]] = [[] for _ in prompts]
    # a prompt without an item that it may be given needs no search
    prompts = [prompt if n_items else [] for prompt, n_items in zip(prompts, lengths, strict=True)]
    with evaluation_mode(model, prompts, chain) as model:
        decoder = Decoder.of(model, "it cannot write lists")
        arrays = trie_arrays(trie, model.device)
        columns = token_columns(tokens, model.device)
        widths = [beams] * trie.levels
        diversity = None
        if options.mmr:
            diversity = Diversity(options.mmr, arrays, codebook, model.device)
        for batch, tree in decoder.trees(prompts, capacity, token_budget):
            search = _ListSearch(
                arrays,
                [filters[index] for index in batch],
                [lengths[index] for index in batch],
                [seeds[index] for index in batch] if options.search == "gumbel" else None,
                diversity,
                model.device,
            )
            n_items = max(lengths[index] for index in batch)
            decoder.grow(
                tree, search, arrays, columns, normalize, widths, n_items=n_items, between=between
            )
            for row, index in enumerate(batch):
                results[index] = search.results(row, n_lists, trie, filters[index])
    return results


class _ListSearch:
    """The partial lists of one batch of prompts, all with the same number of items and of codes of
    the item that is being written.

    A path is closed by counting: a node stays open while more of its items are eligible than the
    list has. This is exact where items share a SID, which may then be written once per item."""

    def __init__(
        self,
        trie: TrieArrays,
        filters: Sequence[LeafFilter | None],
        lengths: Sequence[int],
        seeds: Sequence[int] | None,
        diversity: "Diversity | None",
        device: Any,
    ) -> None:
        """`lengths` are how many items the lists of each prompt have; behind them nothing counts.
        With `seeds`, ranks are draws; each prompt has a generator, whatever its batch."""
        batch = len(lengths)
        self._levels = trie.levels
        self._filters = FilterArrays(filters, trie, device)
        self._diversity = diversity
        self._lengths = torch.tensor(lengths, device=device)
        self._shortest = min(lengths)
        self._items = torch.zeros(batch, 1, 0, trie.levels, dtype=torch.long, device=device)
        """(batch, beams, items, levels): the nodes on the path of each whole item"""
        self._current = torch.zeros(batch, 1, 0, dtype=torch.long, device=device)
        """(batch, beams, depth): the nodes of the item that is being written"""
        self._scores = torch.zeros(batch, 1, device=device)
        """(batch, beams): sums of log-probabilities, minus infinity behind a closed path"""
        self._ranks = self._scores
        """(batch, beams): what the best are chosen by"""
        self._ends = self._scores.unsqueeze(-1)
        """(batch, beams, items + 1): the score in front of the first item and after each"""
        self._carried = torch.zeros_like(self._scores)
        """(batch, beams): penalties that stay subtracted from the rank; of draws, float64, the
        log-probability in the distribution that is drawn from"""
        self._generators = None
        if seeds is not None:
            self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            self._ranks = self._noise(self._scores)
            self._carried = torch.zeros_like(self._ranks)

    def rank(self, level: int, children: Children) -> torch.Tensor:
        """As `Search.rank`: by scores, less penalties, or by draws."""
        is_open = self._open(level, children)
        scores = self._scores.unsqueeze(-1) + children.log_probs
        ranks = scores = scores.masked_fill(~is_open, -torch.inf)
        # (batch, beams, fan-out) each: what follows the lists that are chosen
        carried = self._carried.unsqueeze(-1).expand_as(scores)
        if self._generators is not None:
            is_open = is_open & (self._ranks > -torch.inf).unsqueeze(-1)
            carried = carried + normalize_over_children(children.log_probs.double(), is_open)
            ranks = perturb_children(self._ranks, carried, is_open, self._noise(carried))
        elif self._diversity is not None:
            passing = self._diversity.penalties(self._items, self._current, children.codes)
            if level == self._levels - 1:  # the item is known
                carried = carried + passing
                ranks = scores - carried
            else:
                ranks = scores - carried - passing
        if self._shortest <= self._items.shape[2]:
            finished = self._lengths <= self._items.shape[2]
            scores = _first_if(finished, self._scores, scores)
            ranks = _first_if(finished, self._ranks, ranks)
        self._following = (scores, carried)
        return ranks

    def follow(
        self, level: int, nodes: torch.Tensor, ranks: torch.Tensor, best: torch.Tensor
    ) -> None:
        """As `Search.follow`."""
        scores, carried = self._following
        parents = best // scores.shape[-1]
        batch = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        self._items = self._items[batch, parents]
        self._current = torch.cat([self._current[batch, parents], nodes.unsqueeze(-1)], dim=-1)
        self._ends = self._ends[batch, parents]
        self._ranks = ranks
        self._scores = scores.flatten(1).gather(1, best)
        self._carried = carried.flatten(1).gather(1, best)
        if level == self._levels - 1:
            self._items = torch.cat([self._items, self._current.unsqueeze(2)], dim=2)
            self._current = self._current[..., :0]
            self._ends = torch.cat([self._ends, self._scores.unsqueeze(-1)], dim=-1)

    def results(
        self, row: int, n_lists: int, trie: Trie, leaf_filter: LeafFilter | None
    ) -> list[ItemList]:
        """The first `n_lists` lists of a prompt, cut to its length."""
        length = int(self._lengths[row])
        leaves = self._items[row, :n_lists, :length, -1].cpu().numpy()
        scores = self._ends[row, :n_lists].diff(dim=-1)[:, :length].cpu().numpy()
        ranks = self._ranks[row, :n_lists].float().cpu().numpy()
        check_scores(ranks)
        return [
            ItemList.of(leaves[beam], scores[beam], trie, leaf_filter)
            for beam in np.flatnonzero(np.isfinite(ranks))
        ]

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        """Float64 Gumbel noise of the shape of a (batch, ...) tensor."""
        assert self._generators is not None
        drawn = [gumbel_noise(like.shape[1:], generator) for generator in self._generators]
        return torch.stack(drawn).to(like.device)

    def _open(self, level: int, children: Children) -> torch.Tensor:
        """(batch, beams, fan-out) bool: which children of each list's node lead to an item that may
        be written."""
        nodes, valid = children.nodes, children.valid
        is_open = valid
        if self._filters.excludes:
            is_open = valid & (self._filters.eligible(level, nodes) > 0)
        if not self._items.shape[2]:
            return is_open
        # (batch, beams, items): the nodes of this level on the paths of the items written
        written = self._items[..., level]
        slots = written - nodes[..., :1]
        is_child = (slots >= 0) & (slots < nodes.shape[-1])
        slots = slots.clamp(0, nodes.shape[-1] - 1)
        is_child &= nodes.gather(-1, slots) == written
        is_child &= valid.gather(-1, slots)
        counts = (written.unsqueeze(-1) == written.unsqueeze(-2)).sum(-1)  # of each one's node
        used_up = is_child & (counts >= self._filters.eligible(level, written))
        closed = torch.zeros_like(nodes).scatter_add(-1, slots, used_up.long()) > 0
        return is_open & ~closed


def _first_if(
    finished: torch.Tensor, values: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """(batch, beams, fan-out) numbers of candidates; of the lists of (batch,) `finished` prompts,
    (batch, beams) `values` for the first candidate of each and minus infinity for the others."""
    only_first = torch.full_like(candidates, -torch.inf)
    only_first[..., 0] = values
    return torch.where(finished[:, None, None], only_first, candidates)


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
    distribution function, in the numerically stable form of appendix B.3 of the paper
    (W. Kool et al., stochastic beam search, arXiv:1903.06059)."""
    perturbed = (log_probs + noise).masked_fill(~valid, -torch.inf)
    largest = perturbed.amax(-1, keepdim=True)
    parents = parents.unsqueeze(-1)
    # log(1 - exp(perturbed - largest)) is minus infinity at the largest, which gets `parents`
    gaps = (perturbed - largest).masked_fill(~valid, -torch.inf)
    shifted = parents - perturbed + torch.log(-torch.expm1(gaps))
    values = parents - shifted.clamp_min(0) - torch.log1p(torch.exp(-shifted.abs()))
    return torch.where(valid, values, -torch.inf)


EPSILON = 1e-12
"""Smallest length of a vector that is divided by."""


class Diversity:
    """What lowers the rank of an item that resembles earlier items of its list. Scores stay those
    of the model."""

    def __init__(
        self, mmr: float, trie: TrieArrays, codebook: Codebook | None, device: Any
    ) -> None:
        """Raises UsageError if the bundle has no codebook."""
        if codebook is None:
            raise UsageError(
                "MMR compares items by the vectors of the codebook, and the bundle has none"
            )
        self._mmr = mmr
        self._trie = trie
        self._centroids: list[torch.Tensor] = []
        for level, size in enumerate(trie.sizes):
            centroids = torch.zeros(size, codebook.width, device=device)
            if level < len(codebook.levels):  # a level that only separates items has no vectors
                centroids[: len(codebook.levels[level])] = torch.from_numpy(codebook.levels[level])
            self._centroids.append(centroids)

    def penalties(
        self, items: torch.Tensor, current: torch.Tensor, codes: torch.Tensor
    ) -> torch.Tensor:
        """(batch, beams, fan-out): what is subtracted from the rank of candidates with these codes,
        by the largest cosine of the vector of each, or of its prefix, to that of an item of its
        list. Nodes are (batch, beams, items, levels) of the list's items and (batch, beams, depth)
        of the one that is being written."""
        if not items.shape[2]:
            return torch.zeros(codes.shape, device=codes.device)
        prefix = self._vectors(current)  # (batch, beams, width)
        written = self._vectors(items)  # (batch, beams, items, width)
        written = written / written.norm(dim=-1, keepdim=True).clamp_min(EPSILON)
        centroids = self._centroids[current.shape[2]]  # (size, width)
        # (batch, beams, size, items)
        products = centroids @ written.mT + (written @ prefix.unsqueeze(-1)).mT
        squares = prefix.square().sum(-1, keepdim=True) + centroids.square().sum(-1)
        squares = squares + 2 * prefix @ centroids.T  # (batch, beams, size)
        lengths = squares.clamp_min(EPSILON**2).sqrt()
        largest = products.amax(-1) / lengths
        return self._mmr * largest.gather(-1, codes)

    def _vectors(self, nodes: torch.Tensor) -> torch.Tensor:
        """(..., depth) nodes of paths -> (..., width): the sums of their centroids."""
        total = torch.zeros(*nodes.shape[:-1], self._centroids[0].shape[1], device=nodes.device)
        for level in range(nodes.shape[-1]):
            codes = self._trie.codes[level][nodes[..., level]].long()
            total = total + self._centroids[level][codes]
        return total
