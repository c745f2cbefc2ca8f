"""The constraint for plain `generate` and other engines: a stateless logits processor.

Knows token ids and the trie. Tokens are typed by level, so depth and prefix follow from the
trailing SID tokens alone: nothing is kept between steps, beams may be reordered, prompts may have
any length. It writes SIDs one after another; how many is decided by `max_new_tokens`."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from sidtool.bundle.trie import Trie
from sidtool.errors import DataError
from sidtool.prompt.tokens import SidTokens
from sidtool.recommend.filters import LeafFilter
from sidtool.recommend.partial_head import Normalize
from sidtool.recommend.trie_arrays import FilterArrays, over_children, trie_arrays


class SidLogitsProcessor(LogitsProcessor):
    """Leaves only tokens that continue a legal SID; all others get minus infinity.

    With `markers`, a SID is wrapped: what is no SID token is followed by the begin marker, the last
    code by the end marker. Without, codes follow one another. `normalize` "level" replaces the
    scores by log-probabilities over the level's codes, "trie" over those of them that are legal,
    "vocabulary" leaves them as they are. `filters`, one a prompt, exclude items; rows of a prompt's
    beams lie together, as `generate` has them.

    With `strict`, a row whose prefix no legal SID has raises DataError; beam search needs it off
    where it keeps beams that it has given up (more beams than legal prefixes), and their rows get
    nothing but minus infinity then."""

    def __init__(
        self,
        trie: Trie,
        tokens: SidTokens,
        *,
        markers: bool = False,
        normalize: Normalize = "vocabulary",
        filters: Sequence[LeafFilter | None] | None = None,
        strict: bool = True,
    ) -> None:
        self._trie, self._tokens, self._strict, self._normalize = trie, tokens, strict, normalize
        self._begin, self._end = (tokens.begin, tokens.end) if markers else (None, None)
        self._filters = filters if filters and any(filters) else None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(rows, length) token ids and (rows, vocabulary) scores -> scores with illegal tokens at
        minus infinity."""
        depth, nodes, dead = self._prefixes(input_ids)
        out = torch.full_like(scores, -torch.inf)
        edge = torch.zeros_like(dead)
        if self._begin is not None and self._end is not None:
            done, open_ = (
                depth == self._trie.levels,
                (depth == 0) & (input_ids[:, -1] != self._begin),
            )
            for rows, marker in ((done, self._end), (open_, self._begin)):
                out[:, marker] = torch.where(rows, scores[:, marker], out[:, marker])
            edge = done | open_
        else:
            depth = torch.where(depth == self._trie.levels, 0, depth)
        for level in range(self._trie.levels):
            rows = ((depth == level) & ~edge & ~dead).nonzero().squeeze(1)
            if len(rows):
                self._allow(out, scores, rows, level, nodes[level][rows])
        if self._strict and bool((out == -torch.inf).all(-1).any()):
            raise DataError(
                "a row has reached a prefix that no legal SID has",
                hint="are all its tokens from this trie?",
            )
        return out

    def _allow(
        self,
        out: torch.Tensor,
        scores: torch.Tensor,
        rows: torch.Tensor,
        level: int,
        nodes: torch.Tensor,
    ) -> None:
        arrays = trie_arrays(self._trie, scores.device)
        children, codes, legal = arrays.candidates(
            level, nodes.unsqueeze(1)
        )  # (rows, 1, fan-out) each
        start = int(self._tokens.level_starts[level])
        found = scores[rows, start : start + arrays.sizes[level]]
        if self._normalize != "vocabulary":
            found = found.log_softmax(-1)
        picked = found.gather(1, codes[:, 0])
        if self._normalize == "trie":
            picked = over_children(picked, legal[:, 0])
        if self._filters is not None:
            per_prompt = len(out) // len(self._filters)
            chosen = [self._filters[row // per_prompt] for row in rows.tolist()]
            legal &= FilterArrays(chosen, arrays, scores.device).alive(level, children)
        picked = picked.masked_fill(~legal[:, 0], -torch.inf)
        # padding repeats a code that may be legal: the larger of the two stays
        filled = torch.full_like(found, -torch.inf).scatter_reduce(1, codes[:, 0], picked, "amax")
        out[rows, start : start + arrays.sizes[level]] = filled

    def _prefixes(
        self, input_ids: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Per row: the length of the prefix it ends with, its node for each such length, and
        whether it is illegal."""
        levels, device = self._trie.levels, input_ids.device
        arrays = trie_arrays(self._trie, device)
        tail = input_ids[:, -levels:] - self._tokens.start
        edges = torch.tensor(
            [*self._tokens.space.offsets.tolist(), self._tokens.space.n_codes], device=device
        )
        kinds = (
            torch.searchsorted(edges, tail, right=True) - 1
        )  # level of each token; -1 or `levels` where it is no code
        depth = torch.where(kinds[:, -1] < levels, kinds[:, -1] + 1, 0)
        nodes = [torch.zeros_like(depth) for _ in range(levels)]
        dead = depth > tail.shape[1]
        for length in range(1, min(levels, tail.shape[1]) + 1):
            rows = (depth == length).nonzero().squeeze(1)
            node, there = arrays.descend(tail[rows, -length:] - edges[:length])
            dead[rows] |= ~there | (
                kinds[rows, -length:] != torch.arange(length, device=device)
            ).any(-1)
            if length < levels:
                nodes[length][rows] = node
        return depth, nodes, dead
