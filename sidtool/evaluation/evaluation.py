"""Evaluation of a model's recommendations: metrics beside popularity and item-kNN on the same
examples, with confidence intervals. docs/metrics.md defines every number."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import DataError, SidtoolWarning, ThresholdError, UsageError
from sidtool.evaluation.baselines import UNTUNED, Catalog, item_knn, popularity
from sidtool.evaluation.bootstrap import (
    RESAMPLES,
    Difference,
    named_intervals,
    paired_differences,
)
from sidtool.evaluation.metrics import (
    KS,
    averages,
    check_names,
    find_targets,
    metric_names,
    metric_values,
)
from sidtool.evaluation.ranking import (
    IndexedExamples,
    Ranking,
    rank_memory,
    rank_mixture,
    rank_sids,
)
from sidtool.evaluation.slices import Metrics, Slice, slice_metrics
from sidtool.evaluation.task_metrics import TaskEvaluation
from sidtool.memory.similarity import KnnSettings, item_similarity
from sidtool.model.load import LoadedModel, load_model_folder
from sidtool.model.split_check import check_model_split
from sidtool.recommendation.query import Progress
from sidtool.splits.files import open_split
from sidtool.splits.record import check_split
from sidtool.splits.split import Example, Split, UserSequence

COVERED = 10
"""Recommendations per example that coverage counts."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How a model is evaluated. Raises UsageError for a number below 1 or unordered cut-offs."""

    on: Literal["test", "valid"] = "test"
    """The part of the split to evaluate on."""
    limit: int | None = None
    """Number of examples, evenly spread over the part; None takes all."""
    ks: tuple[int, ...] = KS
    """Cut-offs of the metrics."""
    num_beams: int = 50
    """Beam width; at least the largest cut-off is used."""
    exclude_seen: bool = False
    """No system, baselines included, recommends an item of the history."""
    baselines: bool = True
    knn: KnnSettings = UNTUNED
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        metric_names(self.ks)
        for name, value in (("limit", self.limit), ("number of beams", self.num_beams)):
            if value is not None and value < 1:
                raise UsageError(f"the {name} must be at least 1, not {value}")

    @property
    def depth(self) -> int:
        """Number of SIDs that are ranked for each example."""
        return max(*self.ks, COVERED)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The evaluation of one model over n examples."""

    n: int
    metrics: Metrics
    """At item level."""
    confidence_interval: dict[str, tuple[float, float]]
    """95% intervals of `metrics`."""
    sid_level: Metrics
    """The same metrics where any item of a shared SID counts as correct."""
    baselines: dict[str, Metrics]
    differences: dict[str, dict[str, Difference]]
    """Of the model from each baseline."""
    slices: dict[str, Slice]
    coverage: dict[str, float]
    """By system: share of the active items among the first ten recommendations of any example."""
    counts: dict[str, int]
    settings: dict[str, Any]
    users: tuple[str, ...]
    """The user of each example."""
    values: NDArray[np.float64]
    """(n, metrics) float64: the item-level metrics of each example, for `compare`."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object of all but the values of single examples."""
        value = asdict(self)
        del value["users"], value["values"]
        return value


def evaluate(
    model: LoadedModel | str | Path,
    split: Split | str | Path,
    options: EvaluationOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model on the held-out examples of a split: a `Split`, its folder, or a file of
    events (as `open_split`).

    Raises CompatibilityError if the model, its bundle or its memory may have learned from held-out
    events, and as `evaluate_examples`."""
    options = options or EvaluationOptions()
    name = "the split" if isinstance(split, Split) else str(split)
    opened = split if isinstance(split, Split) else open_split(Path(split))
    loaded = load_model_folder(model) if isinstance(model, str | Path) else model
    check_model_split(loaded.contract, loaded.bundle, name, opened.reference)
    if loaded.memory is not None:
        check_split("the memory", loaded.memory.memory.manifest.split, name, opened.reference)
    examples = opened.test if options.on == "test" else opened.valid
    count = len(examples)
    if options.limit is not None and options.limit < count:
        # evenly spread, as the first users of a file may be the oldest
        indexes = [step * count // options.limit for step in range(options.limit)]
        examples = tuple(examples[index] for index in indexes)
    return evaluate_examples(loaded, examples, opened.train, options, progress=progress)


def evaluate_examples(
    loaded: LoadedModel,
    examples: Sequence[Example],
    events: Sequence[UserSequence] | None,
    options: EvaluationOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Evaluation:
    """Recommend for every example and measure the answers over the full catalog.

    `events` are the training events; without them there are neither baselines nor slices. Raises
    DataError without examples, or if the model was not trained to recommend."""
    options = options or EvaluationOptions()
    if not examples:
        raise DataError("there are no examples to evaluate on")
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=options.exclude_seen)
    num_beams = max(options.num_beams, options.depth)
    if num_beams > options.num_beams:
        warnings.warn(
            f"{num_beams} beams are used instead of {options.num_beams}: {options.depth} SIDs are "
            "ranked",
            SidtoolWarning,
            stacklevel=2,
        )
    leaves = rank_sids(loaded, indexed, k=options.depth, num_beams=num_beams, progress=progress)
    settings: dict[str, Any] = {"num_beams": num_beams}
    if loaded.memory is None or not loaded.memory.is_used:
        evaluation = evaluate_rankings(indexed, leaves, events, options)
    else:
        positions = rank_mixture(
            loaded, indexed, k=options.depth, num_beams=num_beams, progress=progress
        )
        memory_positions = rank_memory(loaded, indexed, k=options.depth)
        alone = {
            "model alone": Ranking.of_sids(indexed, leaves, COVERED),
            "memory alone": Ranking.of_items(indexed, memory_positions, COVERED),
        }
        mixture = Ranking.of_items(indexed, positions, COVERED)
        evaluation = _evaluation(indexed, mixture, alone, events, options)
        knn = asdict(loaded.memory.memory.manifest.settings)
        settings["memory"] = {**loaded.memory.to_json(), **knn}
    return replace(evaluation, settings={**evaluation.settings, **settings})


def evaluate_rankings(
    examples: IndexedExamples,
    leaves: NDArray[np.int64],
    events: Sequence[UserSequence] | None,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """The evaluation of (n, k) ranked leaves, as `rank_sids` returns them."""
    options = options or EvaluationOptions(exclude_seen=examples.exclude_seen)
    return _evaluation(examples, Ranking.of_sids(examples, leaves, COVERED), {}, events, options)


def _evaluation(
    examples: IndexedExamples,
    ranking: Ranking,
    parts: Mapping[str, Ranking],
    events: Sequence[UserSequence] | None,
    options: EvaluationOptions,
) -> Evaluation:
    """The evaluation of a ranking; it is compared with its `parts` as with the baselines."""
    names = metric_names(options.ks)
    users = tuple(example.user for example in examples.examples)
    values = metric_values(ranking.item_ranks, options.ks)
    recommended = {"model": ranking.first_items}
    baseline_values = {}
    for system, part in parts.items():
        baseline_values[system] = metric_values(part.item_ranks, options.ks)
        recommended[system] = part.first_items
    if options.baselines and events:
        rankings, targets = _rank_baselines(examples, events, options)
        for system, ranked in rankings.items():
            baseline_values[system] = metric_values(find_targets(ranked, targets), options.ks)
            recommended[system] = ranked[:, :COVERED]
    settings = {
        "ks": list(options.ks),
        "exclude_seen": examples.exclude_seen,
        "seed": options.seed,
        "resamples": RESAMPLES,
    }
    if "item-knn" in baseline_values:
        settings["item-knn"] = asdict(options.knn)
    active_items = len(examples.bundle.active)
    return Evaluation(
        n=len(users),
        metrics=averages(names, values),
        confidence_interval=named_intervals(names, values, users, seed=options.seed),
        sid_level=averages(names, metric_values(ranking.sid_ranks, options.ks)),
        baselines={
            system: averages(names, system_values)
            for system, system_values in baseline_values.items()
        },
        differences={
            system: _differences(names, values, system_values, users, options.seed)
            for system, system_values in baseline_values.items()
        },
        slices=slice_metrics(names, values, baseline_values, examples.examples, events or ()),
        coverage={
            system: len(np.unique(items[items >= 0])) / active_items
            for system, items in recommended.items()
        },
        counts=_counts(examples, users),
        settings=settings,
        users=users,
        values=values,
    )


def compare(one: Evaluation, other: Evaluation, *, seed: int = 0) -> dict[str, Difference]:
    """By how much one model is better than another, metric by metric, on the same examples in the
    same order. Raises DataError if the examples or cut-offs differ."""
    if one.users != other.users or one.settings["ks"] != other.settings["ks"]:
        raise DataError(
            f"the evaluations have different examples or cut-offs: {one.n} examples at "
            f"{one.settings['ks']} and {other.n} at {other.settings['ks']}"
        )
    return _differences(tuple(one.metrics), one.values, other.values, one.users, seed)


def check_thresholds(
    evaluation: Evaluation | TaskEvaluation, thresholds: Mapping[str, float]
) -> None:
    """Raise ThresholdError if an item-level metric is below its threshold, UsageError for a metric
    that was not measured."""
    check_names(thresholds, tuple(evaluation.metrics))
    for name, threshold in thresholds.items():
        value = evaluation.metrics[name]
        if not value >= threshold:
            raise ThresholdError(f"{name} is {value:.4f}, below the threshold {threshold:g}")


def _rank_baselines(
    examples: IndexedExamples, events: Sequence[UserSequence], options: EvaluationOptions
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """(n, depth) ranked items of each baseline and the (n,) targets, as popularity ranks of the
    active items."""
    ids = examples.bundle.items.ids
    active_ids = [ids[index] for index in examples.bundle.active.tolist()]
    catalog = Catalog.of(active_ids, [user.items for user in events])
    histories = [catalog.index_of(example.history) for example in examples.examples]
    targets = catalog.targets([example.item for example in examples.examples])
    sequences = [catalog.index_of(user.items) for user in events]
    # fitted on training events, applied to whole histories
    similarity = item_similarity(sequences, len(catalog), options.knn)
    exclude_seen = examples.exclude_seen
    popular = popularity(histories, len(catalog), options.depth, exclude_seen=exclude_seen)
    neighbors = item_knn(
        similarity, histories, options.depth, settings=options.knn, exclude_seen=exclude_seen
    )
    return {"popularity": popular, "item-knn": neighbors}, targets


def _differences(
    names: Sequence[str],
    values: NDArray[np.float64],
    other_values: NDArray[np.float64],
    users: Sequence[str],
    seed: int,
) -> dict[str, Difference]:
    differences = paired_differences(values, other_values, users, seed=seed)
    return dict(zip(names, differences, strict=True))


def _counts(examples: IndexedExamples, users: Sequence[str]) -> dict[str, int]:
    """Numbers behind the means: targets that cannot be recommended are misses."""
    missing = examples.targets < 0
    recommendable = examples.target_positions >= 0
    return {
        "users": len(set(users)),
        "active_items": len(examples.bundle.active),
        "targets_not_in_bundle": int(missing.sum()),
        "targets_seen": int((~missing & ~recommendable).sum()),
        "empty_histories": sum(not len(history) for history in examples.histories),
    }
