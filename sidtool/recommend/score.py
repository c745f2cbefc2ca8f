"""Exact scores of given SIDs: for reranking, and for items that no history has ever held.

Knows prompts and SIDs, whether they are in the catalog or not. Beam search never emits a SID that
training has not seen; scoring candidates can (FACTS of the field: R@10 of cold items .0000 against
.0128). Prefixes that candidates share are run once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.bundle.trie import Trie
from sidtool.errors import UsageError
from sidtool.prompt.tokens import SidTokens
from sidtool.recommend.beam import TOKEN_BUDGET, batches, evaluating
from sidtool.recommend.partial_head import Head, Normalize
from sidtool.recommend.probe import way
from sidtool.recommend.tree import TreeRun
from sidtool.recommend.trie_arrays import trie_arrays
from sidtool.sid import Codes

CANDIDATES = 512
"""Candidates whose trees grow together: the mask of a step is their number squared."""


@torch.no_grad()
def score(
    model: Any,
    prompts: Sequence[Sequence[int]],
    candidates: Codes,
    tokens: SidTokens,
    *,
    normalize: Normalize = "level",
    trie: Trie | None = None,
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """(prompts, candidates) float32: the log-probability of each of (m, levels) candidate SIDs
    after each prompt.

    Candidates come in any order and may repeat. Equals what `beam_search` gives a SID that it
    finds; minus infinity after a prompt without a token, and over the "trie", which has to be given
    for it, for a SID that is not in it. Raises UsageError if it is not given, if a code is off the
    space, or if the model's attention cannot be steered by a mask."""
    if normalize == "trie" and trie is None:
        raise UsageError("scores over the trie need the trie")
    tokens.space.check(candidates)
    keys = tokens.space.pack(candidates)
    order = np.argsort(keys, kind="stable")
    distinct = order[np.concatenate([[True], np.diff(keys[order]) > 0])] if len(order) else order
    place = np.searchsorted(keys[distinct], keys)
    scores = np.full((len(prompts), len(distinct)), -np.inf, dtype=np.float32)
    with evaluating(model) as model:
        how = way(model)
        if how == "generate":
            raise UsageError(
                f"{type(model).__name__} does not honour a 4-D attention mask: it cannot score "
                "candidates"
            )
        head = Head(model, sliced=how == "sliced")
        lengths = [len(prompt) for prompt in prompts]
        done = 0
        for batch in batches(
            lengths, min(CANDIDATES, len(distinct)) * (tokens.space.levels - 1), token_budget
        ):
            chosen = [prompts[i] for i in batch]
            scores[batch] = _score_batch(
                model, head, chosen, candidates[distinct], tokens, normalize, trie
            )
            done += len(batch)
            if progress is not None:
                progress(done, len(prompts))
    return scores[:, place]


def _score_batch(
    model: Any,
    head: Head,
    prompts: Sequence[Sequence[int]],
    codes: Codes,
    tokens: SidTokens,
    normalize: Normalize,
    legal: Trie | None,
) -> NDArray[np.float32]:
    """(batch, m) scores of (m, levels) sorted distinct codes."""
    run = TreeRun(
        model, prompts, room=min(CANDIDATES, len(codes)) * (tokens.space.levels - 1), head=head
    )
    first = run.prefill()
    found = [np.zeros((len(prompts), 0), dtype=np.float32)]
    for start in range(0, len(codes), CANDIDATES):
        trie = Trie.from_codes(codes[start : start + CANDIDATES], tokens.space.sizes)
        found.append(_score_trie(run, head, first, trie, tokens, normalize, legal).cpu().numpy())
        run.rewind()
    return np.concatenate(found, axis=1)


def _score_trie(
    run: TreeRun,
    head: Head,
    first: torch.Tensor,
    trie: Trie,
    tokens: SidTokens,
    normalize: Normalize,
    legal: Trie | None,
) -> torch.Tensor:
    """(batch, leaves): grow the whole trie on each prompt, level by level, and add up
    log-probabilities."""
    hidden, scores = first, torch.zeros(len(first), 1, device=first.device)
    catalog = (
        trie_arrays(legal, first.device) if legal is not None and normalize == "trie" else None
    )
    nodes = torch.zeros(
        1, dtype=torch.long, device=first.device
    )  # where the prefixes stand in the catalog's trie
    for level in range(trie.levels):
        start = int(tokens.level_starts[level])
        logs = head.log_probs(
            hidden, start, start + trie.sizes[level], normalize
        )  # (batch, nodes above, codes)
        pointers = torch.from_numpy(trie.children[level]).to(first.device).long()
        parents = torch.arange(len(pointers) - 1, device=first.device).repeat_interleave(
            pointers.diff()
        )
        codes = torch.from_numpy(trie.codes[level]).to(first.device).long()
        step = logs[:, parents, codes]
        if catalog is not None:
            _, goes_on, is_child = catalog.candidates(
                level, nodes.unsqueeze(0)
            )  # (1, nodes above, fan-out)
            among = (
                logs.gather(-1, goes_on.expand(len(logs), -1, -1))
                .masked_fill(~is_child, -torch.inf)
                .logsumexp(-1)
            )
            nodes, there = catalog.child(level, nodes[parents], codes)
            step = (step - among[:, parents]).masked_fill(~there, -torch.inf)
        scores = scores[:, parents] + step
        if level < trie.levels - 1:
            rows = len(first)
            hidden = run.step((codes + start).expand(rows, -1), parents.expand(rows, -1))
    return scores
