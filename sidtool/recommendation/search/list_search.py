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
from sidtool.recommendation.search.partial_lists import Diversity, PartialLists
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

    Raises UsageError if a number is less than 1, the tree is too large or the model's attention
    cannot be steered; DataError if a logit is NaN or a prompt and its list are longer than the
    model's positions."""
    if min(length, num_beams, n_lists) < 1:
        raise UsageError(
            f"length, num_beams and n_lists must be at least 1, not {length}, {num_beams}, "
            f"{n_lists}"
        )
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
        diversity = None
        if options.mmr:
            diversity = Diversity(options.mmr, arrays, codebook, model.device)
        for batch, tree in decoder.trees(prompts, capacity, token_budget):
            batch_filters = [filters[index] for index in batch]
            batch_lengths = [lengths[index] for index in batch]
            search = _ListSearch(
                arrays,
                batch_lengths,
                OpenPaths(batch_filters, arrays, model.device),
                diversity,
                _Noise([seeds[index] for index in batch]) if options.search == "gumbel" else None,
                model.device,
            )
            decoder.grow(
                tree,
                search,
                arrays,
                columns,
                normalize,
                [beams] * trie.levels,
                n_items=max(batch_lengths),
                between=between,
            )
            for row, index in enumerate(batch):
                results[index] = _best(
                    search.lists, row, lengths[index], n_lists, trie, batch_filters[row]
                )
    return results


class _Noise:
    """The Gumbel noise of draws, one generator per prompt, so that draws do not depend on the
    batch."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self, shape: torch.Size) -> torch.Tensor:
        """(batch, ...) float64 noise."""
        return torch.stack([gumbel_noise(shape[1:], generator) for generator in self._generators])


class _ListSearch:
    """The partial lists of one batch of prompts."""

    def __init__(
        self,
        trie: TrieArrays,
        lengths: Sequence[int],
        paths: "OpenPaths",
        diversity: Diversity | None,
        noise: _Noise | None,
        device: Any,
    ) -> None:
        """`lengths` are how many items the lists of each prompt have; behind them nothing
        counts."""
        self.lists = PartialLists(len(lengths), trie.levels, device)
        if noise is not None:
            self.lists.start_draws(noise.draw(self.lists.scores.shape).to(device))
        self._levels = trie.levels
        self._lengths = torch.tensor(lengths, device=device)
        self._shortest = min(lengths)
        self._paths = paths
        self._diversity = diversity
        self._noise = noise

    def rank(self, level: int, children: Children) -> torch.Tensor:
        """As `Search.rank`: by scores, less penalties, or by draws."""
        lists = self.lists
        is_open = self._paths.open(lists, children.nodes, children.valid)
        scores = lists.scores.unsqueeze(-1) + children.log_probs
        ranks = scores = scores.masked_fill(~is_open, -torch.inf)
        # (batch, beams, fan-out) each: what follows the lists that are chosen
        self._penalties = self._log_probs = None
        if self._noise is not None:
            self._log_probs, ranks = self._draw(children.log_probs, is_open, self._noise)
        elif self._diversity is not None:
            lasting, passing = self._diversity.penalties(lists, children.codes)
            ranks = scores - lasting - passing
            self._penalties = lasting
        self._scores = scores
        if self._shortest <= lists.n_items:
            finished = self._lengths <= lists.n_items
            self._scores = _first_if(finished, lists.scores, scores)
            ranks = _first_if(finished, lists.ranks, ranks)
        return ranks

    def follow(
        self, level: int, nodes: torch.Tensor, ranks: torch.Tensor, best: torch.Tensor
    ) -> None:
        """As `Search.follow`."""
        lists = self.lists
        lists.extend(best // self._scores.shape[-1], nodes)
        lists.ranks = ranks
        lists.scores = self._scores.flatten(1).gather(1, best)
        if self._penalties is not None:
            lists.penalties = self._penalties.flatten(1).gather(1, best)
        if self._log_probs is not None:
            lists.log_probs = self._log_probs.flatten(1).gather(1, best)
        if level == self._levels - 1:
            lists.close_item()

    def _draw(
        self, steps: torch.Tensor, is_open: torch.Tensor, noise: _Noise
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, beams, fan-out) each: the log-probabilities of the longer lists in the
        distribution that is drawn from, and the same perturbed."""
        assert self.lists.log_probs is not None
        is_open = is_open & (self.lists.ranks > -torch.inf).unsqueeze(-1)
        steps = normalize_over_children(steps.double(), is_open)
        log_probs = self.lists.log_probs.unsqueeze(-1) + steps
        drawn = noise.draw(log_probs.shape).to(steps.device)
        return log_probs, perturb_children(self.lists.ranks, log_probs, is_open, drawn)


def _first_if(
    finished: torch.Tensor, values: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """(batch, beams, fan-out) numbers of candidates; of the lists of (batch,) `finished` prompts,
    (batch, beams) `values` for the first candidate of each and minus infinity for the others."""
    only_first = torch.full_like(candidates, -torch.inf)
    only_first[..., 0] = values
    return torch.where(finished[:, None, None], only_first, candidates)


class OpenPaths:
    """Which codes may follow in a list: those below which an item is left that the list lacks.

    A path is closed by counting: a node stays open while more of its items are eligible than the
    list has. This is exact where items share a SID, which may then be written once per item."""

    def __init__(
        self, filters: Sequence[LeafFilter | None], trie: TrieArrays, device: torch.device
    ):
        self._filters = FilterArrays(filters, trie, device)
        self._has_filters = any(leaf_filter is not None for leaf_filter in filters)

    def open(
        self, lists: PartialLists, children: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        """(batch, beams, fan-out) bool: which children of each list's node lead to an item that may
        be written; `valid` says which of them are children."""
        level = lists.depth
        is_open = valid
        if self._has_filters:
            is_open = valid & (self._filters.eligible(level, children) > 0)
        if not lists.n_items:
            return is_open
        # (batch, beams, items): the nodes of this level on the paths of the items written
        written = lists.items[..., level]
        slots = written - children[..., :1]
        is_child = (slots >= 0) & (slots < children.shape[-1])
        slots = slots.clamp(0, children.shape[-1] - 1)
        is_child &= children.gather(-1, slots) == written
        is_child &= valid.gather(-1, slots)
        counts = (written.unsqueeze(-1) == written.unsqueeze(-2)).sum(-1)  # of each one's node
        used_up = is_child & (counts >= self._filters.eligible(level, written))
        closed = torch.zeros_like(children).scatter_add(-1, slots, used_up.long()) > 0
        return is_open & ~closed


def _best(
    lists: PartialLists,
    row: int,
    length: int,
    n_lists: int,
    trie: Trie,
    leaf_filter: LeafFilter | None,
) -> list[ItemList]:
    """The first `n_lists` lists of a prompt, cut to its length."""
    leaves = lists.items[row, :n_lists, :length, -1].cpu().numpy()
    scores = lists.item_scores[row, :n_lists, :length].cpu().numpy()
    ranks = lists.ranks[row, :n_lists].float().cpu().numpy()
    check_scores(ranks)
    return [
        ItemList.of(leaves[beam], scores[beam], trie, leaf_filter)
        for beam in range(len(leaves))
        if np.isfinite(ranks[beam])
    ]


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
