"""Which held-out examples are evaluated, and how recommendations are."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sidtool.base.options import option
from sidtool.data import UnknownOptions
from sidtool.evaluation.metrics import COVERED, KS, metric_names
from sidtool.recommendation.search import SearchOptions


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions:
    """Which held-out examples a model is evaluated on."""

    on: Literal["test", "valid"] = option("test")
    """Part of the split to evaluate on."""
    limit: int | None = option(None, minimum=1)
    """Number of examples: users evenly spread over the split, or random questions of a task."""
    seed: int = option(0, minimum=0)
    """Seed of the bootstrap, and of random questions."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(UnknownOptions, HeldOutOptions, SearchOptions):
    """How recommendations are evaluated: the beam width is at least `depth`, and no system,
    baselines included, recommends a seen item with `exclude_seen`. A model that the model is
    compared with is decoded as it was trained.

    Raises UsageError for a number out of range or unordered cut-offs."""

    ks: tuple[int, ...] = KS
    """Cut-offs of the metrics."""
    baselines: bool = True
    by: tuple[str, ...] = option((), metavar="FIELD")
    """Print the metrics also by the values of a field of the split: user.FIELD, context.FIELD or
    feedback.FIELD; repeatable."""
    weight: str | None = option(None, metavar="FIELD")
    """Print also the mean weighted by this feedback of the target."""
    target: tuple[str, ...] = option((), metavar="CONDITION")
    """Evaluate only examples whose target fulfills this, like 'rating>=4'; repeatable."""
    samples: int = option(20, minimum=0)
    """Number of users in --json with their history and recommendations, which `sidtool report`
    shows; 0 for none."""
    threads: int | None = option(None, minimum=1)
    """Threads of the baselines; default: one per core. The result is the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "ks", tuple(np.atleast_1d(self.ks).tolist()))
        metric_names(self.ks)

    @property
    def depth(self) -> int:
        """Number of SIDs that are ranked for each example."""
        return max(*self.ks, COVERED)
