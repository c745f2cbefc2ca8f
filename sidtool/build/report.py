"""The codebook report: what is measured when a codebook is built, as typed records."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sidtool.bundle.bundle import Bundle
from sidtool.collisions.policy import CollisionCounts

COLLAPSED = 8
"""A level is collapsed if its perplexity is this many times below the possible: 3 bits are lost."""


@dataclass(frozen=True)
class LevelUse:
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
class Neighbors:
    """How well SID prefixes preserve the neighbors by embedding (see `neighbor_preservation`)."""

    k: int
    queries: int
    pool: int
    jaccard: tuple[float, ...]
    """Mean Jaccard overlap per depth."""


@dataclass(frozen=True)
class Collisions:
    """Collisions before and after they were resolved."""

    before: CollisionCounts
    after: CollisionCounts


@dataclass(frozen=True)
class CodebookReport:
    """Measurements of a built codebook.

    Balance is reported, not optimized: over published codebooks it barely predicts how well a model
    trained on them recommends.
    """

    items: int
    levels: tuple[LevelUse, ...]
    """Of the final codes."""
    collisions: Collisions
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

    def to_json(self) -> dict[str, Any]:
        """The JSON object stored in a bundle."""
        value = {each.name: getattr(self, each.name) for each in fields(self)}
        return value | {
            "levels": [asdict(level) for level in self.levels],
            "collisions": asdict(self.collisions),
            "residual_variance": list(self.residual_variance),
            "neighbors": asdict(self.neighbors) | {"jaccard": list(self.neighbors.jaccard)},
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "CodebookReport":
        """The report that `to_json` stored."""
        known = {each.name: value[each.name] for each in fields(cls)}
        neighbors = value["neighbors"]
        return cls(
            **known
            | {
                "levels": tuple(LevelUse(**level) for level in value["levels"]),
                "collisions": Collisions(
                    CollisionCounts(**value["collisions"]["before"]),
                    CollisionCounts(**value["collisions"]["after"]),
                ),
                "residual_variance": tuple(value["residual_variance"]),
                "neighbors": Neighbors(**neighbors | {"jaccard": tuple(neighbors["jaccard"])}),
            }
        )


def read_report(bundle: Bundle) -> CodebookReport | None:
    """The report of a bundle; None for an imported map, or a version after the built one."""
    stored = bundle.manifest.report
    return CodebookReport.from_json(stored) if stored else None
