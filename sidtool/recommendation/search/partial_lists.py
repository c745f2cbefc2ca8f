"""The partial lists of a batch of prompts, as tensors, and the candidates that may extend them."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Candidates:
    """What may extend each of (batch, beams) partial lists by one code: (batch, beams, fan-out)
    each."""

    nodes: torch.Tensor
    """int64: of the trie's level"""
    codes: torch.Tensor
    """int64"""
    scores: torch.Tensor
    """float32: sums of log-probabilities of the lists, minus infinity where a path is closed"""
    ranks: torch.Tensor
    """what the best are chosen by"""
    penalties: torch.Tensor | None = None
    """float32: what stays subtracted from the rank; None without penalties"""
    log_probs: torch.Tensor | None = None
    """float64: of the lists under the distribution that is drawn from; None without draws"""


class PartialLists:
    """`beams` partial lists per prompt, all with the same number of items and of codes of the item
    that is being written."""

    def __init__(self, batch: int, levels: int, device: Any) -> None:
        self.items = torch.zeros(batch, 1, 0, levels, dtype=torch.long, device=device)
        """(batch, beams, items, levels): the nodes on the path of each whole item"""
        self.current = torch.zeros(batch, 1, 0, dtype=torch.long, device=device)
        """(batch, beams, depth): the nodes of the item that is being written"""
        self.scores = torch.zeros(batch, 1, device=device)
        """(batch, beams): as those of candidates, and so the three below"""
        self.ranks = self.scores
        self.penalties: torch.Tensor | None = None
        self.log_probs: torch.Tensor | None = None
        self._boundaries = torch.zeros(batch, 1, 1, device=device)
        """(batch, beams, items + 1): the score in front of the first item and after each"""

    def start_draws(self, noise: torch.Tensor) -> None:
        """Rank by draws: (batch, 1) float64 noise of the empty lists."""
        self.ranks = noise
        self.log_probs = torch.zeros_like(noise)

    @property
    def n_items(self) -> int:
        """Number of whole items."""
        return self.items.shape[2]

    @property
    def depth(self) -> int:
        """Number of codes of the item that is being written."""
        return self.current.shape[2]

    @property
    def nodes(self) -> torch.Tensor:
        """(batch, beams): the node of the item that is being written; 0, the root, in front of
        it."""
        if self.depth:
            return self.current[..., -1]
        return torch.zeros_like(self.scores, dtype=torch.long)

    @property
    def item_scores(self) -> torch.Tensor:
        """(batch, beams, items): the log-probability of each whole item."""
        return self._boundaries.diff(dim=-1)

    def extend(
        self, candidates: Candidates, num_beams: int, finished: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Go on with the best candidates of each prompt; (batch, beams) each: their codes, and the
        lists that they extend.

        The lists of (batch,) `finished` prompts, if there are any, keep their scores and ranks:
        what they go on with is of no account."""
        fan_out = candidates.nodes.shape[-1]
        ranks = _first_if(finished, self.ranks, candidates.ranks)
        n_best = min(num_beams, ranks.shape[1] * fan_out)
        self.ranks, best = ranks.flatten(1).topk(n_best)  # indexes into beams * fan-out
        parents = best // fan_out
        # (batch, new beams) each
        nodes = candidates.nodes.flatten(1).gather(1, best)
        codes = candidates.codes.flatten(1).gather(1, best)
        scores = _first_if(finished, self.scores, candidates.scores)
        self.scores = scores.flatten(1).gather(1, best)
        if candidates.penalties is not None:
            self.penalties = candidates.penalties.flatten(1).gather(1, best)
        if candidates.log_probs is not None:
            self.log_probs = candidates.log_probs.flatten(1).gather(1, best)
        batch = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        self.items = self.items[batch, parents]
        self.current = torch.cat([self.current[batch, parents], nodes.unsqueeze(-1)], dim=-1)
        self._boundaries = self._boundaries[batch, parents]
        return codes, parents

    def close_item(self) -> None:
        """The item that was written is whole: begin the next."""
        self.items = torch.cat([self.items, self.current.unsqueeze(2)], dim=2)
        self.current = self.current[..., :0]
        self._boundaries = torch.cat([self._boundaries, self.scores.unsqueeze(-1)], dim=-1)


def _first_if(
    finished: torch.Tensor | None, values: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor:
    """(batch, beams, fan-out) numbers of candidates; of the lists of (batch,) `finished` prompts,
    (batch, beams) `values` for the first candidate of each and minus infinity for the others."""
    if finished is None:
        return candidates
    only_first = torch.full_like(candidates, -torch.inf)
    only_first[..., 0] = values
    return torch.where(finished[:, None, None], only_first, candidates)
