"""Beam search over the trie of valid SIDs, as one growing token tree per prompt.

A SID has a fixed depth, so L levels take the prefill and L - 1 steps. Each step computes logits for
the level's codes only, and gathers the valid codes from the trie. All beams of a prompt share one
key-value cache. A score is the sum of L log-probabilities: no end token, no length penalty."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sidtool.base.errors import UsageError
from sidtool.model.positions import check_positions
from sidtool.model.prompt.tokens import SidTokens
from sidtool.recommendation.search.batching import batches, evaluation_mode
from sidtool.recommendation.search.beam_result import EMPTY_RESULT, BeamResult, best_leaves
from sidtool.recommendation.search.columns import LevelColumns, token_columns
from sidtool.recommendation.search.device_trie import (
    FilterArrays,
    TrieArrays,
    normalize_over_children,
    trie_arrays,
)
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.generate_fallback import generate_beams
from sidtool.recommendation.search.mixture import Prior, check_normalize
from sidtool.recommendation.search.mixture_arrays import MixtureArrays
from sidtool.recommendation.search.normalize import Normalize
from sidtool.recommendation.search.partial_head import DecodingHead
from sidtool.recommendation.search.probe import decoding_method
from sidtool.recommendation.search.target_prefixes import TargetPrefixes
from sidtool.recommendation.search.token_tree import TokenTree
from sidtool.tokenizer.bundle.trie import Trie

TOKEN_BUDGET = 1 << 14
"""Tokens, prompts and trees together, that run in one batch."""


MAX_TREE_TOKENS = 1 << 14
"""Tokens of one prompt's tree: its attention mask has the square of this number of values."""


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
    `priors`, one per prompt, the beam ranks by the mixture with a memory (`mixture.rank_items`
    then ranks the items). With `targets`, a leaf per prompt or -1, each result says after how many
    levels the target's prefix was among the beams. An empty prompt gets an empty result.

    Raises UsageError if `num_beams` or k is less than 1 or too large for a tree of MAX_TREE_TOKENS,
    or for priors where the model's scores are no distribution over items or its attention cannot be
    steered; DataError if a logit is NaN or a prompt is longer than the model's positions."""
    if num_beams < 1 or k < 1:
        raise UsageError(f"num_beams and k must be at least 1, not {num_beams} and {k}")
    num_beams = min(max(num_beams, k), trie.n_leaves)
    check_tree_tokens(num_beams, trie.levels)
    filters = filters or [None] * len(prompts)
    targets = targets if targets is not None else [-1] * len(prompts)
    priors = priors if priors is not None and any(priors) else None
    if priors is not None:
        check_normalize(normalize)
    results = [EMPTY_RESULT] * len(prompts)
    lengths = [len(prompt) for prompt in prompts]
    tree_tokens = num_beams * (trie.levels - 1)
    with evaluation_mode(model) as model:
        check_positions(model, max(lengths, default=0), trie.levels - 1)
        method = decoding_method(model)
        search = None
        if method != "generate":
            head = DecodingHead(model, sliced=method == "sliced")
            arrays = trie_arrays(trie, model.device)
            search = _TreeSearch(model, head, trie, arrays, tokens, num_beams, normalize)
        elif priors is not None:
            raise UsageError(
                f"{type(model).__name__} does not support a 4-D attention mask: it cannot be mixed "
                "with a memory"
            )
        for batch in batches(lengths, tree_tokens, token_budget):
            batch_prompts = [prompts[index] for index in batch]
            batch_filters = [filters[index] for index in batch]
            batch_targets = [targets[index] for index in batch]
            if search is None:
                batch_results = generate_beams(
                    model,
                    batch_prompts,
                    trie,
                    tokens,
                    num_beams,
                    k,
                    normalize,
                    batch_filters,
                    batch_targets,
                )
            else:
                batch_priors = None if priors is None else [priors[index] for index in batch]
                batch_results = search.run(
                    batch_prompts, batch_filters, batch_priors, batch_targets, k
                )
            for index, result in zip(batch, batch_results, strict=True):
                results[index] = result
    return results


def check_tree_tokens(num_beams: int, levels: int) -> None:
    """Raise UsageError if the tree of so many beams would take gigabytes of memory."""
    if num_beams * (levels - 1) > MAX_TREE_TOKENS:
        raise UsageError(
            f"{num_beams} beams are too many: {MAX_TREE_TOKENS // (levels - 1)} fit into memory "
            f"with SIDs of {levels} levels",
            hint="lower -k and --num-beams; --candidates scores any number of items exactly",
        )


@dataclass(frozen=True, eq=False)
class _TreeSearch:
    """Beam search on token trees, one batch of prompts at a time."""

    model: Any
    head: DecodingHead
    catalog: Trie
    trie: TrieArrays
    tokens: SidTokens
    num_beams: int
    normalize: Normalize

    def run(
        self,
        prompts: Sequence[Sequence[int]],
        filters: Sequence[LeafFilter | None],
        priors: Sequence[Prior | None] | None,
        targets: Sequence[int],
        k: int,
    ) -> list[BeamResult]:
        """The k best leaves of each prompt."""
        levels = self.trie.levels
        device = self.model.device
        columns_of_levels = token_columns(self.tokens, device).levels
        filter_arrays = FilterArrays(filters, self.trie, device) if any(filters) else None
        mixture = None
        if priors is not None:
            mixture = MixtureArrays(priors, filters, self.catalog, self.trie, device)
        followed = None
        if max(targets) >= 0:
            followed = TargetPrefixes(targets, self.catalog, device)
        tree = TokenTree.of(
            self.model, prompts, capacity=self.num_beams * (levels - 1), head=self.head
        )
        nodes = torch.zeros(len(prompts), 1, dtype=torch.long, device=device)  # the root
        scores = torch.zeros(len(prompts), 1, device=device)
        if mixture is not None:
            scores = mixture.log_model
        hidden = tree.prefill()  # (batch, 1, dim)
        for level, columns in enumerate(columns_of_levels):
            log_probs = self.head.log_probs(hidden, columns.columns, self.normalize)
            nodes, codes, scores, ranks, parents = self._advance(
                level, columns, nodes, scores, log_probs, filter_arrays, mixture
            )
            if followed is not None:
                followed.update(level, nodes, ranks)
            if level < levels - 1:
                hidden = tree.step(columns.ids(codes), parents)  # (batch, beams, dim)
        if mixture is not None:
            scores = scores - mixture.log_model
        survived = [0] * len(prompts) if followed is None else followed.survived.tolist()
        # (batch, beams) each; the nodes of the last level are leaves
        leaf_rows, rank_rows, score_rows = (
            tensor.cpu().numpy() for tensor in (nodes, ranks, scores)
        )
        return [
            best_leaves(leaf_rows[row], rank_rows[row], k, score_rows[row])._replace(
                survived=survived[row]
            )
            for row in range(len(prompts))
        ]

    def _advance(
        self,
        level: int,
        columns: LevelColumns,
        nodes: torch.Tensor,
        scores: torch.Tensor,
        log_probs: torch.Tensor,
        filter_arrays: FilterArrays | None,
        mixture: MixtureArrays | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best children of (batch, beams) nodes: their ids, codes, scores by the model and
        ranks by the mixture, and the index of the beam that each extends."""
        # (batch, beams, fan-out) each
        children, codes, valid = self.trie.candidates(level, nodes)
        log_probs = log_probs.gather(-1, columns.places(codes))
        if self.normalize == "trie":
            log_probs = normalize_over_children(log_probs, valid)
        if filter_arrays is not None:
            valid &= filter_arrays.eligible(level, children) > 0
        totals = scores.unsqueeze(-1) + log_probs
        totals = totals.masked_fill_(~valid, -torch.inf)
        is_last = level == self.trie.levels - 1
        if mixture is not None and is_last and self.trie.log_size is not None:
            # items share the probability of their SID, where a memory tells them apart
            totals -= self.trie.log_size[children] * mixture.is_mixed[:, None, None]
        totals = totals.flatten(1)  # (batch, beams * fan-out)
        beams = min(self.num_beams, len(self.trie.codes[level]), totals.shape[1])
        if mixture is None:
            ranks, best = totals.topk(beams)  # best: (batch, beams), indexes into beams * fan-out
            scores = ranks
        else:
            ranks, best = mixture.add_to(totals, level, children.shape[-1]).topk(beams)
            scores = totals.gather(1, best)
            if not is_last:
                mixture.follow(best)
        nodes = children.flatten(1).gather(1, best)
        codes = codes.flatten(1).gather(1, best)
        parents = best // children.shape[-1]
        return nodes, codes, scores, ranks, parents
