"""The decoder: beam search over the trie of legal SIDs, as one growing token tree a prompt.

Knows prompts, levels and scores; knows nothing of items. A SID has a fixed depth, so L levels need
the prefill and L - 1 steps; logits are computed for the level's codes only, one cache serves all
beams of a prompt, and the legal codes come from the trie by gathers. The score is the sum of the L
log-probabilities: no end token, no length penalty."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.bundle.trie import Trie
from sidtool.errors import DataError, UsageError
from sidtool.prompt.tokens import SidTokens
from sidtool.recommend import generate_fallback as plain
from sidtool.recommend.filters import LeafFilter
from sidtool.recommend.kernels import fast_linear
from sidtool.recommend.partial_head import Head, Normalize
from sidtool.recommend.probe import way
from sidtool.recommend.tree import TreeRun
from sidtool.recommend.trie_arrays import FilterArrays, TrieArrays, over_children, trie_arrays

TOKEN_BUDGET = 1 << 14
"""Tokens, prompts and trees together, that are run in one batch."""


class Found(NamedTuple):
    """The best SIDs of one prompt: leaves (m,) int64 of the trie and their scores (m,) float32,
    best first."""

    leaves: NDArray[np.int64]
    scores: NDArray[np.float32]


@torch.no_grad()
def beam_search(
    model: Any,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    tokens: SidTokens,
    *,
    width: int,
    k: int,
    normalize: Normalize = "level",
    filters: Sequence[LeafFilter | None] | None = None,
    token_budget: int = TOKEN_BUDGET,
) -> list[Found]:
    """The k best SIDs of each prompt: token ids that end where the first code is to follow.

    `width` beams are kept at each level, more where k asks for more; k SIDs come back whenever k
    may be given. `normalize`: "level" makes each step a distribution over the level's codes;
    "vocabulary" over all tokens, which gives exactly the scores of `generate`. Both keep the
    probability of codes that no item has. "trie" makes it one over the codes that the catalog goes
    on with, so that the probabilities of all SIDs sum to one: for models that learned so
    (`softmax_over=trie`); with others it favors prefixes with few children. `filters`, one a prompt,
    exclude items exactly and change no score. After a prompt without a token a model says nothing:
    none is found for it.

    Raises UsageError on a width below 1, DataError if the model's logits are not numbers.
    """
    if width < 1 or k < 1:
        raise UsageError(f"width and k are at least 1, not {width} and {k}")
    width = min(max(width, k), trie.n_leaves)
    filters = filters or [None] * len(prompts)
    found = [Found(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))] * len(prompts)
    with evaluating(model) as model:
        how = way(model)
        head = Head(model, sliced=how == "sliced") if how != "generate" else None
        for batch in batches(
            [len(prompt) for prompt in prompts], width * (trie.levels - 1), token_budget
        ):
            asked, limits = [prompts[i] for i in batch], [filters[i] for i in batch]
            if head is None:
                answers = plain.beam_search(model, asked, trie, tokens, width, k, normalize, limits)
            else:
                leaves, scores = _Search(model, head, trie, tokens, width, normalize).run(
                    asked, limits
                )
                answers = [best(*one, k) for one in zip(leaves, scores, strict=True)]
            for i, answer in zip(batch, answers, strict=True):
                found[i] = answer
    return found


class _Search:
    """What the levels of one batch share."""

    def __init__(
        self,
        model: Any,
        head: Head,
        trie: Trie,
        tokens: SidTokens,
        width: int,
        normalize: Normalize,
    ) -> None:
        self.model, self.head, self.width, self.normalize = model, head, width, normalize
        self.trie: TrieArrays = trie_arrays(trie, model.device)
        self.starts = tokens.level_starts.tolist()

    def run(
        self, prompts: Sequence[Sequence[int]], filters: Sequence[LeafFilter | None]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(batch, m) leaves and scores, best first; a score of minus infinity is no result."""
        levels, device = self.trie.levels, self.model.device
        masks = FilterArrays(filters, self.trie, device) if any(filters) else None
        run = TreeRun(self.model, prompts, room=self.width * (levels - 1), head=self.head)
        nodes = torch.zeros(len(prompts), 1, dtype=torch.long, device=device)
        scores = torch.zeros(len(prompts), 1, device=device)
        hidden = run.prefill()
        for level in range(levels):
            start = self.starts[level]
            logs = self.head.log_probs(
                hidden, start, start + self.trie.sizes[level], self.normalize
            )
            nodes, codes, scores, parents = self._advance(level, nodes, scores, logs, masks)
            if level < levels - 1:
                hidden = run.step(codes + start, parents)
        return nodes.cpu().numpy(), scores.cpu().numpy()

    def _advance(
        self,
        level: int,
        nodes: torch.Tensor,
        scores: torch.Tensor,
        logs: torch.Tensor,
        masks: FilterArrays | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best children of (batch, beams) nodes: their ids, codes, scores, and the beam that
        each comes from."""
        children, codes, legal = self.trie.candidates(level, nodes)  # (batch, beams, fan-out) each
        logs = logs.gather(-1, codes)
        if self.normalize == "trie":
            logs = over_children(logs, legal)
        if masks is not None:
            legal &= masks.alive(level, children)
        totals = scores.unsqueeze(-1) + logs
        totals = totals.masked_fill_(~legal, -torch.inf).flatten(1)  # (batch, beams * fan-out)
        width = min(self.width, len(self.trie.codes[level]), totals.shape[1])
        scores, places = totals.topk(width)
        nodes, codes = (array.flatten(1).gather(1, places) for array in (children, codes))
        return nodes, codes, scores, places // children.shape[-1]


def best(leaves: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Found:
    """The k best of (m,) leaves, equal scores in SID order. Raises DataError if a score is not a
    number."""
    if np.isnan(scores).any():
        raise DataError(
            "the model's logits are not numbers (NaN)", hint="load it in float32 or bfloat16"
        )
    order = np.lexsort((leaves, -scores))[:k]
    order = order[np.isfinite(scores[order])]
    return Found(leaves[order], scores[order])


def batches(lengths: Sequence[int], tree: int, token_budget: int) -> Iterator[list[int]]:
    """Prompts of similar length together, by place, so many that prompts and trees stay within the
    budget; no empty ones."""
    batch: list[int] = []
    for place in sorted((i for i in range(len(lengths)) if lengths[i]), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * (lengths[batch[0]] + tree) > token_budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


@contextmanager
def evaluating(model: Any) -> Iterator[Any]:
    """The bare model in eval mode: an adapter's wrapper comes off (its layers stay), and the mode
    is put back after.

    Its linear layers take the faster of this machine's libraries.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    training = [module for module in bare.modules() if module.training]
    if training:
        bare.eval()
    try:
        with fast_linear(bare):
            yield bare
    finally:
        for module in training:
            module.training = True
