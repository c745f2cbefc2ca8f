"""Which codes may follow in a list: those below which an item is left that the list lacks.

A path is closed by counting: a node stays open while more of its items are eligible than the list
has. This is exact where items share a SID, which may then be written once per item."""

from collections.abc import Sequence

import torch

from sidtool.recommendation.search.device_trie import FilterArrays, TrieArrays
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.partial_lists import PartialLists


class OpenPaths:
    """The paths of a trie that the filters of a batch leave."""

    def __init__(
        self, filters: Sequence[LeafFilter | None], trie: TrieArrays, device: torch.device
    ):
        self._filters = FilterArrays(filters, trie, device)
        self._has_filters = any(leaf_filter is not None for leaf_filter in filters)

    def open(
        self, lists: PartialLists, children: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        """(batch, beams, fan-out) bool: which children of each list's node lead to an item that may
        be written; `valid` says which of them are children."""
        level = lists.depth
        is_open = valid
        if self._has_filters:
            is_open = valid & (self._filters.eligible(level, children) > 0)
        if not lists.n_items:
            return is_open
        # (batch, beams, items): the nodes of this level on the paths of the items written
        written = lists.items[..., level]
        slots = written - children[..., :1]
        is_child = (slots >= 0) & (slots < children.shape[-1])
        slots = slots.clamp(0, children.shape[-1] - 1)
        is_child &= children.gather(-1, slots) == written
        is_child &= valid.gather(-1, slots)
        counts = (written.unsqueeze(-1) == written.unsqueeze(-2)).sum(-1)  # of each one's node
        used_up = is_child & (counts >= self._filters.eligible(level, written))
        closed = torch.zeros_like(children).scatter_add(-1, slots, used_up.long()) > 0
        return is_open & ~closed
