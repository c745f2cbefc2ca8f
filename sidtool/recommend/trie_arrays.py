"""The trie, and the filters of a batch of requests, as torch arrays on one device.

Knows how candidates of a level are gathered and masked, without a loop over beams; knows nothing of
models."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from sidtool.bundle.trie import Trie
from sidtool.recommend.filters import LeafFilter

_on_device: WeakKeyDictionary[Trie, dict[Any, "TrieArrays"]] = WeakKeyDictionary()


def trie_arrays(trie: Trie, device: Any) -> "TrieArrays":
    """The arrays of a trie on a device: moved there once. On a CPU they share the trie's memory."""
    kept = _on_device.setdefault(trie, {})
    if device not in kept:
        kept[device] = TrieArrays(trie, device)
    return kept[device]


class TrieArrays:
    """The trie's codes and child pointers as tensors; level by level as there."""

    def __init__(self, trie: Trie, device: Any) -> None:
        self.codes = [torch.from_numpy(array).to(device) for array in trie.codes]
        self.children = [torch.from_numpy(array).to(device) for array in trie.children]
        self.fans = [torch.arange(fan, device=device) for fan in trie.fan_out]
        self.sizes, self.n_leaves = trie.sizes, trie.n_leaves

    @property
    def levels(self) -> int:
        """Number of codes in a SID."""
        return len(self.codes)

    def candidates(
        self, level: int, nodes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Children at `level` of (batch, beams) prefixes of `level` codes, padded to the level's
        largest fan-out.

        Returns node ids (int64), codes (int64) and whether each is a child, (batch, beams, fan-out)
        each."""
        first, stop = self.children[level][nodes], self.children[level][nodes + 1]
        found = first.unsqueeze(-1) + self.fans[level]
        legal = found < stop.unsqueeze(-1)
        found = found.clamp_max(len(self.codes[level]) - 1)
        return found, self.codes[level][found].long(), legal

    def child(
        self, level: int, nodes: torch.Tensor, codes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The child of each of (n,) prefixes by its code, and whether there is one."""
        found, have, legal = self.candidates(level, nodes.unsqueeze(0))
        same = (legal & (have == codes.view(1, -1, 1)))[0]
        return found[0].gather(1, same.int().argmax(-1, keepdim=True)).squeeze(1), same.any(-1)

    def descend(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The node of each of (n, depth) prefixes, and whether there is one: node 0 at depth 0, the
        root."""
        nodes = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
        there = torch.ones_like(nodes, dtype=torch.bool)
        for level in range(codes.shape[1]):
            nodes, known = self.child(level, nodes, codes[:, level])
            there &= known
        return nodes, there

    def first_leaf(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """The first leaf below nodes of a level; of node + 1, that is where the leaves of node
        stop."""
        for children in self.children[level + 1 :]:
            nodes = children[nodes].long()
        return nodes


def over_children(logs: torch.Tensor, legal: torch.Tensor) -> torch.Tensor:
    """(..., fan-out) log-probabilities of candidates -> the same as a distribution over the legal
    ones of each row."""
    return logs - logs.masked_fill(~legal, -torch.inf).logsumexp(-1, keepdim=True)


class FilterArrays:
    """The filters of a batch, one a request (None: everything may be given): sorted leaves behind
    one another."""

    def __init__(self, filters: Sequence[LeafFilter | None], trie: TrieArrays, device: Any) -> None:
        self._trie = trie
        lists: dict[
            int, np.ndarray[Any, Any]
        ] = {}  # distinct allow lists: requests often share one of any size
        which = []
        for one in filters:
            allowed = None if one is None or one.allowed is None else one.allowed
            if allowed is not None:
                lists.setdefault(id(allowed), allowed.leaves)
            which.append(-1 if allowed is None else list(lists).index(id(allowed)))
        denied = [
            np.zeros(0, dtype=np.int64) if one is None else one.denied_leaves for one in filters
        ]
        self._allowed, self._denied = (
            self._keys(part, device) for part in (list(lists.values()), denied)
        )
        self._list = torch.tensor(which, device=device).view(-1, 1, 1)
        self._request = torch.arange(len(filters), device=device).view(-1, 1, 1)

    def alive(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Whether (batch, beams, fan-out) nodes of a level have a leaf below them that may be
        given."""
        first, stop = self._trie.first_leaf(level, nodes), self._trie.first_leaf(level, nodes + 1)
        listed = self._count(self._allowed, self._list.clamp_min(0), first, stop)
        total = torch.where(self._list < 0, stop - first, listed)
        return total > self._count(self._denied, self._request, first, stop)

    def _keys(self, leaves: Sequence[np.ndarray[Any, Any]], device: Any) -> torch.Tensor:
        """Sorted lists as one sorted array: the list's number is the high part of the key."""
        shifted = [part + number * (self._trie.n_leaves + 1) for number, part in enumerate(leaves)]
        return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *shifted])).to(device)

    def _count(
        self, keys: torch.Tensor, number: torch.Tensor, first: torch.Tensor, stop: torch.Tensor
    ) -> torch.Tensor:
        shift = number * (self._trie.n_leaves + 1)
        return torch.searchsorted(keys, shift + stop) - torch.searchsorted(keys, shift + first)
