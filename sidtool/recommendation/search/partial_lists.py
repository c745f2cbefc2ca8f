"""The partial lists of a batch of prompts, as tensors, and what lowers the rank of an item that
resembles earlier items of its list."""

from typing import Any

import torch

from sidtool.base.errors import UsageError
from sidtool.recommendation.search.device_trie import TrieArrays
from sidtool.tokenizer import Codebook


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


EPSILON = 1e-12
"""Smallest length of a vector that is divided by."""


class Diversity:
    """Penalties of the candidates of a step, by the items that their list has. Scores stay those of
    the model."""

    def __init__(
        self, mmr: float, trie: TrieArrays, codebook: Codebook | None, device: Any
    ) -> None:
        """Raises UsageError if the bundle has no codebook."""
        if codebook is None:
            raise UsageError(
                "MMR compares items by the vectors of the codebook, and the bundle has none"
            )
        self._mmr = mmr
        self._trie = trie
        self._centroids: list[torch.Tensor] = []
        for level, size in enumerate(trie.sizes):
            centroids = torch.zeros(size, codebook.width, device=device)
            if level < len(codebook.levels):  # a level that only separates items has no vectors
                centroids[: len(codebook.levels[level])] = torch.from_numpy(codebook.levels[level])
            self._centroids.append(centroids)

    def penalties(
        self, lists: PartialLists, codes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of candidates with (batch, beams, fan-out) codes: what stays subtracted from the
        rank of a list that they extend, and what is subtracted until the next code of the item is
        known."""
        lasting = torch.zeros(codes.shape, device=codes.device)
        if lists.penalties is not None:
            lasting = lasting + lists.penalties.unsqueeze(-1)
        passing = torch.zeros_like(lasting)
        if lists.n_items:
            passing = self._mmr * self._largest_similarity(lists, codes)
        if lists.depth == self._trie.levels - 1:
            return lasting + passing, torch.zeros_like(passing)
        return lasting, passing

    def _largest_similarity(self, lists: PartialLists, codes: torch.Tensor) -> torch.Tensor:
        """(batch, beams, fan-out): the largest cosine of the vector of each candidate, or of its
        prefix, to that of an item of the list."""
        depth = lists.depth
        prefix = self._vectors(lists.current)  # (batch, beams, width)
        written = self._vectors(lists.items)  # (batch, beams, items, width)
        written = written / written.norm(dim=-1, keepdim=True).clamp_min(EPSILON)
        centroids = self._centroids[depth]  # (size, width)
        # (batch, beams, size, items)
        products = centroids @ written.mT + (written @ prefix.unsqueeze(-1)).mT
        squares = prefix.square().sum(-1, keepdim=True) + centroids.square().sum(-1)
        squares = squares + 2 * prefix @ centroids.T  # (batch, beams, size)
        lengths = squares.clamp_min(EPSILON**2).sqrt()
        largest = products.amax(-1) / lengths
        return largest.gather(-1, codes)

    def _vectors(self, nodes: torch.Tensor) -> torch.Tensor:
        """(..., depth) nodes of paths -> (..., width): the sums of their centroids."""
        total = torch.zeros(*nodes.shape[:-1], self._centroids[0].shape[1], device=nodes.device)
        for level in range(nodes.shape[-1]):
            codes = self._trie.codes[level][nodes[..., level]].long()
            total = total + self._centroids[level][codes]
        return total
