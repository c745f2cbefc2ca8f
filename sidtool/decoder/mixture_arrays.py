"""The mixture with a memory inside the beam: prefixes are ranked by an upper bound of their items.

The rank of a prefix is (1 - w) p_model(prefix) + w max p_memory(item below the prefix): no item
below it has a larger mixed probability. With w = 1 the beam finds the memory's best items."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.bundle.trie import Trie
from sidtool.decoder.filters import LeafFilter
from sidtool.decoder.mixture import Prior
from sidtool.decoder.trie_arrays import TrieArrays


class MixtureArrays:
    """The memories' shares of a batch, as tensors on one device: one number per prefix that has
    any, level by level."""

    def __init__(
        self,
        priors: Sequence[Prior | None],
        filters: Sequence[LeafFilter | None],
        trie: Trie,
        arrays: TrieArrays,
        device: torch.device,
    ) -> None:
        self._arrays = arrays
        self._levels: list[tuple[torch.Tensor, ...]] = []
        parts = [_leaf_shares(*each, trie) for each in zip(priors, filters, strict=True)]
        requests = np.repeat(np.arange(len(parts)), [len(leaves) for leaves, _ in parts])
        nodes = np.concatenate([leaves for leaves, _ in parts])
        shares = np.concatenate([shares for _, shares in parts])
        for level in reversed(range(trie.levels)):
            pointers = trie.children[level]
            # queries of the pointers' own type, or numpy would convert the whole array
            parents = np.searchsorted(pointers, nodes.astype(pointers.dtype), side="right") - 1
            slots = nodes - pointers[parents]
            # a prefix among those of all prompts is a number: (prompt, node)
            keys = requests * len(pointers) + parents
            level_arrays = (keys, slots, shares.astype(np.float32))
            self._levels.append(tuple(torch.from_numpy(each).to(device) for each in level_arrays))
            if not len(nodes):
                continue
            starts = np.flatnonzero(_changes(keys))
            requests, nodes = requests[starts], parents[starts]
            shares = np.maximum.reduceat(shares, starts)
        self._levels.reverse()
        log_models = [0.0 if prior is None else prior.log_shares[0] for prior in priors]
        self.log_model = torch.tensor(log_models, device=device).unsqueeze(1)

    def places(
        self, level: int, nodes: torch.Tensor, alive: torch.Tensor, fan_out: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Which candidates have a share of the memory: their indexes among (batch * beams *
        fan-out) children of (batch, beams) prefixes, and the logs of their shares. `alive` says
        which prefixes are no dead ends."""
        batch, beams = nodes.shape
        keys, slots, shares = self._levels[level]
        stride = len(self._arrays.children[level])
        if level == 0:
            # the only prefix is the root, which is no dead end
            return torch.div(keys, stride, rounding_mode="floor") * fan_out + slots, shares
        first_keys = torch.arange(0, batch * stride, stride, device=nodes.device).unsqueeze(1)
        beam_keys, beam_of = torch.where(alive, first_keys + nodes, -1).flatten().sort()
        nearest = torch.searchsorted(beam_keys, keys).clamp_max_(batch * beams - 1)
        in_beam = beam_keys[nearest] == keys
        return (beam_of[nearest] * fan_out + slots)[in_beam], shares[in_beam]


def _leaf_shares(
    prior: Prior | None, leaf_filter: LeafFilter | None, trie: Trie
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The leaves with an item that has memory mass and may be recommended, ascending, and the log
    of the memory's largest share of one of its items."""
    if prior is None or not len(prior.distribution):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    distribution = prior.distribution
    if leaf_filter is not None:
        distribution = distribution.select(leaf_filter.passes(distribution.positions))
    shares = distribution.log_probs + prior.log_shares[1]
    leaves = trie.leaves(distribution.positions)
    if trie.leaf_start is None or not len(leaves):
        return leaves, shares
    starts = np.flatnonzero(_changes(leaves))
    return leaves[starts], np.maximum.reduceat(shares, starts)


def _changes(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each value differs from the one before it."""
    return np.diff(values, prepend=-1) != 0
