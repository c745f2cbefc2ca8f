"""What a target competes with, and the loss that follows.

Knows levels, the trie and logits; knows nothing of models, or of how logits come about.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sidtool.bundle.trie import Trie
from sidtool.prompt.tokens import SidTokens
from sidtool.recommend.partial_head import Columns, Part
from sidtool.recommend.trie_arrays import normalize_over_children, trie_arrays

Blocks = Sequence[torch.Tensor]
"""The logits of each part, (n, columns)."""


@dataclass(frozen=True)
class Loss:
    """Which tokens a target competes with: `over` vocabulary, sid, level or trie, in the block
    `tokens`.

    Over the trie these are the codes by which the target's prefix goes on to an item of the
    catalog: a step costs nothing where there is one, and the product over the levels is a
    distribution over the items. What no item has (a retired item in a history) is no target then.

    `smoothing` spreads so much of a target evenly over what it competes with. Where teachers answer
    too, `distill_weight` is the weight of the cross-entropy with the mean of their distributions, and 1 -
    `distill_weight` that of the target (Hinton et al., arXiv:1503.02531, at temperature 1)."""

    over: str
    tokens: SidTokens
    trie: Trie | None = None
    smoothing: float = 0.0
    distill_weight: float = 0.0

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
            found.append(
                (
                    ((targets >= first) & (targets < first + size)).nonzero()[:, 0],
                    (first, first + size),
                )
            )
        return found

    def total(
        self,
        blocks: Blocks,
        parts: Sequence[Part],
        targets: torch.Tensor,
        before: torch.Tensor,
        taught: Sequence[Blocks] = (),
    ) -> torch.Tensor:
        """Sum of the cross-entropies of each part's logits at (n,) target ids; (n, levels - 1) ids
        come `before`.

        `taught` has the same blocks from each teacher.
        """
        total = torch.zeros((), device=targets.device)
        for level, (block, (which, columns)) in enumerate(zip(blocks, parts, strict=True)):
            if not len(which):
                total = (
                    total + block.sum()
                )  # of nothing, yet the weights are part of it: each process has gradients
                continue
            rivals = self._rivals(
                level,
                block.shape[1],
                targets[which] - (columns[0] if columns else 0),
                before[which],
            )
            total = (
                total
                + self._losses(rivals, block, [blocks[level] for blocks in taught])[
                    rivals.counted
                ].sum()
            )
        return total

    def _losses(self, rivals: "_Rivals", block: torch.Tensor, taught: Blocks) -> torch.Tensor:
        logs = rivals.logs(block.float())
        losses = -logs.gather(-1, rivals.own[:, None])[:, 0]
        if self.smoothing:
            losses = torch.lerp(losses, -logs.sum(-1) / rivals.number, self.smoothing)
        if taught:
            answers = torch.stack([rivals.logs(answer.float()) for answer in taught])
            losses = torch.lerp(
                losses, -(answers.exp().mean(0) * logs).sum(-1), self.distill_weight
            )
        return losses

    def _rivals(
        self, level: int, width: int, codes: torch.Tensor, before: torch.Tensor
    ) -> "_Rivals":
        if self.trie is None:
            return _Rivals(lambda block: block.log_softmax(-1), codes, width, slice(None))
        arrays, offsets = (
            trie_arrays(self.trie, codes.device),
            torch.from_numpy(self.tokens.space.offsets),
        )
        above = (
            before[:, before.shape[1] - level :]
            - self.tokens.start
            - offsets[:level].to(codes.device)
        )
        nodes, known = arrays.descend(above)
        children, goes_on, legal = (
            part[0] for part in arrays.candidates(level, nodes[None])
        )  # (targets, fan-out)
        own, there = arrays.child(level, nodes, codes)
        return _Rivals(
            lambda block: normalize_over_children(block.gather(-1, goes_on), legal).masked_fill(
                ~legal, 0.0
            ),
            (own - children[:, 0]).clamp_min(0),
            legal.sum(-1),
            known & there,
        )


@dataclass(frozen=True)
class _Rivals:
    """What the n targets of a part compete with."""

    logs: Callable[[torch.Tensor], torch.Tensor]
    """(n, columns) logits -> (n, most rivals) log-probabilities, 0 where a target has fewer rivals
    """
    own: torch.Tensor
    """(n,) the target's place among its rivals"""
    number: torch.Tensor | int
    """(n,) how many rivals there are, the target among them"""
    counted: torch.Tensor | slice
    """(n,) whether it is a target at all"""
