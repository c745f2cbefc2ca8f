"""Search for lists: a beam is a partial list, and all beams of all items share one token tree.

A list of m items with L codes each takes the prefill of its prompt and m L - 1 steps. A step
appends one token per beam to the tree of its prompt, so the keys and values of items that partial
lists have in common are computed once. Where SIDs have begin and end tokens, the last code of an
item, the end token and the begin token of the next are one step.

Draws are those of stochastic beam search (W. Kool et al., arXiv:1903.06059) over the tree of lists:
without replacement, from the model's distribution renormalized over the paths that are open."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sidtool.base.errors import UsageError
from sidtool.model.positions import check_positions
from sidtool.model.prompt.tokens import SidTokens
from sidtool.recommendation.search.batching import batches, evaluation_mode
from sidtool.recommendation.search.beam import MAX_TREE_TOKENS, TOKEN_BUDGET
from sidtool.recommendation.search.beam_result import check_scores
from sidtool.recommendation.search.columns import TokenColumns, token_columns
from sidtool.recommendation.search.device_trie import (
    TrieArrays,
    normalize_over_children,
    trie_arrays,
)
from sidtool.recommendation.search.diversity import Diversity
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.item_list import ItemList
from sidtool.recommendation.search.list_options import ListOptions
from sidtool.recommendation.search.noise import gumbel_noise, perturb_children
from sidtool.recommendation.search.normalize import Normalize
from sidtool.recommendation.search.open_paths import OpenPaths
from sidtool.recommendation.search.partial_head import DecodingHead
from sidtool.recommendation.search.partial_lists import Candidates, PartialLists
from sidtool.recommendation.search.probe import decoding_method
from sidtool.recommendation.search.token_tree import TokenTree
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.quantize.codebook import Codebook


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
    tree_tokens = _tree_tokens(beams, max(lengths, default=0), trie.levels, len(between))
    results: list[list[ItemList]] = [[] for _ in prompts]
    # a prompt without an item that it may be given needs no search
    prompt_lengths = [
        len(prompt) if n_items else 0 for prompt, n_items in zip(prompts, lengths, strict=True)
    ]
    with evaluation_mode(model) as model:
        check_positions(model, max(prompt_lengths, default=0), tree_tokens // beams)
        head = _decoding_head(model)
        arrays = trie_arrays(trie, model.device)
        diversity = None
        if options.is_diversified:
            diversity = Diversity(options, arrays, codebook, model.device)
        for batch in batches(prompt_lengths, tree_tokens, token_budget):
            batch_prompts = [prompts[index] for index in batch]
            batch_filters = [filters[index] for index in batch]
            search = _ListSearch(
                tree=TokenTree.of(model, batch_prompts, capacity=tree_tokens, head=head),
                head=head,
                trie=arrays,
                columns=token_columns(tokens, model.device),
                between=between,
                lengths=[lengths[index] for index in batch],
                num_beams=beams,
                normalize=normalize,
                paths=OpenPaths(batch_filters, arrays, model.device),
                diversity=diversity,
                noise=_Noise.of(options, [seeds[index] for index in batch]),
            )
            lists = search.run()
            for row, index in enumerate(batch):
                results[index] = _best(
                    lists, row, lengths[index], n_lists, trie, batch_filters[row]
                )
    return results


def _decoding_head(model: Any) -> DecodingHead:
    """The head by which a model writes lists. Raises UsageError if no mask can steer it."""
    method = decoding_method(model)
    if method == "generate":
        raise UsageError(
            f"{type(model).__name__} does not support a 4-D attention mask: it cannot write lists"
        )
    return DecodingHead(model, sliced=method == "sliced")


def _tree_tokens(beams: int, length: int, levels: int, n_between: int) -> int:
    """The most tokens of one prompt's tree. Raises UsageError if that of so many beams would take
    gigabytes of memory."""
    chain = max(length * (levels + n_between) - n_between - 1, 1)
    if beams * chain > MAX_TREE_TOKENS:
        raise UsageError(
            f"{beams} beams are too many: {MAX_TREE_TOKENS // chain} fit into memory with lists of "
            f"{length} items",
            hint="lower --num-beams or --list",
        )
    return beams * chain


@dataclass(frozen=True, eq=False)
class _Noise:
    """The Gumbel noise of draws, one generator per prompt, so that draws do not depend on the
    batch."""

    generators: list[torch.Generator]
    temperature: float

    @classmethod
    def of(cls, options: ListOptions, seeds: Sequence[int]) -> "_Noise | None":
        """None for a search that does not draw."""
        if options.search != "gumbel":
            return None
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return cls(generators, options.temperature)

    def draw(self, shape: torch.Size) -> torch.Tensor:
        """(batch, ...) float64 noise."""
        return torch.stack([gumbel_noise(shape[1:], generator) for generator in self.generators])


@dataclass(frozen=True, eq=False)
class _ListSearch:
    """The search for the lists of one batch of prompts."""

    tree: TokenTree
    head: DecodingHead
    trie: TrieArrays
    columns: TokenColumns
    between: list[int]
    """the tokens between two SIDs"""
    lengths: list[int]
    """how many items the lists of each prompt have"""
    num_beams: int
    normalize: Normalize
    paths: OpenPaths
    diversity: Diversity | None
    noise: _Noise | None

    def run(self) -> PartialLists:
        """The lists of each prompt, best first; behind the length of a prompt nothing counts."""
        hidden = self.tree.prefill()  # (batch, 1, dim)
        device = hidden.device
        lists = PartialLists(len(self.lengths), self.trie.levels, device)
        if self.noise is not None:
            lists.start_draws(self.noise.draw(lists.scores.shape).to(device))
        lengths = torch.tensor(self.lengths, device=device)
        n_items = max(self.lengths)
        columns = self.columns.levels
        for item in range(n_items):
            finished = lengths <= item if min(self.lengths) <= item else None
            for level in range(self.trie.levels):
                candidates = self._candidates(lists, hidden)
                codes, parents = lists.extend(candidates, self.num_beams, finished)
                if level < self.trie.levels - 1:
                    hidden = self.tree.step(columns[level].ids(codes), parents)
            lists.close_item()
            if item < n_items - 1:
                hidden = self.tree.step(self._item_end(columns[-1].ids(codes)), parents)
                self.tree.prune()
        return lists

    def _item_end(self, ids: torch.Tensor) -> torch.Tensor:
        """(batch, beams) last tokens of items -> the same with the tokens before the next item."""
        if not self.between:
            return ids
        between = torch.tensor(self.between, device=ids.device).expand(*ids.shape, -1)
        return torch.cat([ids.unsqueeze(-1), between], dim=-1)  # (batch, beams, 1 + between)

    def _candidates(self, lists: PartialLists, hidden: torch.Tensor) -> Candidates:
        """The codes that may follow in each list, by (batch, beams, dim) hidden states."""
        level = lists.depth
        columns = self.columns.levels[level]
        log_probs = self.head.log_probs(hidden, columns.columns, self.normalize)
        # (batch, beams, fan-out) each
        nodes, codes, valid = self.trie.candidates(level, lists.nodes)
        steps = log_probs.gather(-1, columns.places(codes))
        if self.normalize == "trie":
            steps = normalize_over_children(steps, valid)
        is_open = self.paths.open(lists, nodes, valid)
        scores = lists.scores.unsqueeze(-1) + steps
        scores = scores.masked_fill(~is_open, -torch.inf)
        if self.noise is not None:
            log_probs, ranks = self._draw(lists, steps, is_open, self.noise)
            return Candidates(nodes, codes, scores, ranks, log_probs=log_probs)
        if self.diversity is not None:
            lasting, passing = self.diversity.penalties(lists, nodes, codes)
            return Candidates(nodes, codes, scores, scores - lasting - passing, penalties=lasting)
        return Candidates(nodes, codes, scores, scores)

    def _draw(
        self, lists: PartialLists, steps: torch.Tensor, is_open: torch.Tensor, noise: _Noise
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, beams, fan-out) each: the log-probabilities of the longer lists in the
        distribution that is drawn from, and the same perturbed."""
        assert lists.log_probs is not None
        is_open = is_open & (lists.ranks > -torch.inf).unsqueeze(-1)
        steps = normalize_over_children(steps.double() / noise.temperature, is_open)
        log_probs = lists.log_probs.unsqueeze(-1) + steps
        drawn = noise.draw(log_probs.shape).to(steps.device)
        return log_probs, perturb_children(lists.ranks, log_probs, is_open, drawn)


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
