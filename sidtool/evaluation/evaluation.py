"""Evaluation of a model's recommendations: metrics beside popularity and item-kNN on the same
examples, with confidence intervals. docs/metrics.md defines every number."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, SidtoolWarning
from sidtool.base.options import argument_options, options_from
from sidtool.base.progress import Progress
from sidtool.base.threads import thread_count
from sidtool.data.split import Example, Split, UserSequence, evenly_spaced
from sidtool.evaluation.baselines import UNTUNED, baseline_values
from sidtool.evaluation.bootstrap import RESAMPLES, Groups, everyone
from sidtool.evaluation.groups import (
    SLICES,
    example_groups,
    field_groups,
    fulfilling,
    target_weights,
)
from sidtool.evaluation.held_out import (
    OTHER_MODEL,
    HeldOut,
    check_recommends,
    check_same_catalog,
    check_targets,
)
from sidtool.evaluation.metrics import (
    averages,
    coverage,
    effective_items,
    metric_names,
    metric_values,
)
from sidtool.evaluation.options import EvaluationOptions
from sidtool.evaluation.ranking import (
    ITEM_KNN,
    IndexedExamples,
    Ranker,
    SystemValues,
    rank_examples,
    rank_index,
    sid_ranks,
)
from sidtool.evaluation.results import (
    MEMORY_ALONE,
    MIXTURE,
    MODEL_ALONE,
    NO_EXAMPLES,
    Evaluation,
    Slice,
    group_averages,
    positions_in,
    sampled_users,
    system_differences,
    titles_of,
)
from sidtool.memory import Shards
from sidtool.memory.mixture import MemoryIndex, MemoryOptions
from sidtool.model import LoadedModel, ModelOptions
from sidtool.recommendation.search import Normalize, check_normalize, seen_reason
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import Leaves

WEIGHTED = "weighted"
"""The group of all examples, weighted by a feedback."""


def evaluate(
    model: LoadedModel | str | Path,
    split: Split | str | Path,
    options: EvaluationOptions | None = None,
    *,
    bundle: Bundle | str | Path | None = None,
    memory: MemoryOptions | str | Path | None = None,
    against: LoadedModel | str | Path | None = None,
    memory_limit: int | None = None,
    ranker: Ranker | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> Evaluation:
    """Evaluate a model on the held-out examples of a split: a `Split`, its folder, or a file of
    events (as `open_split`). The options may also be given as keywords, like `limit=100`.

    `bundle` and `memory` are used in place of those of a model's folder; the other flags of both,
    like `memory_weight=0` or `device="cpu"`, are keywords, too. `against` is another
    model for the same items, of whatever bundle, that the model is compared with. With
    `memory_limit`, a number of bytes, more pairs of item-kNN than fit are put into temporary files.
    `ranker` searches in place of this process (`cluster.ClusterRanker`), for the model. Raises
    UsageError for a keyword that is no option, CompatibilityError if a model, its bundle or its
    memory may have learned from held-out events, RefusedError if the bundle lacks too many targets,
    unless `options` allow unknown ones, and as `evaluate_examples`.

    Examples:
        >>> evaluation = sidtool.evaluate("tuned", "split")
        >>> evaluation.n, sorted(evaluation.baselines)
        (40, ['item-knn', 'popularity'])
        >>> sidtool.evaluate("tuned", "split", limit=5).n
        5
    """
    memory = argument_options(MemoryOptions, memory, keywords)
    loading = argument_options(ModelOptions, None, keywords)
    others = (MemoryOptions, ModelOptions)
    options = options_from(EvaluationOptions, options, keywords, others)
    with Shards.temporary(memory_limit) as shards:
        held_out = HeldOut.open(model, split, options.on, against, bundle, memory, loading)
        repeats = held_out.split.reference.targets_repeat
        reason = seen_reason(options.exclude_seen, repeats)
        options = options.with_seen(repeats)
        part = held_out.part
        if options.target:
            part = fulfilling(part, options.target, held_out.split.fields)
        examples = evenly_spaced(part, options.limit)
        check_targets(held_out.loaded.bundle, [example.item for example in examples], options)
        evaluation = evaluate_examples(
            held_out.loaded,
            examples,
            held_out.split.train,
            options,
            against=held_out.against,
            shards=shards,
            ranker=ranker,
            progress=progress,
        )
        settings = {"on": options.on, **evaluation.settings, "seen": reason}
        if (tied := held_out.split.tied_share) is not None:
            settings["tied_targets"] = round(tied, 4)
        return replace(evaluation, settings=settings)


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
    # what is wrong is said before a model runs
    check_recommends(loaded, against, examples[0])
    _groups_of_fields(examples, options)
    memory = loaded.memory if uses_memory(loaded) else None
    if memory is not None:
        check_normalize(options.normalize or loaded.contract.normalize)
    num_beams = max(options.num_beams, options.depth)
    if num_beams > options.num_beams:
        warnings.warn(
            f"{num_beams} beams are used instead of {options.num_beams}: {options.depth} SIDs are "
            "ranked",
            SidtoolWarning,
            stacklevel=2,
        )
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=bool(options.exclude_seen))
    settings = {"num_beams": num_beams} | _model_settings(loaded, options.normalize)
    others = {}
    passes = iter(_reporters(progress, 1 + (against is not None) + (memory is not None)))
    if against is not None:
        # first, so that what is wrong with it is said before the model has run
        check_same_catalog(loaded.bundle, against.bundle)
        theirs = IndexedExamples.of(against.bundle, examples, exclude_seen=indexed.exclude_seen)
        ranked_by_other = rank_examples(
            against,
            theirs,
            k=options.depth,
            num_beams=num_beams,
            is_mixed=uses_memory(against),
            progress=next(passes),
        )
        values = SystemValues.of(theirs, ranked_by_other, options.ks)
        # bundles number the same items differently
        first_items = positions_in(against.bundle, loaded.bundle, values.first_items)
        others[OTHER_MODEL] = replace(values, first_items=first_items)
        settings["against"] = _model_settings(against)
    rank = partial(
        ranker or partial(rank_examples, loaded),
        indexed,
        k=options.depth,
        num_beams=num_beams,
        normalize=options.normalize,
    )
    if memory is not None:
        alone = rank(is_mixed=False, progress=next(passes))
        others[MODEL_ALONE] = SystemValues.of(indexed, alone, options.ks)
        index = MemoryIndex.of(memory.memory, loaded.bundle, memory.new_item_factor)
        by_memory = rank_index(index, indexed, power=memory.power, k=options.depth)
        others[MEMORY_ALONE] = SystemValues.of_items(indexed, by_memory, options.ks)
    ranked = rank(is_mixed=memory is not None, progress=next(passes))
    if ranked.mixture is not None:
        others = {MIXTURE: SystemValues.of_items(indexed, ranked.mixture, options.ks), **others}
    model = SystemValues.of(indexed, ranked, options.ks)
    evaluation = evaluation_of(indexed, model, ranked.leaves, others, events, options, shards)
    return replace(evaluation, settings={**evaluation.settings, **settings})


def _reporters(progress: Progress | None, n_passes: int) -> list[Progress | None]:
    """A reporter for each pass over the examples; together they count the steps of all passes."""
    if progress is None:
        return [None] * n_passes

    def report(number: int, done: int, total: int) -> None:
        progress(number * total + done, n_passes * total)

    return [partial(report, number) for number in range(n_passes)]


def uses_memory(loaded: LoadedModel) -> bool:
    """Whether a model's recommendations are mixed with a memory."""
    return loaded.memory is not None and loaded.memory.is_used


def _model_settings(loaded: LoadedModel, normalize: Normalize | None = None) -> dict[str, Any]:
    """What else determines a model's recommendations: its bundle, what scores are normalized over,
    and its memory, which may have the weight 0; and its name."""
    settings: dict[str, Any] = {"model": loaded.name} if loaded.name else {}
    settings["bundle"] = loaded.bundle.identity.digest
    settings["normalize"] = normalize or loaded.contract.normalize
    if loaded.memory is not None:
        knn = asdict(loaded.memory.memory.manifest.settings)
        settings["memory"] = {**loaded.memory.to_json(), **knn}
        settings["memory"]["content"] = loaded.memory.memory.manifest.content is not None
    return settings


def evaluation_of(
    examples: IndexedExamples,
    model: SystemValues,
    leaves: Leaves,
    others: Mapping[str, SystemValues],
    events: Sequence[UserSequence] | None,
    options: EvaluationOptions,
    shards: Shards | None = None,
) -> Evaluation:
    """The evaluation of a model that ranked (n, k) leaves, those of items too; it is compared with
    the other systems and the baselines."""
    users = tuple(example.user for example in examples.examples)
    sid_values = metric_values(sid_ranks(examples, leaves), options.ks)
    systems = dict(others)
    if options.baselines and events:
        systems |= baseline_values(
            examples,
            events,
            options.ks,
            k=options.depth,
            shards=shards,
            threads=thread_count(options.threads),
        )
    groups = example_groups(examples.examples, events)
    fields, target = _groups_of_fields(examples.examples, options)
    for name, value_weights in fields.items():
        groups |= {f"{name}={value}": weights for value, weights in value_weights.items()}
    if target is not None:
        groups[WEIGHTED] = target
    by_group = group_averages(model, systems, users, groups, seed=options.seed)
    weighted = None
    if target is not None:
        weighted = replace(by_group[WEIGHTED], n=int(np.count_nonzero(target)))
    by = {
        name: {value: by_group[f"{name}={value}"] for value in value_weights}
        for name, value_weights in fields.items()
    }
    first_items = {"model": model.first_items}
    first_items |= {name: system.first_items for name, system in systems.items()}
    n_items = len(examples.bundle.active)
    samples = sampled_users(examples, first_items, options.samples)
    slices = {
        name: Slice(**vars(by_group.get(name, NO_EXAMPLES)), events=event_range)
        for name, event_range in (SLICES.items() if events else ())
    }
    from_item_knn = {
        name: system_differences(
            system, systems[ITEM_KNN], users, everyone(len(users)), seed=options.seed
        )["all"]
        for name, system in systems.items()
        if ITEM_KNN in systems and name != ITEM_KNN
    }
    return Evaluation(
        **vars(by_group["all"]),
        sid_level=averages(metric_names(options.ks), sid_values),
        macro=by_group["macro"],
        slices=slices,
        by=by,
        weighted=weighted,
        differences_from_item_knn=from_item_knn,
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


def _groups_of_fields(
    examples: Sequence[Example], options: EvaluationOptions
) -> tuple[dict[str, Groups], NDArray[np.float64] | None]:
    """The groups by each field of `options.by`, and the weights by `options.weight`. Raises
    UsageError and DataError as `field_groups` and `target_weights`."""
    fields: dict[str, Groups] = {name: field_groups(examples, name) for name in options.by}
    return fields, None if options.weight is None else target_weights(examples, options.weight)


def _settings(
    examples: IndexedExamples, options: EvaluationOptions, *, has_baselines: bool
) -> dict[str, Any]:
    """What the numbers of an evaluation depend on, apart from the model."""
    digest = hashlib.sha256()
    for example in examples.examples:
        digest.update(json.dumps([example.user, example.position, example.item]).encode())
    settings: dict[str, Any] = {
        "ks": list(options.ks),
        "examples": digest.hexdigest(),
        "exclude_seen": examples.exclude_seen,
        "seed": options.seed,
        "resamples": RESAMPLES,
    }
    if options.weight is not None:
        settings["weight"] = options.weight
    if options.target:
        settings["target"] = list(options.target)
    if has_baselines:
        settings[ITEM_KNN] = asdict(UNTUNED)
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
