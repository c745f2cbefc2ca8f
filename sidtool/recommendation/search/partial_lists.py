"""The partial lists of a batch of prompts, as tensors."""

from typing import Any

import torch


class PartialLists:
    """`beams` partial lists per prompt, all with the same number of items and of codes of the item
    that is being written."""

    def __init__(self, batch: int, levels: int, device: Any) -> None:
        self.items = torch.zeros(batch, 1, 0, levels, dtype=torch.long, device=device)
        """(batch, beams, items, levels): the nodes on the path of each whole item"""
        self.current = torch.zeros(batch, 1, 0, dtype=torch.long, device=device)
        """(batch, beams, depth): the nodes of the item that is being written"""
        self.scores = torch.zeros(batch, 1, device=device)
        """(batch, beams): sums of log-probabilities, minus infinity behind a closed path"""
        self.ranks = self.scores
        """(batch, beams): what the best are chosen by"""
        self.penalties: torch.Tensor | None = None
        """(batch, beams): what stays subtracted from the rank; None without penalties"""
        self.log_probs: torch.Tensor | None = None
        """(batch, beams) float64: under the distribution that is drawn from; None without draws"""
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
    def item_scores(self) -> torch.Tensor:
        """(batch, beams, items): the log-probability of each whole item."""
        return self._boundaries.diff(dim=-1)

    def extend(self, parents: torch.Tensor, nodes: torch.Tensor) -> None:
        """Go on with the lists at (batch, new beams) `parents`, each with one more node of its
        item. Scores and ranks are for the caller to set."""
        batch = torch.arange(len(parents), device=parents.device).unsqueeze(1)
        self.items = self.items[batch, parents]
        self.current = torch.cat([self.current[batch, parents], nodes.unsqueeze(-1)], dim=-1)
        self._boundaries = self._boundaries[batch, parents]

    def close_item(self) -> None:
        """The item that was written is whole: begin the next."""
        self.items = torch.cat([self.items, self.current.unsqueeze(2)], dim=2)
        self.current = self.current[..., :0]
        self._boundaries = torch.cat([self._boundaries, self.scores.unsqueeze(-1)], dim=-1)
