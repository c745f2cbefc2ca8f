"""Exact scores of given SIDs: for reranking, and for items that beam search never reaches.

Beam search does not emit a SID that no training history contains; scoring candidates ranks it all
the same. Prefixes that candidates share are computed once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation.search.columns import TokenColumns, token_columns
from sidtool.recommendation.search.device_trie import TrieArrays, trie_arrays
from sidtool.recommendation.search.driver import TOKEN_BUDGET, Decoder, evaluation_mode
from sidtool.recommendation.search.partial_head import DecodingHead
from sidtool.recommendation.search.results import Normalize
from sidtool.recommendation.search.token_tree import TokenTree
from sidtool.tokenizer.bundle import Trie
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
    finds the SID. It is minus infinity after an empty prompt, for a SID with a code without a token
    and, with `normalize` "trie", which requires the catalog's `trie`, for one that is not in it.
    Raises UsageError if a mask cannot steer the model's attention, DataError if a prompt is longer
    than the model's positions."""
    keys = tokens.space.pack(candidates)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    distinct = candidates[first]  # (d, levels), sorted
    scores = np.full((len(prompts), len(distinct)), -np.inf, dtype=np.float32)
    with evaluation_mode(model, prompts, tokens.space.levels - 1) as model:
        decoder = Decoder.of(model, "it cannot score candidates")
        columns = token_columns(tokens, model.device)
        catalog = None
        if trie is not None and normalize == "trie":
            catalog = trie_arrays(trie, model.device)
        tries = {
            start: Trie.from_codes(distinct[start : start + CANDIDATES], tokens.space.sizes)
            for start in range(0, len(distinct), CANDIDATES)
        }
        capacity = min(CANDIDATES, len(distinct)) * (tokens.space.levels - 1)
        for batch, tree in decoder.trees(prompts, capacity, TOKEN_BUDGET):
            prefilled = tree.prefill()
            for start, chunk in tries.items():
                chunk_scores = _score(
                    tree, decoder.head, prefilled, chunk, columns, normalize, catalog
                )
                scores[batch, start : start + chunk.n_leaves] = chunk_scores.cpu().numpy()
                tree.rewind()
    scores[:, tokens.lacking(distinct)] = -np.inf
    return scores[:, inverse]


def _score(
    tree: TokenTree,
    head: DecodingHead,
    prefilled: torch.Tensor,
    trie: Trie,
    columns: TokenColumns,
    normalize: Normalize,
    catalog: TrieArrays | None,
) -> torch.Tensor:
    """(batch, leaves) scores: grow the whole trie of candidates on each prompt, level by level."""
    device = prefilled.device
    batch = len(prefilled)
    hidden = prefilled  # (batch, nodes above, dim)
    scores = torch.zeros(batch, 1, device=device)
    catalog_nodes = torch.zeros(1, dtype=torch.long, device=device)  # the catalog's root
    for level, level_columns in enumerate(columns.levels):
        # (batch, nodes above, columns)
        log_probs = head.log_probs(hidden, level_columns.columns, normalize)
        pointers = torch.from_numpy(trie.children[level]).to(device).long()
        above = torch.arange(len(pointers) - 1, device=device)
        parents = above.repeat_interleave(pointers.diff())  # (nodes,)
        codes = torch.from_numpy(trie.codes[level]).to(device).long()  # (nodes,)
        node_log_probs = log_probs[:, parents, level_columns.places(codes)]  # (batch, nodes)
        if catalog is not None:
            # of the probability that each node gives to its children in the catalog
            _, children, valid = catalog.candidates(level, catalog_nodes.unsqueeze(0))
            places = level_columns.places(children).expand(batch, -1, -1)  # (batch, nodes, fan-out)
            child_log_probs = log_probs.gather(-1, places).masked_fill(~valid, -torch.inf)
            normalizer = child_log_probs.logsumexp(-1)  # (batch, nodes above)
            catalog_nodes, exists = catalog.child(level, catalog_nodes[parents], codes)
            node_log_probs = (node_log_probs - normalizer[:, parents]).masked_fill(
                ~exists, -torch.inf
            )
        scores = scores[:, parents] + node_log_probs
        if level < trie.levels - 1:
            ids = level_columns.ids(codes).expand(batch, -1)
            hidden = tree.step(ids, parents.expand(batch, -1))
    return scores
