"""The codebook report: what is measured when a codebook is built, as typed records."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidtool.base.records import JsonRecord
from sidtool.tokenizer.assign.policy import CollisionCounts

COLLAPSED = 8
"""A level is collapsed if its perplexity is this many times below the possible: 3 bits are lost."""


@dataclass(frozen=True)
class LevelUse(JsonRecord):
    """How evenly the items use the codes of one level."""

    size: int
    """Codes of the level."""
    utilization: float
    """Share of codes that occur."""
    entropy: float
    """In bits."""
    perplexity: float
    """2 ** entropy: the number of evenly used codes with that entropy."""
    gini: float
    """0 if every code has the same number of items, near 1 if one code has them all."""

    def is_collapsed(self, items: int) -> bool:
        """Whether a few codes have nearly all of that many items."""
        return self.perplexity * COLLAPSED < min(self.size, items)


@dataclass(frozen=True)
class Neighbors(JsonRecord):
    """How well SID prefixes preserve the neighbors by embedding (see `neighbor_preservation`)."""

    k: int
    queries: int
    pool: int
    jaccard: tuple[float, ...]
    """Mean Jaccard overlap per depth."""


@dataclass(frozen=True)
class CollisionReport(JsonRecord):
    """Collisions before and after they were resolved."""

    before: CollisionCounts
    after: CollisionCounts


@dataclass(frozen=True)
class CodebookReport(JsonRecord):
    """Measurements of a built codebook.

    Balance is reported, not optimized: over published codebooks it barely predicts how well a model
    trained on them recommends."""

    items: int
    levels: tuple[LevelUse, ...]
    """Of the final codes."""
    collisions: CollisionReport
    reassigned: int
    """Items whose final code is not their nearest one."""
    measured: int
    """Items on which `residual_variance` was measured."""
    residual_variance: tuple[float, ...]
    """Per depth of the raw codes: the squared error as a share of the vectors' variance."""
    residual_variance_assigned: float
    """The same for the final codes."""
    neighbors: Neighbors
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Duration of each step of the build."""
