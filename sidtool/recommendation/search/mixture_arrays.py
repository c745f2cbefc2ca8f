"""The mixture with a memory inside the beam: prefixes are ranked by an upper bound of their items.

The rank of a prefix is (1 - w) p_model(prefix) + w max p_memory(item below the prefix): no item
below it has a larger mixed probability. With w = 1 the beam finds the memory's best items."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.recommendation.search.device_trie import TrieArrays
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.mixture import Prior
from sidtool.tokenizer.bundle.trie import Trie


class MixtureArrays:
    """The memories' shares of a batch, as tensors on one device: the best items of each request,
    and their places in the beam, level by level.

    Call `add_to` at each level, and `follow` after each but the last."""

    def __init__(
        self,
        priors: Sequence[Prior | None],
        filters: Sequence[LeafFilter | None],
        trie: Trie,
        arrays: TrieArrays,
        device: torch.device,
    ) -> None:
        items = [_item_shares(*each, trie) for each in zip(priors, filters, strict=True)]
        most = max(len(leaves) for leaves, _ in items)
        # (batch, most): rows are filled up with items of share 0, which change no score
        padded_leaves = np.zeros((len(items), most), dtype=np.int64)
        padded_shares = np.full((len(items), most), -np.inf, dtype=np.float32)
        for row, (leaves, shares) in enumerate(items):
            padded_leaves[row, : len(leaves)] = leaves
            padded_shares[row, : len(leaves)] = shares
        self._shares = torch.from_numpy(padded_shares).to(device)
        paths = arrays.paths[torch.from_numpy(padded_leaves).to(device)]
        self._slots = paths.permute(2, 0, 1).long()  # (levels, batch, most)
        self._places = torch.zeros_like(self._slots[0])
        """(batch, most) index of each item's prefix among the candidates of a level"""
        self._beams = self._places
        """(batch, most) the beam that has each item's prefix; any one if none has it, and then the
        share is 0"""
        is_mixed = [prior is not None and prior.is_mixed for prior in priors]
        self.is_mixed = torch.tensor(is_mixed, device=device)
        """(batch,): whether the memory has a share; elsewhere the model alone ranks"""
        log_models = [0.0 if prior is None else prior.log_shares[0] for prior in priors]
        self.log_model = torch.tensor(log_models, device=device).unsqueeze(1)

    def add_to(self, totals: torch.Tensor, level: int, fan_out: int) -> torch.Tensor:
        """(batch, beams * fan-out) logs of the model's part for the candidates of a level -> the
        same with the memory's part."""
        self._places = torch.add(self._slots[level], self._beams, alpha=fan_out)
        mixed = torch.logaddexp(totals.gather(1, self._places), self._shares)
        # of the items below one prefix, that with the largest share counts
        return totals.scatter_reduce(1, self._places, mixed, "amax")

    def follow(self, best: torch.Tensor) -> None:
        """Go on with the items below the best candidates of a level, (batch, beams) indexes."""
        ordered, beam_of = best.sort()
        nearest = torch.searchsorted(ordered, self._places).clamp_max_(best.shape[1] - 1)
        in_beam = ordered.gather(1, nearest) == self._places
        self._shares = torch.where(in_beam, self._shares, -torch.inf)
        self._beams = beam_of.gather(1, nearest)


def _item_shares(
    prior: Prior | None, leaf_filter: LeafFilter | None, trie: Trie
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The leaf and the log of the share of each item that has memory mass and may be
    recommended."""
    if prior is None or not len(prior.distribution):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    distribution = prior.distribution
    if leaf_filter is not None:
        distribution = distribution.select(leaf_filter.passes(distribution.positions))
    return trie.leaves(distribution.positions), distribution.log_probs + prior.log_shares[1]
