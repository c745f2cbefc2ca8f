"""The result of an evaluation in words, computed from the JSON of `evaluate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.base.records import JsonRecord

METRIC = "ndcg@10"
BASELINE = "item-knn"
ALONE = "model alone"
MEMORY = "memory alone"
MANY_NEW = 0.2
"""Share of new targets from which they decide the result."""


@dataclass(frozen=True)
class Verdict(JsonRecord):
    """How a model compares with item-kNN by NDCG@10."""

    metric: str
    value: float
    baseline: float
    """Of item-kNN."""
    change: float | None
    """By which share the value is above that of item-kNN; None if that is 0."""
    interval: tuple[float, float]
    """95% interval of the difference between the two, paired by user."""
    alone: float | None
    """Of the model without its memory; None without a memory."""
    memory: float | None
    """Of the memory without the model."""
    new_targets: float
    """Share of targets without training events."""
    users: int
    next: str
    """What to do next."""

    @property
    def is_ahead(self) -> bool:
        """Whether the interval is above 0."""
        return self.interval[0] > 0

    def __str__(self) -> str:
        """The verdict as a sentence or two."""
        low, high = self.interval
        parts = []
        if self.alone is not None:
            parts.append(f"model {_compared(self.alone, self.baseline)} item-kNN")
            parts.append(f"with memory {_compared(self.value, self.baseline, short=True)}")
        else:
            parts.append(f"model {_compared(self.value, self.baseline)} item-kNN")
        return (
            f"{', '.join(parts)} (N@10 {self.value:.4f} against {self.baseline:.4f}, 95% interval "
            f"of the difference {low:+.4f} to {high:+.4f}, {self.users} users); "
            f"{self.new_targets:.0%} of targets are new items"
        )


def judge(
    evaluation: Mapping[str, Any], model: Path, *, epochs: float | None, enough: float | None
) -> Verdict:
    """The verdict on the evaluation of `model`, which had `epochs` where `enough` would be more."""
    value = evaluation["metrics"][METRIC]
    baselines = evaluation["baselines"]
    baseline = baselines[BASELINE][METRIC]
    difference = evaluation["differences"][BASELINE][METRIC]
    new = evaluation["slices"].get("cold", {"n": 0})["n"] / evaluation["n"]
    interval = (difference["low"], difference["high"])
    memory = baselines.get(MEMORY, {}).get(METRIC)
    return Verdict(
        metric=METRIC,
        value=value,
        baseline=baseline,
        change=value / baseline - 1 if baseline else None,
        interval=interval,
        alone=baselines.get(ALONE, {}).get(METRIC),
        memory=memory,
        new_targets=new,
        users=evaluation["n"],
        next=_advice(interval, model, new, epochs, enough),
    )


def _advice(
    interval: tuple[float, float],
    model: Path,
    new: float,
    epochs: float | None,
    enough: float | None,
) -> str:
    """What to do, the most useful first."""
    if interval[0] > 0:
        return f"sidtool serve {model}"
    if epochs is not None and enough is not None and epochs < enough:
        return f"more --minutes: the model had {epochs:g} epochs, {enough:g} would be enough"
    if new > MANY_NEW:
        return "many targets are new items: richer texts (--text-template) find them"
    if interval[1] < 0:
        return "item-kNN is enough for this data: more events per user would help a model"
    return "more users or events: the difference is within its interval"


def _compared(value: float, baseline: float, *, short: bool = False) -> str:
    """How a value compares: "11% behind", without the preposition's object."""
    if baseline == 0:
        return f"{value:.4f}" if short else f"{value:.4f} against"
    change = value / baseline - 1
    if abs(change) < 0.005:
        return "level" if short else "level with"
    side = "ahead" if change > 0 else "behind"
    return f"{abs(change):.0%} {side}" + ("" if short else " of" if change > 0 else "")
