"""Evaluation of a model's recommendations: metrics beside popularity and item-kNN on the same
examples, with confidence intervals. docs/metrics.md defines every number."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, SidtoolWarning
from sidtool.base.progress import Progress
from sidtool.data.spilled_events import Spill
from sidtool.data.split.files import open_split
from sidtool.data.split.record import SplitReference, check_split
from sidtool.data.split.split import Example, Split, UserSequence, evenly_spaced
from sidtool.evaluation.bootstrap import RESAMPLES
from sidtool.evaluation.catalog_check import check_same_catalog
from sidtool.evaluation.field_groups import field_groups, fulfilling, target_weights
from sidtool.evaluation.metrics import averages, metric_names, metric_values
from sidtool.evaluation.options import EvaluationOptions
from sidtool.evaluation.ranking import IndexedExamples, Ranker, Ranking
from sidtool.evaluation.results import Evaluation, examples_digest, slices_of
from sidtool.evaluation.samples import positions_in, sample_examples, titles_of
from sidtool.evaluation.slices import example_groups
from sidtool.evaluation.system_values import (
    SystemValues,
    coverage,
    effective_items,
    group_averages,
)
from sidtool.evaluation.systems import baseline_values, rank_model, rank_parts, uses_memory
from sidtool.memory.sharded import Shards
from sidtool.model.contract.split_check import check_model_split, event_columns
from sidtool.model.load import LoadedModel, load_model_folder
from sidtool.recommendation.search.mixture import check_normalize
from sidtool.recommendation.search.normalize import Normalize

WEIGHTED = "weighted"
"""The group of all examples, weighted by a feedback."""
OTHER_MODEL = "other model"
"""The name of the system that a model is compared with."""


def evaluate(
    model: LoadedModel | str | Path,
    split: Split | str | Path,
    options: EvaluationOptions | None = None,
    *,
    against: LoadedModel | str | Path | None = None,
    baseline_memory: int | None = None,
    ranker: Ranker | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model on the held-out examples of a split: a `Split`, its folder, or a file of
    events (as `open_split`).

    `against` is another model for the same items, of whatever bundle, that the model is compared
    with. With `baseline_memory`, a number of bytes, more training events and pairs of item-kNN than
    fit are put into temporary files. `ranker` searches in place of this process
    (`cluster.ClusterRanker`), for the model. Raises CompatibilityError if a model, its bundle or
    its memory may have learned from held-out events, and as `evaluate_examples`.

    Examples:
        >>> evaluation = sidtool.evaluate("tuned", "split")
        >>> evaluation.n, sorted(evaluation.baselines)
        (40, ['item-knn', 'popularity'])
    """
    options = options or EvaluationOptions()
    name = "the split" if isinstance(split, Split) else str(split)
    loaded = load_model_folder(model) if isinstance(model, str | Path) else model
    other = load_model_folder(against) if isinstance(against, str | Path) else against
    with spilled(baseline_memory) as (spill, shards):
        if isinstance(split, Split):
            opened = split
        else:
            columns = event_columns(loaded.contract, loaded.bundle)
            opened = open_split(split, recorded=columns, spill=spill)
        check_model_and_memory(loaded, name, opened.reference)
        if other is not None:
            labels = (f"the {OTHER_MODEL}", f"the memory of the {OTHER_MODEL}")
            check_model_and_memory(other, name, opened.reference, *labels)
        part: Sequence[Example] = opened.test if options.on == "test" else opened.valid
        if options.target:
            part = fulfilling(part, options.target, opened.fields)
        examples = evenly_spaced(part, options.limit)
        evaluation = evaluate_examples(
            loaded,
            examples,
            opened.train,
            options,
            against=other,
            shards=shards,
            ranker=ranker,
            progress=progress,
        )
        return replace(evaluation, settings={"on": options.on, **evaluation.settings})


@contextmanager
def spilled(budget: int | None) -> Iterator[tuple[Spill | None, Shards | None]]:
    """Temporary folders for events and for pairs, which are not in memory at the same time."""
    if budget is None:
        yield None, None
        return
    with TemporaryDirectory(prefix="sidtool-") as name:
        events, pairs = (Path(name) / part for part in ("events", "pairs"))
        events.mkdir()
        pairs.mkdir()
        yield Spill(events, budget), Shards(pairs, budget)


def check_model_and_memory(
    loaded: LoadedModel,
    name: str,
    split: SplitReference,
    model: str = "the model",
    memory: str = "the memory",
) -> None:
    """Raise CompatibilityError if a model or its memory, which the message calls so, may have
    learned from what the split holds out."""
    check_model_split(loaded.contract, loaded.bundle, name, split, model=model)
    if loaded.memory is not None:
        reference = loaded.memory.memory.manifest.split
        check_split(memory, reference, name, split)


def evaluate_examples(
    loaded: LoadedModel,
    examples: Sequence[Example],
    events: Sequence[UserSequence] | None,
    options: EvaluationOptions | None = None,
    *,
    against: LoadedModel | None = None,
    shards: Shards | None = None,
    ranker: Ranker | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Recommend for every example and measure the answers over the full catalog.

    `events` are the training events; without them there are neither baselines nor slices. `against`
    is one more system beside the baselines. With `shards` item-kNN is computed within its budget.
    Raises DataError without examples, or if a model was not trained to recommend;
    CompatibilityError if `against` recommends other items; UsageError for a model with a memory
    whose scores are not normalized over the trie."""
    options = options or EvaluationOptions()
    if not examples:
        raise DataError("there are no examples to evaluate on")
    if against is not None:
        check_same_catalog(loaded.bundle, against.bundle)
    if uses_memory(loaded):
        check_normalize(options.normalize or loaded.contract.normalize)
    num_beams = max(options.num_beams, options.depth)
    if num_beams > options.num_beams:
        warnings.warn(
            f"{num_beams} beams are used instead of {options.num_beams}: {options.depth} SIDs are "
            "ranked",
            SidtoolWarning,
            stacklevel=2,
        )
    search: dict[str, Any] = {"k": options.depth, "num_beams": num_beams, "progress": progress}
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=options.exclude_seen)
    settings: dict[str, Any] = {
        "num_beams": num_beams,
        **_model_settings(loaded, options.normalize),
    }
    others = {}
    if against is not None:
        # first, so that what is wrong with it is said before the model has run
        if against.contract.history_prompt is None:
            raise DataError(f"the {OTHER_MODEL} was not trained to recommend")
        indexed_by_other = IndexedExamples.of(
            against.bundle, examples, exclude_seen=options.exclude_seen
        )
        ranking_of_other = rank_model(against, indexed_by_other, **search)
        # bundles number the same items differently
        others[OTHER_MODEL] = replace(
            ranking_of_other,
            first_items=positions_in(against.bundle, loaded.bundle, ranking_of_other.first_items),
        )
        settings["against"] = _model_settings(against)
    search |= {"normalize": options.normalize, "ranker": ranker}
    others |= rank_parts(loaded, indexed, **search)
    ranking = rank_model(loaded, indexed, **search)
    evaluation = _evaluation(indexed, ranking, others, events, options, shards)
    return replace(evaluation, settings={**evaluation.settings, **settings})


def _model_settings(loaded: LoadedModel, normalize: Normalize | None = None) -> dict[str, Any]:
    """What else determines a model's recommendations: its bundle, what scores are normalized over,
    and the memory that is used."""
    settings: dict[str, Any] = {"bundle": loaded.bundle.identity.digest}
    settings["normalize"] = normalize or loaded.contract.normalize
    if loaded.memory is not None and uses_memory(loaded):
        knn = asdict(loaded.memory.memory.manifest.settings)
        settings["memory"] = {**loaded.memory.to_json(), **knn}
    return settings


def evaluate_rankings(
    examples: IndexedExamples,
    leaves: NDArray[np.int64],
    events: Sequence[UserSequence] | None,
    options: EvaluationOptions | None = None,
) -> Evaluation:
    """The evaluation of (n, k) ranked leaves, best first; -1 where there are no more."""
    options = options or EvaluationOptions(exclude_seen=examples.exclude_seen)
    return _evaluation(examples, Ranking.of_sids(examples, leaves), {}, events, options)


def _evaluation(
    examples: IndexedExamples,
    ranking: Ranking,
    others: Mapping[str, Ranking],
    events: Sequence[UserSequence] | None,
    options: EvaluationOptions,
    shards: Shards | None = None,
) -> Evaluation:
    """The evaluation of a ranking, which is compared with the other systems and the baselines."""
    users = tuple(example.user for example in examples.examples)
    model = SystemValues.of(ranking, options.ks)
    systems = {name: SystemValues.of(other, options.ks) for name, other in others.items()}
    if options.baselines and events:
        systems |= baseline_values(
            examples, events, options.ks, options.knn, k=options.depth, shards=shards
        )
    groups = example_groups(examples.examples, events)
    fields = {name: field_groups(examples.examples, name) for name in options.by}
    for name, of_field in fields.items():
        groups |= {f"{name}={value}": weights for value, weights in of_field.items()}
    if options.weight is not None:
        groups[WEIGHTED] = target_weights(examples.examples, options.weight)
    by_group = group_averages(model, systems, users, groups, seed=options.seed)
    weighted = None
    if options.weight is not None:
        n_weighted = int(np.count_nonzero(groups[WEIGHTED]))
        weighted = replace(by_group[WEIGHTED], n=n_weighted)
    by = {
        name: {value: by_group[f"{name}={value}"] for value in of_field}
        for name, of_field in fields.items()
    }
    first_items = {"model": model.first_items}
    first_items |= {name: system.first_items for name, system in systems.items()}
    n_items = len(examples.bundle.active)
    samples = sample_examples(examples, first_items, options.samples)
    return Evaluation(
        **vars(by_group["all"]),
        sid_level=averages(metric_names(options.ks), metric_values(ranking.sid_ranks, options.ks)),
        macro=by_group["macro"],
        slices=slices_of(by_group) if events else {},
        by=by,
        weighted=weighted,
        coverage={name: coverage(items, n_items) for name, items in first_items.items()},
        effective_items={name: effective_items(items) for name, items in first_items.items()},
        counts=_counts(examples, users),
        settings=_settings(examples, options, has_baselines=options.baselines and bool(events)),
        samples=samples,
        titles=titles_of(samples, examples.bundle),
        users=users,
        groups=groups,
        values=model,
    )


def _settings(
    examples: IndexedExamples, options: EvaluationOptions, *, has_baselines: bool
) -> dict[str, Any]:
    """What the numbers of an evaluation depend on, apart from the model."""
    settings: dict[str, Any] = {
        "ks": list(options.ks),
        "examples": examples_digest(examples.examples),
        "exclude_seen": examples.exclude_seen,
        "seed": options.seed,
        "resamples": RESAMPLES,
    }
    if options.weight is not None:
        settings["weight"] = options.weight
    if options.target:
        settings["target"] = list(options.target)
    if has_baselines:
        settings["item-knn"] = asdict(options.knn)
    return settings


def _counts(examples: IndexedExamples, users: Sequence[str]) -> dict[str, int]:
    """Numbers behind the means: targets that cannot be recommended are misses."""
    missing = examples.targets < 0
    recommendable = examples.target_positions >= 0
    return {
        "users": len(set(users)),
        "active_items": len(examples.bundle.active),
        "targets_not_recommendable": int(missing.sum()),
        "targets_seen": int((~missing & ~recommendable).sum()),
        "empty_histories": sum(not len(history) for history in examples.histories),
    }
