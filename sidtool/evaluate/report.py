"""An evaluation: a model's metrics beside popularity and item-kNN on the same examples, and how
sure they are.

Knows what is measured and what belongs into the report; prints nothing. `evaluate` asks the model;
`score`, which does the rest, takes ranked SIDs from anywhere. docs/metrics.md defines every number.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.splits import Example, UserSequence
from sidtool.errors import DataError, ThresholdError
from sidtool.evaluate.baselines import (
    UNTUNED,
    Catalog,
    KnnSettings,
    item_knn,
    item_similarity,
    popularity,
)
from sidtool.evaluate.bootstrap import RESAMPLES, Difference, intervals, paired_differences
from sidtool.evaluate.metrics import (
    KS,
    averages,
    check_names,
    find_targets,
    metric_names,
    metric_values,
)
from sidtool.evaluate.ranking import Asked, first_items, item_places, rank_sids, sid_places
from sidtool.evaluate.task_metrics import TaskEvaluation
from sidtool.model.load import LoadedModel

COVERED = 10
"""Recommendations an example that coverage looks at."""
SLICES: Mapping[str, tuple[int, int | None]] = {"cold": (0, 0), "rare": (1, 5), "warm": (1, None)}
"""Examples by how many training events their target has: from, to. Warm ones include the rare."""

Metrics = dict[str, float]
"""Metric name -> mean."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found. `values` (n, metrics) float64 holds each example's item-level
    metrics, `users` whom each example is of: what `compare` needs to set two models against each
    other."""

    n: int
    metrics: Metrics
    """At item level: the measure that counts."""
    sid_level: Metrics
    ci: dict[str, tuple[float, float]]
    """95% intervals of `metrics`."""
    baselines: dict[str, Metrics]
    differences: dict[str, dict[str, Difference]]
    """Of the model from each baseline."""
    slices: dict[str, Any]
    coverage: dict[str, float]
    """Share of the active items that stand among the first ten of any example, by system."""
    counts: dict[str, int]
    settings: dict[str, Any]
    users: tuple[str, ...]
    values: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with all but the values of single examples."""
        found = {
            name: getattr(self, name) for name in ("n", "metrics", "ci", "sid_level", "baselines")
        }
        differences = {
            name: {metric: asdict(difference) for metric, difference in each.items()}
            for name, each in self.differences.items()
        }
        rest = {name: getattr(self, name) for name in ("slices", "coverage", "counts", "settings")}
        return {
            **found,
            "ci": {name: list(ends) for name, ends in self.ci.items()},
            "differences": differences,
            **rest,
        }


def evaluate(
    served: LoadedModel,
    examples: Sequence[Example],
    events: Sequence[UserSequence] | None,
    *,
    ks: Sequence[int] = KS,
    width: int | None = None,
    exclude_seen: bool = False,
    baselines: bool = True,
    knn: KnnSettings = UNTUNED,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Ask a model every example and measure its answers over the full catalog.

    `events` are the training events; without them there are neither baselines nor slices. `width`
    is the beam's, by default the largest cut-off. With `exclude_seen` no system recommends what the
    history holds. `seed` is the bootstrap's; `progress` counts examples.

    Raises DataError without examples or for a model that has no task, UsageError for cut-offs that
    make no sense."""
    metric_names(ks)
    if not examples:
        raise DataError("there are no examples to evaluate on")
    asked = Asked.of(served.bundle, examples, exclude_seen=exclude_seen)
    k = max(*ks, COVERED)
    width = max(width or k, k)
    leaves = rank_sids(served, asked, k=k, width=width, progress=progress)
    found = score(asked, leaves, examples, events, ks=ks, baselines=baselines, knn=knn, seed=seed)
    return replace(found, settings={**found.settings, "width": width})


def score(
    asked: Asked,
    leaves: NDArray[np.int64],
    examples: Sequence[Example],
    events: Sequence[UserSequence] | None,
    *,
    ks: Sequence[int] = KS,
    baselines: bool = True,
    knn: KnnSettings = UNTUNED,
    seed: int = 0,
) -> Evaluation:
    """The evaluation of (n, k) leaves in rank order, as `rank_sids` gives them; the arguments are
    `evaluate`'s."""
    names, users = metric_names(ks), tuple(example.user for example in examples)
    values = {"model": metric_values(item_places(asked, leaves), ks)}
    given = {"model": first_items(asked, leaves, COVERED)}
    if baselines and events:
        for name, (ranked, targets) in _baselines(
            asked, examples, events, max(*ks, COVERED), knn
        ).items():
            values[name] = metric_values(find_targets(ranked, targets), ks)
            given[name] = ranked[:, :COVERED]
    ours, others = (
        values["model"],
        {name: theirs for name, theirs in values.items() if name != "model"},
    )
    ends = intervals(ours, users, seed=seed).tolist()
    settings = {
        "ks": list(ks),
        "exclude_seen": asked.exclude_seen,
        "seed": seed,
        "resamples": RESAMPLES,
    }
    return Evaluation(
        n=len(examples),
        metrics=averages(names, ours),
        sid_level=averages(names, metric_values(sid_places(asked, leaves), ks)),
        ci={name: (low, high) for name, (low, high) in zip(names, ends, strict=True)},
        baselines={name: averages(names, theirs) for name, theirs in others.items()},
        differences={
            name: _differences(names, ours, theirs, users, seed) for name, theirs in others.items()
        },
        slices=_slices(names, values, examples, events) if events else {},
        coverage={
            name: len(np.unique(items[items >= 0])) / len(asked.bundle.active)
            for name, items in given.items()
        },
        counts=_counts(asked, users),
        settings=settings | ({"item-knn": asdict(knn)} if others else {}),
        users=users,
        values=ours,
    )


def compare(ours: Evaluation, theirs: Evaluation, *, seed: int = 0) -> dict[str, Difference]:
    """How much better the first of two models is, metric by metric, on the same examples in the
    same order.

    Raises DataError if they were not asked the same.
    """
    if ours.users != theirs.users or ours.settings["ks"] != theirs.settings["ks"]:
        raise DataError(
            f"the evaluations are of different examples or cut-offs ({ours.n} and {theirs.n} "
            "examples)"
        )
    return _differences(tuple(ours.metrics), ours.values, theirs.values, ours.users, seed)


def check(evaluation: Evaluation | TaskEvaluation, minima: Mapping[str, float]) -> None:
    """Raise ThresholdError if a metric (the item-level one, if there are two) is below its minimum,
    UsageError for one that was not measured."""
    check_names(minima, tuple(evaluation.metrics))
    for name, minimum in minima.items():
        if not evaluation.metrics[name] >= minimum:
            raise ThresholdError(
                f"{name} is {evaluation.metrics[name]:.4f}, the minimum asked for is {minimum:g}"
            )


def _baselines(
    asked: Asked,
    examples: Sequence[Example],
    events: Sequence[UserSequence],
    k: int,
    knn: KnnSettings,
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Ranked items (n, k) and targets (n,) of each baseline, both as numbers of the active items'
    catalog."""
    ids = asked.bundle.items.ids
    catalog = Catalog.of(
        [ids[row] for row in asked.bundle.active.tolist()], [user.items for user in events]
    )
    histories = [catalog.numbers(example.history) for example in examples]
    targets = catalog.targets([example.item for example in examples])
    seen = asked.exclude_seen
    similar = item_similarity([catalog.numbers(user.items) for user in events], len(catalog), knn)
    return {
        "popularity": (popularity(histories, len(catalog), k, exclude_seen=seen), targets),
        "item-knn": (item_knn(similar, histories, k, settings=knn, exclude_seen=seen), targets),
    }


def _differences(
    names: Sequence[str],
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    users: Sequence[str],
    seed: int,
) -> dict[str, Difference]:
    return dict(zip(names, paired_differences(ours, theirs, users, seed=seed), strict=True))


def _slices(
    names: Sequence[str],
    values: Mapping[str, NDArray[np.float64]],
    examples: Sequence[Example],
    events: Sequence[UserSequence],
) -> dict[str, Any]:
    counts = Counter(item for user in events for item in user.items)
    seen = np.array([counts[example.item] for example in examples])
    slices: dict[str, Any] = {}
    for name, (low, high) in SLICES.items():
        inside = (seen >= low) & (seen <= high if high is not None else True)
        means = {system: averages(names, rows[inside]) for system, rows in values.items()}
        metrics = means.pop("model")
        slices[name] = {
            "events": [low, high],
            "n": int(inside.sum()),
            "metrics": metrics,
            "baselines": means,
        }
    return slices


def _counts(asked: Asked, users: Sequence[str]) -> dict[str, int]:
    """What stands behind the means: targets that nothing could hit are misses, and are told apart
    here."""
    missing, answerable = asked.targets < 0, asked.answerable >= 0
    return {
        "users": len(set(users)),
        "active_items": len(asked.bundle.active),
        "targets_not_in_bundle": int(missing.sum()),
        "targets_seen": int((~missing & ~answerable).sum()),
        "empty_histories": sum(not len(history) for history in asked.histories),
    }
