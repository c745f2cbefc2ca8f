"""The trie, and the filters of a batch, as torch arrays on one device: candidates of a level are
gathered and masked without a loop over beams."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.recommendation.search.filters import NO_POSITIONS, LeafFilter
from sidtool.recommendation.search.results import BeamResult, best_leaves
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import Codes, Leaves, SidPositions

_on_device: WeakKeyDictionary[Trie, dict[Any, "TrieArrays"]] = WeakKeyDictionary()


def trie_arrays(trie: Trie, device: Any) -> "TrieArrays":
    """The arrays of a trie on a device, cached. On a CPU they share the trie's memory."""
    cached = _on_device.setdefault(trie, {})
    if device not in cached:
        cached[device] = TrieArrays(trie, device)
    return cached[device]


class TrieArrays:
    """The trie's codes and child pointers as tensors, one of each per level."""

    def __init__(self, trie: Trie, device: Any) -> None:
        self.device = device
        self.codes = [torch.from_numpy(array).to(device) for array in trie.codes]
        self.children = [torch.from_numpy(array).to(device) for array in trie.children]
        self.child_offsets = [torch.arange(fan_out, device=device) for fan_out in trie.fan_out]
        """Per level (fan-out,): 0, 1 ... up to the most children that a node has"""
        self.sizes = trie.sizes
        self.n_leaves = trie.n_leaves
        self.n_items = trie.n_items
        self.leaf_start = None
        """(leaves + 1,) int32: where the items of each SID start in SID order; None if each has
        one."""
        self.log_size = None
        """(leaves,) float32: log of the number of items of each SID; None if each has one."""
        if trie.leaf_start is not None:
            self.leaf_start = torch.from_numpy(trie.leaf_start).to(device)
            log_size = np.log(np.diff(trie.leaf_start)).astype(np.float32)
            self.log_size = torch.from_numpy(log_size).to(device)

    @property
    def levels(self) -> int:
        """Number of codes in a SID."""
        return len(self.codes)

    @cached_property
    def paths(self) -> torch.Tensor:
        """(leaves, levels) uint8 or uint16: the path from the root to each leaf, as indexes among
        the children of each node."""
        dtype = np.min_scalar_type(max(map(len, self.child_offsets)) - 1)
        paths = np.zeros((self.n_leaves, self.levels), dtype=dtype)
        n_leaves = np.ones(self.n_leaves, dtype=np.int64)  # below each node of a level
        for level in reversed(range(self.levels)):
            pointers = self.children[level].cpu().numpy()
            first_children = pointers[:-1]  # of each parent
            indexes = np.arange(len(n_leaves)) - first_children.repeat(np.diff(pointers))
            paths[:, level] = indexes.repeat(n_leaves)
            n_leaves = np.add.reduceat(n_leaves, first_children)
        return torch.from_numpy(paths).to(self.device)

    @cached_property
    def _keys(self) -> list[torch.Tensor]:
        """Per level (n_l,) int64: the parent and the code of each node as one number, ascending."""
        keys = []
        for size, codes, children in zip(self.sizes, self.codes, self.children, strict=True):
            parents = torch.arange(len(children) - 1, device=self.device)
            keys.append(parents.repeat_interleave(children.diff()) * size + codes)
        return keys

    def candidates(
        self, level: int, nodes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Children at `level` of (batch, beams) prefixes of `level` codes, padded to the level's
        largest fan-out.

        Returns node ids (int64), codes (int64) and whether each is a child, (batch, beams, fan-out)
        each."""
        first = self.children[level][nodes]
        stop = self.children[level][nodes + 1]
        children = first.unsqueeze(-1) + self.child_offsets[level]
        valid = children < stop.unsqueeze(-1)
        children = children.clamp_max(len(self.codes[level]) - 1)
        return children, self.codes[level][children].long(), valid

    def child(
        self, level: int, nodes: torch.Tensor, codes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The child by its code of each of (n,) prefixes, the first child where none has the code,
        and whether one has it."""
        keys = self._keys[level]
        child_keys = nodes * self.sizes[level] + codes
        children = torch.searchsorted(keys, child_keys).clamp_max(len(keys) - 1)
        # a code that the level lacks may make the key of another prefix
        exists = (keys[children] == child_keys) & (self.codes[level][children] == codes)
        return torch.where(exists, children, self.children[level][nodes].long()), exists

    def descend(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The node of each of (n, depth) prefixes, and whether there is one; depth 0 is the root,
        node 0."""
        nodes = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
        exists = torch.ones_like(nodes, dtype=torch.bool)
        for level in range(codes.shape[1]):
            nodes, is_child = self.child(level, nodes, codes[:, level])
            exists &= is_child
        return nodes, exists

    def first_item(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """The position in SID order of the first item below each node of a level; that of node + 1
        is where the items of node stop."""
        for children in self.children[level + 1 :]:
            nodes = children[nodes].long()
        return nodes if self.leaf_start is None else self.leaf_start[nodes].long()


def best_sids(trie: Trie, codes: Codes, scores: NDArray[np.float32], k: int) -> BeamResult:
    """The k best of (m, levels) SIDs, all of which are in the trie, as `best_leaves`."""
    leaves, _ = trie_arrays(trie, "cpu").descend(torch.from_numpy(codes.astype(np.int64)))
    return best_leaves(Leaves(leaves.numpy()), scores, k)


def normalize_over_children(log_probs: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(..., fan-out) log-probabilities of candidates -> the same, normalized over the valid ones of
    each row."""
    return log_probs - log_probs.masked_fill(~valid, -torch.inf).logsumexp(-1, keepdim=True)


class FilterArrays:
    """The filters of a batch, one per prompt (None: every item may be recommended).

    All lists of items are in one sorted array, with the number of the list as the high part of the
    key, so that one binary search counts the items of a list in a range."""

    def __init__(self, filters: Sequence[LeafFilter | None], trie: TrieArrays) -> None:
        self._trie = trie
        self.excludes = any(leaf_filter is not None for leaf_filter in filters)
        allowed = [None if leaf_filter is None else leaf_filter.allowed for leaf_filter in filters]
        # prompts often share a large one
        allow_lists = {id(positions): positions for positions in allowed if positions is not None}
        numbers = {key: number for number, key in enumerate(allow_lists)}
        list_numbers = [numbers.get(id(positions), -1) for positions in allowed]
        self.allowed_keys = self._keys(list(allow_lists.values()))
        denied = [NO_POSITIONS if entry is None else entry.denied for entry in filters]
        self._denied_keys = self._keys(denied)
        # (batch, 1, 1) each
        self._allow_list = torch.tensor(list_numbers, device=trie.device).view(-1, 1, 1)
        self._prompt = torch.arange(len(filters), device=trie.device).view(-1, 1, 1)

    def eligible(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """(batch, beams, n) int64: how many items below nodes of a level pass."""
        first = self._trie.first_item(level, nodes)
        stop = self._trie.first_item(level, nodes + 1)
        if not self.excludes:
            return stop - first
        listed = self._count(self.allowed_keys, self._allow_list.clamp_min(0), first, stop)
        allowed = torch.where(self._allow_list < 0, stop - first, listed)
        # only allowed items are on a filter's deny list
        return allowed - self._count(self._denied_keys, self._prompt, first, stop)

    def _keys(self, lists: Sequence[SidPositions]) -> torch.Tensor:
        stride = self._trie.n_items + 1
        keys = [positions + number * stride for number, positions in enumerate(lists)]
        return torch.from_numpy(np.concatenate([NO_POSITIONS, *keys])).to(self._trie.device)

    def _count(
        self, keys: torch.Tensor, number: torch.Tensor, first: torch.Tensor, stop: torch.Tensor
    ) -> torch.Tensor:
        offset = number * (self._trie.n_items + 1)
        before_stop = torch.searchsorted(keys, offset + stop)
        before_first = torch.searchsorted(keys, offset + first)
        return before_stop - before_first
