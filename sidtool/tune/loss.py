"""What a target competes with, and the loss that follows.

Knows levels, the trie and logits; knows nothing of models, or of how logits come about.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from sidtool.bundle.trie import Trie
from sidtool.prompt.tokens import SidTokens
from sidtool.recommend.arrays import over_children, trie_arrays
from sidtool.tune.head import Columns, Part


@dataclass(frozen=True)
class Loss:
    """Which tokens a target competes with: `over` vocabulary, sid, level or trie, in the block `tokens`.

    Over the trie these are the codes by which the target's prefix goes on to an item of the catalogue: a step costs
    nothing where there is one, and the product over the levels is a distribution over the items. What no item has
    (a retired item in a history) is no target then.
    """

    over: str
    tokens: SidTokens
    trie: Trie | None = None

    @property
    def columns(self) -> Columns | None:
        """The token ids that logits are needed of; None for all."""
        if self.over == "vocabulary":
            return None
        return self.tokens.start, self.tokens.start + self.tokens.space.n_codes

    def parts(self, targets: torch.Tensor) -> list[Part]:
        """Which of (n,) target ids are asked for which columns: one part, or one for each level."""
        if self.over in ("vocabulary", "sid"):
            return [(torch.arange(len(targets), device=targets.device), self.columns)]
        space, found = self.tokens.space, list[Part]()
        for offset, size in zip(space.offsets.tolist(), space.sizes, strict=True):
            first = self.tokens.start + offset
            found.append((((targets >= first) & (targets < first + size)).nonzero()[:, 0], (first, first + size)))
        return found

    def total(
        self,
        blocks: Sequence[torch.Tensor],
        parts: Sequence[Part],
        targets: torch.Tensor,
        before: torch.Tensor,
        smoothing: float,
    ) -> torch.Tensor:
        """Sum of the cross-entropies of each part's logits at (n,) target ids; (n, levels - 1) ids come `before`."""
        total = torch.zeros((), device=targets.device)
        for level, (block, (which, columns)) in enumerate(zip(blocks, parts, strict=True)):
            codes = targets[which] - (columns[0] if columns else 0)
            if not len(which):
                loss = block.sum()  # of nothing, yet the weights are part of it: each process has a gradient for all
            elif self.trie is not None:
                loss = self._among_children(self.trie, level, block.float(), codes, before[which], smoothing)
            else:
                loss = cross_entropy(block, codes, reduction="sum", label_smoothing=smoothing)
            total = total + loss
        return total

    def _among_children(
        self, trie: Trie, level: int, block: torch.Tensor, codes: torch.Tensor, before: torch.Tensor, smoothing: float
    ) -> torch.Tensor:
        arrays, offsets = trie_arrays(trie, block.device), torch.from_numpy(self.tokens.space.offsets).to(block.device)
        above = before[:, before.shape[1] - level :] - self.tokens.start - offsets[:level]
        nodes, known = arrays.descend(above)
        children, goes_on, legal = (part[0] for part in arrays.candidates(level, nodes[None]))  # (targets, fan-out)
        logs = over_children(block.gather(-1, goes_on), legal)
        own, there = arrays.child(level, nodes, codes)
        losses = -logs.gather(-1, (own - children[:, 0]).clamp_min(0)[:, None])[:, 0]
        if smoothing:
            even = -logs.masked_fill(~legal, 0.0).sum(-1) / legal.sum(-1)
            losses = torch.lerp(losses, even, smoothing)
        return losses[known & there].sum()
