"""Search for lists: a beam is a partial list, and all beams of all items share one token tree.

A list of m items with L codes each takes the prefill of its prompt and m L - 1 steps. A step
appends one token per beam to the tree of its prompt, so the keys and values of items that partial
lists have in common are computed once. Where SIDs have begin and end tokens, the last code of an
item, the end token and the begin token of the next are one step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation.search.device_trie import FilterArrays, TrieArrays, trie_arrays
from sidtool.recommendation.search.driver import TOKEN_BUDGET, Decoder, evaluation_mode, tree_tokens
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.results import ItemList, Normalize, check_scores
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
    normalize: Normalize = "level",
    filters: Sequence[LeafFilter | None] | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> list[list[ItemList]]:
    """The `n_lists` best lists of `length` items after each prompt, which are token ids that end
    where a SID begins; best first.

    A list has `length` items, or all that its filter leaves if they are fewer; lists are distinct
    as sequences of SIDs. `num_beams` partial lists survive each step, `n_lists` if that is more.
    `normalize` is as in `beam_search`, and `filters`, one per prompt, exclude items and change no
    score. An empty prompt gets no list.

    Raises UsageError if the tree is too large or the model's attention cannot be steered;
    DataError if a logit is NaN or a prompt and its list are longer than the model's positions."""
    beams = max(num_beams, n_lists)
    filters = filters or [None] * len(prompts)
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
        widths = [beams] * trie.levels
        for batch, tree in decoder.trees(prompts, capacity, token_budget):
            search = _ListSearch(
                arrays, [filters[index] for index in batch], [lengths[index] for index in batch]
            )
            n_items = max(lengths[index] for index in batch)
            decoder.grow(
                tree, search, arrays, tokens, normalize, widths, n_items=n_items, between=between
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
        self, trie: TrieArrays, filters: Sequence[LeafFilter | None], lengths: Sequence[int]
    ) -> None:
        """`lengths` are how many items the lists of each prompt have; behind them nothing
        counts."""
        batch, device = len(lengths), trie.device
        self._levels = trie.levels
        self._filters = FilterArrays(filters, trie)
        self._lengths = torch.tensor(lengths, device=device)
        self._shortest = min(lengths)
        self._items = torch.zeros(batch, 1, 0, trie.levels, dtype=torch.long, device=device)
        """(batch, beams, items, levels): the nodes on the path of each whole item"""
        self._current = torch.zeros(batch, 1, 0, dtype=torch.long, device=device)
        """(batch, beams, depth): the nodes of the item that is being written"""
        self._scores = torch.zeros(batch, 1, device=device)
        """(batch, beams): sums of log-probabilities, minus infinity behind a closed path"""
        self._ends = self._scores.unsqueeze(-1)
        """(batch, beams, items + 1): the score in front of the first item and after each"""

    def rank(
        self, level: int, nodes: torch.Tensor, valid: torch.Tensor, log_probs: torch.Tensor
    ) -> torch.Tensor:
        """As `Search.rank`: by scores of the children that lead to an item which may be written."""
        is_open = valid
        if self._filters.excludes:
            is_open = valid & (self._filters.eligible(level, nodes) > 0)
        n_written = self._items.shape[2]
        if n_written:
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
            is_open = is_open & ~closed
        scores = self._scores.unsqueeze(-1) + log_probs
        scores = scores.masked_fill(~is_open, -torch.inf)
        if self._shortest <= n_written:
            # a list that is finished goes on as its first child, with the score that it has
            finished = (self._lengths <= n_written)[:, None, None]
            only_first = torch.full_like(scores, -torch.inf)
            only_first[..., 0] = self._scores
            scores = torch.where(finished, only_first, scores)
        self._fan_out = scores.shape[-1]
        return scores

    def follow(
        self, level: int, nodes: torch.Tensor, ranks: torch.Tensor, best: torch.Tensor
    ) -> None:
        """As `Search.follow`."""
        parents = best // self._fan_out  # (batch, new beams)
        rows = torch.arange(len(parents), device=parents.device).unsqueeze(1)  # (batch, 1)
        self._items = self._items[rows, parents]
        self._current = torch.cat([self._current[rows, parents], nodes.unsqueeze(-1)], dim=-1)
        self._ends = self._ends[rows, parents]
        self._scores = ranks
        if level == self._levels - 1:  # the item is whole
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
        totals = self._scores[row, :n_lists].float().cpu().numpy()
        check_scores(totals)
        return [
            ItemList.of(leaves[beam], scores[beam], trie, leaf_filter)
            for beam in np.flatnonzero(np.isfinite(totals))
        ]
