"""Evaluation of a model's recommendations: metrics beside popularity and item-kNN on the same
examples, with confidence intervals. docs/metrics.md defines every number."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import DataError, SidtoolWarning, UsageError
from sidtool.evaluation.baselines import UNTUNED, Catalog, item_knn, popularity
from sidtool.evaluation.bootstrap import RESAMPLES
from sidtool.evaluation.metrics import KS, averages, find_targets, metric_names, metric_values
from sidtool.evaluation.ranking import (
    IndexedExamples,
    Ranking,
    rank_memory,
    rank_mixture,
    rank_sids,
)
from sidtool.evaluation.results import Evaluation, slices_of
from sidtool.evaluation.slices import example_groups
from sidtool.evaluation.system_values import (
    SystemValues,
    coverage,
    effective_items,
    group_averages,
)
from sidtool.memory.similarity import KnnSettings, item_similarity
from sidtool.model.load import LoadedModel, load_model_folder
from sidtool.model.split_check import check_model_split
from sidtool.recommendation.query import Progress
from sidtool.splits.files import open_split
from sidtool.splits.record import check_split, recorded_event_columns
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
    loaded = load_model_folder(model) if isinstance(model, str | Path) else model
    if isinstance(split, Split):
        opened = split
    else:
        opened = open_split(split, recorded=recorded_event_columns(loaded.bundle.manifest.source))
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
    beams = rank_sids(loaded, indexed, k=options.depth, num_beams=num_beams, progress=progress)
    model_ranking = Ranking.of_beams(indexed, beams, COVERED)
    settings: dict[str, Any] = {"num_beams": num_beams}
    if loaded.memory is None or not loaded.memory.is_used:
        evaluation = _evaluation(indexed, model_ranking, {}, events, options)
    else:
        mixed = rank_mixture(
            loaded, indexed, k=options.depth, num_beams=num_beams, progress=progress
        )
        memory_positions = rank_memory(loaded, indexed, k=options.depth)
        alone = {
            "model alone": model_ranking,
            "memory alone": Ranking.of_items(indexed, memory_positions, COVERED),
        }
        mixture = Ranking.of_item_beams(indexed, mixed, COVERED)
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
    """The evaluation of (n, k) ranked leaves, best first; -1 where there are no more."""
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
    users = tuple(example.user for example in examples.examples)
    model = SystemValues.of(ranking, options.ks)
    others = {system: SystemValues.of(part, options.ks) for system, part in parts.items()}
    settings = {
        "ks": list(options.ks),
        "exclude_seen": examples.exclude_seen,
        "seed": options.seed,
        "resamples": RESAMPLES,
    }
    if options.baselines and events:
        others |= _baselines(examples, events, options)
        settings["item-knn"] = asdict(options.knn)
    groups = example_groups(examples.examples, events)
    by_group = group_averages(model, others, users, groups, seed=options.seed)
    active_items = len(examples.bundle.active)
    first_items = {
        system: values.first_items for system, values in ({"model": model} | others).items()
    }
    return Evaluation(
        **vars(by_group["all"]),
        sid_level=averages(metric_names(options.ks), metric_values(ranking.sid_ranks, options.ks)),
        macro=by_group["macro"],
        slices=slices_of(by_group) if events else {},
        coverage={system: coverage(items, active_items) for system, items in first_items.items()},
        effective_items={system: effective_items(items) for system, items in first_items.items()},
        counts=_counts(examples, users),
        settings=settings,
        users=users,
        groups=groups,
        values=model,
    )


def _baselines(
    examples: IndexedExamples, events: Sequence[UserSequence], options: EvaluationOptions
) -> dict[str, SystemValues]:
    """The baselines on the same examples; their items are popularity ranks."""
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
    names = metric_names(options.ks)
    systems = {}
    for system, ranked in {"popularity": popular, "item-knn": neighbors}.items():
        values = metric_values(find_targets(ranked, targets), options.ks)
        systems[system] = SystemValues(names, values, ranked[:, :COVERED])
    return systems


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
