"""Collision policies, the final codes, and the codebook report: what is measured when a codebook is
built, as typed records."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.ranges import run_starts
from sidtool.base.records import JsonRecord
from sidtool.tokenizer.sid import Codes

Policy = Literal["reassign", "append", "allow"]
"""What happens to items with the same codes: all but one are reassigned, a level is appended, or
they share a SID."""


@dataclass(frozen=True)
class CollisionCounts(JsonRecord):
    """How many items share their SID with another, in how many groups, and the largest group (1 if
    there is no collision)."""

    items: int
    groups: int
    largest: int

    @classmethod
    def of(cls, codes: Codes) -> "CollisionCounts":
        """Count the collisions in (n, levels) codes."""
        _, sizes = equal_rows(codes)
        shared_sizes = sizes[sizes > 1]
        return cls(int(shared_sizes.sum()), len(shared_sizes), int(sizes.max(initial=0)))


@dataclass(frozen=True)
class Assigned:
    """Final codes, in the order of the items.

    `codes` is (n, levels) uint16, with one more level than the raw codes under `append`;
    `level_sizes` are its level sizes; `reassigned` is (n,) bool: items whose final code is not
    their nearest one."""

    codes: Codes
    level_sizes: tuple[int, ...]
    reassigned: NDArray[np.bool_]
    before: CollisionCounts
    after: CollisionCounts


def equal_rows(codes: Codes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row indices sorted by codes, and the lengths of the runs of equal codes in that order."""
    order = np.lexsort(codes.T[::-1])
    starts = np.flatnonzero(run_starts(*codes[order].T))
    return order, np.diff(starts, append=len(codes))


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
