"""Exact scores of given SIDs: for reranking, and for items that beam search never reaches.

Beam search does not emit a SID that no training history contains; scoring candidates ranks it all
the same. Prefixes that candidates share are computed once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.model.positions import check_positions
from sidtool.model.prompt.tokens import SidTokens
from sidtool.recommendation.search.batching import batches, evaluation_mode
from sidtool.recommendation.search.beam import TOKEN_BUDGET
from sidtool.recommendation.search.columns import LevelColumns, token_columns
from sidtool.recommendation.search.device_trie import TrieArrays, trie_arrays
from sidtool.recommendation.search.normalize import Normalize
from sidtool.recommendation.search.partial_head import DecodingHead
from sidtool.recommendation.search.probe import decoding_method
from sidtool.recommendation.search.token_tree import TokenTree
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.sid import Codes

CANDIDATES = 512
"""Candidates whose trees grow together: the mask of a step is quadratic in their number."""


@torch.no_grad()
def score_sids(
    model: Any,
    prompts: Sequence[Sequence[int]],
    candidates: Codes,
    tokens: SidTokens,
    *,
    normalize: Normalize = "level",
    trie: Trie | None = None,
) -> NDArray[np.float32]:
    """(prompts, candidates) float32: the log-probability of each of (m, levels) candidate SIDs
    after each prompt.

    Candidates come in any order and may repeat. A score equals that of `beam_search` where the beam
    finds the SID. It is minus infinity after an empty prompt and, with `normalize` "trie", which
    requires the catalog's `trie`, for a SID that is not in it. Raises UsageError if the trie is
    missing, a code is out of range or has no token, or a mask cannot steer the model's attention,
    DataError if a prompt is longer than the model's positions."""
    if normalize == "trie" and trie is None:
        raise UsageError("scores normalized over the trie need the trie")
    tokens.space.check(candidates)
    lacking = np.flatnonzero(tokens.lacking(candidates))
    if len(lacking):
        raise UsageError(
            f"{len(lacking)} candidates have a code without a token in the model, the first is "
            f"{tokens.space.spell(candidates[lacking[0]])}"
        )
    keys = tokens.space.pack(candidates)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    distinct = candidates[first]  # (d, levels), sorted
    scores = np.full((len(prompts), len(distinct)), -np.inf, dtype=np.float32)
    lengths = [len(prompt) for prompt in prompts]
    with evaluation_mode(model) as model:
        check_positions(model, max(lengths, default=0), tokens.space.levels - 1)
        method = decoding_method(model)
        if method == "generate":
            raise UsageError(
                f"{type(model).__name__} does not support a 4-D attention mask: it cannot score "
                "candidates"
            )
        head = DecodingHead(model, sliced=method == "sliced")
        catalog = None
        if trie is not None and normalize == "trie":
            catalog = trie_arrays(trie, model.device)
        capacity = min(CANDIDATES, len(distinct)) * (tokens.space.levels - 1)
        for batch in batches(lengths, capacity, TOKEN_BUDGET):
            tree = TokenTree.of(
                model, [prompts[index] for index in batch], capacity=capacity, head=head
            )
            scores[batch] = _score_batch(tree, head, distinct, tokens, normalize, catalog)
    return scores[:, inverse]


def _score_batch(
    tree: TokenTree,
    head: DecodingHead,
    codes: Codes,
    tokens: SidTokens,
    normalize: Normalize,
    catalog: TrieArrays | None,
) -> NDArray[np.float32]:
    """(batch, m) scores of (m, levels) sorted distinct codes."""
    prefilled = tree.prefill()
    parts = [np.zeros((len(prefilled), 0), dtype=np.float32)]
    for start in range(0, len(codes), CANDIDATES):
        trie = Trie.from_codes(codes[start : start + CANDIDATES], tokens.space.sizes)
        scores = _score_trie(tree, head, prefilled, trie, tokens, normalize, catalog)
        parts.append(scores.cpu().numpy())
        tree.rewind()
    return np.concatenate(parts, axis=1)


def _score_trie(
    tree: TokenTree,
    head: DecodingHead,
    prefilled: torch.Tensor,
    trie: Trie,
    tokens: SidTokens,
    normalize: Normalize,
    catalog: TrieArrays | None,
) -> torch.Tensor:
    """(batch, leaves) scores: grow the whole trie of candidates on each prompt, level by level."""
    device = prefilled.device
    batch = len(prefilled)
    hidden = prefilled  # (batch, nodes above, dim)
    scores = torch.zeros(batch, 1, device=device)
    catalog_nodes = torch.zeros(1, dtype=torch.long, device=device)  # the catalog's root
    for level, columns in enumerate(token_columns(tokens, device).levels):
        # (batch, nodes above, columns)
        log_probs = head.log_probs(hidden, columns.columns, normalize)
        pointers = torch.from_numpy(trie.children[level]).to(device).long()
        above = torch.arange(len(pointers) - 1, device=device)
        parents = above.repeat_interleave(pointers.diff())  # (nodes,)
        codes = torch.from_numpy(trie.codes[level]).to(device).long()  # (nodes,)
        step = log_probs[:, parents, columns.places(codes)]  # (batch, nodes)
        if catalog is not None:
            normalizer = _children_logsumexp(log_probs, columns, catalog, level, catalog_nodes)
            catalog_nodes, exists = catalog.child(level, catalog_nodes[parents], codes)
            step = (step - normalizer[:, parents]).masked_fill(~exists, -torch.inf)
        scores = scores[:, parents] + step
        if level < trie.levels - 1:
            ids = columns.ids(codes).expand(batch, -1)
            hidden = tree.step(ids, parents.expand(batch, -1))
    return scores


def _children_logsumexp(
    log_probs: torch.Tensor,
    columns: LevelColumns,
    catalog: TrieArrays,
    level: int,
    nodes: torch.Tensor,
) -> torch.Tensor:
    """(batch, nodes) log of the probability that (batch, nodes, columns) log-probabilities give to
    the children of (nodes,) prefixes of the catalog."""
    _, codes, valid = catalog.candidates(level, nodes.unsqueeze(0))  # (1, nodes, fan-out)
    places = columns.places(codes)
    child_log_probs = log_probs.gather(-1, places.expand(len(log_probs), -1, -1))
    return child_log_probs.masked_fill(~valid, -torch.inf).logsumexp(-1)
