"""Evaluation of a model's lists over held-out sessions, beside the first items of its own ranking,
popularity and item-kNN. docs/metrics.md defines every number."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.base.options import argument_options, option, options_from
from sidtool.base.progress import Progress
from sidtool.base.records import JsonRecord
from sidtool.data import UnknownOptions
from sidtool.data.split import MAX_LENGTH, Example, Split, UserSequence, evenly_spaced
from sidtool.evaluation.baselines import UNTUNED, rank_baselines
from sidtool.evaluation.bootstrap import RESAMPLES, Difference, intervals, paired_differences
from sidtool.evaluation.held_out import OTHER_MODEL, HeldOut, check_same_catalog, check_targets
from sidtool.evaluation.lists.list_metrics import (
    ItemFacts,
    item_facts,
    list_metric_names,
    list_truth,
    list_values,
    recommendable_rows,
)
from sidtool.evaluation.metrics import coverage
from sidtool.evaluation.options import HeldOutOptions
from sidtool.evaluation.ranking import IndexedExamples
from sidtool.memory.mixture import MemoryOptions
from sidtool.model import LoadedModel, ModelOptions
from sidtool.model.contract import TrainParams
from sidtool.recommendation import QuerySession, RecommendOptions, Request, recommend
from sidtool.recommendation.search import SearchOptions, seen_reason
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows

LISTS = "lists"
"""The lists that the model writes."""
TOP_ITEMS = "top items"
"""The best items of the model's ranking of next items, as many as a list has."""

Values = NDArray[np.float64]
"""(n, metrics) of n examples; NaN where a metric is not defined for the list of an example"""


@dataclass(frozen=True, kw_only=True)
class ListEvaluationOptions(UnknownOptions, HeldOutOptions, SearchOptions):
    """How lists are evaluated. Raises UsageError for a number out of range."""

    length: int = option(10, minimum=1, maximum=MAX_LENGTH, metavar="M")
    """The largest number of items in a list."""
    order: str | None = option(None, metavar="FIELD")
    """Feedback by which the items of a session are ordered, the largest first. Default: as the
    lists of the training were."""
    baselines: bool = True


@dataclass(frozen=True)
class Mean(JsonRecord):
    """The mean of a metric over the n examples for whose lists it is defined, and its 95%
    interval."""

    mean: float
    low: float
    high: float
    n: int


Means = dict[str, Mean]
"""Metric -> mean; without a metric that is defined for no example."""


@dataclass(frozen=True, eq=False)
class ListEvaluation:
    """Lists of several systems for n examples, the model's first, as `evaluate-lists --json`
    prints it."""

    n: int
    length: int
    """The largest number of items in a list"""
    systems: dict[str, Means]
    """By system: the metrics of its lists"""
    differences: dict[str, dict[str, Difference]]
    """By how much the first system is better than each other one, over the examples for whose lists
    a metric is defined in both"""
    coverage: dict[str, float]
    """By system: share of the active items in the lists of any example"""
    counts: dict[str, int]
    settings: dict[str, Any]
    names: tuple[str, ...]
    values: Mapping[str, Values]
    """By system: every metric of every example"""

    def to_json(self) -> dict[str, Any]:
        """A JSON object of all but the values of single examples."""
        value = asdict(self)
        for name in ("names", "values"):
            del value[name]
        return value


ListMaker = Callable[[Sequence[Request]], Iterable[Sequence[str]]]
"""Requests -> the ids of a list for each, in its order."""


def evaluate_lists(
    model: LoadedModel | str | Path,
    split: Split | str | Path,
    options: ListEvaluationOptions | None = None,
    *,
    bundle: Bundle | str | Path | None = None,
    memory: MemoryOptions | str | Path | None = None,
    against: LoadedModel | str | Path | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> ListEvaluation:
    """Evaluate the lists of a model on the held-out sessions of a split: a `Split`, its folder, or
    a file of events (as `open_split`). Without sessions, a session is the one item that is held
    out. The options may also be given as keywords.

    A model that was not trained on lists is evaluated by the first items of its ranking, and a
    model that was by both. `bundle` and `memory` are as in `evaluate`; `against` is another model
    for the same items. Raises CompatibilityError if a model, its bundle or its memory may have
    learned from held-out events or `against` recommends other items, RefusedError if the bundle
    lacks too many targets, UsageError if the split lacks the feedback of the order or a model of
    lists has a memory, DataError without examples.

    Examples:
        >>> evaluation = sidtool.evaluate_lists("tuned", "split", length=3, num_beams=5)
        >>> list(evaluation.systems)
        ['top items', 'popularity', 'item-knn']
    """
    memory = argument_options(MemoryOptions, memory, keywords)
    loading = argument_options(ModelOptions, None, keywords)
    others = (MemoryOptions, ModelOptions)
    options = options_from(ListEvaluationOptions, options, keywords, others)
    held_out = HeldOut.open(model, split, options.on, against, bundle, memory, loading)
    repeats = held_out.split.reference.targets_repeat
    reason = seen_reason(options.exclude_seen, repeats)
    options = options.with_seen(repeats)
    loaded, other, fields = held_out.loaded, held_out.against, held_out.split.fields
    if other is not None:
        check_same_catalog(loaded.bundle, other.bundle)
    order = options.order
    if order is None:  # that of the lists of the model's training, if the split has it
        stages = [record.params for record in loaded.contract.stages]
        lists = [stage.lists for stage in stages if isinstance(stage, TrainParams) and stage.lists]
        order = lists[-1].order if lists and lists[-1].order in fields.feedback else None
    if order is not None:
        fields.need_numbers(order, "the order")
    options = replace(options, order=order)
    makers = _makers(loaded, options, progress)
    if other is not None:
        as_trained = replace(options, normalize=None)
        makers[OTHER_MODEL] = next(iter(_makers(other, as_trained, progress).values()))
    examples = evenly_spaced(held_out.part, options.limit)
    check_targets(loaded.bundle, [item for example in examples for item in example.items], options)
    train = held_out.split.train
    evaluation = evaluate_list_makers(loaded.bundle, makers, examples, train, options)
    settings = {
        "bundle": loaded.bundle.identity.digest,
        "normalize": options.normalize or loaded.contract.normalize,
        "seen": reason,
    }
    if other is not None:
        settings["against"] = other.bundle.identity.digest
    return replace(evaluation, settings={**evaluation.settings, **settings})


def evaluate_list_makers(
    bundle: Bundle,
    makers: Mapping[str, ListMaker],
    examples: Sequence[Example],
    events: Sequence[UserSequence],
    options: ListEvaluationOptions,
) -> ListEvaluation:
    """The evaluation of the lists that each of the makers makes of the requests of the examples,
    and of the baselines, which are fitted on the training `events`. Raises DataError without
    examples."""
    if not examples:
        raise DataError("there are no examples to evaluate on")
    exclude_seen = bool(options.exclude_seen)
    # with the feedback of the target, for a model that is given it
    requests = [
        Request(one.user, one.history, fields=replace(one.fields, feedback=one.feedback))
        for one in examples
    ]
    lists = {
        system: [
            recommendable_rows(bundle, items[: options.length], example, exclude_seen=exclude_seen)
            for example, items in zip(examples, make(requests), strict=True)
        ]
        for system, make in makers.items()
    }
    if options.baselines:
        indexed = IndexedExamples.of(bundle, examples, exclude_seen=exclude_seen)
        ranked = rank_baselines(indexed, events, k=options.length)
        for system, rankings in ranked.items():
            lists[system] = [ItemRows(rows[rows >= 0]) for rows in rankings]
    return _evaluation(bundle, examples, lists, item_facts(bundle, events), options)


def _makers(
    loaded: LoadedModel, options: ListEvaluationOptions, progress: Progress | None
) -> dict[str, ListMaker]:
    """What a model recommends: its lists, if it was trained on them, and the first items of its
    ranking, if it was trained to rank next items."""
    ranking = RecommendOptions(
        k=options.length,
        num_beams=options.num_beams,
        normalize=options.normalize,
        exclude_seen=options.exclude_seen,
    )
    searches: dict[str, RecommendOptions] = {}
    if loaded.contract.list_prompt is not None:
        QuerySession.of(loaded, options.normalize, list_length=options.length)  # refuses a memory
        searches[LISTS] = replace(ranking, list=True)
    if loaded.contract.history_prompt is not None:
        searches[TOP_ITEMS] = ranking
    if not searches:
        raise DataError(
            "the model was not trained to recommend: its contract has no prompt of a history",
            hint="make-sft --task list=1, then train",
        )
    return {system: list_maker(loaded, search, progress) for system, search in searches.items()}


def list_maker(
    loaded: LoadedModel, options: RecommendOptions, progress: Progress | None = None
) -> ListMaker:
    """What a model recommends with these options."""

    def make(requests: Sequence[Request]) -> Iterable[Sequence[str]]:
        answers = recommend(loaded, requests, options, progress=progress)
        return (answer.items for answer in answers)

    return make


def _evaluation(
    bundle: Bundle,
    examples: Sequence[Example],
    lists: Mapping[str, Sequence[ItemRows]],
    facts: ItemFacts,
    options: ListEvaluationOptions,
) -> ListEvaluation:
    """Means and differences of the lists of each system."""
    length = options.length
    names = list_metric_names(length)
    users = tuple(example.user for example in examples)
    truths = [
        list_truth(bundle, example, exclude_seen=bool(options.exclude_seen), order=options.order)
        for example in examples
    ]
    # (n, metrics) of each system
    values = {}
    for system, system_lists in lists.items():
        pairs = zip(system_lists, truths, strict=True)
        rows = [list_values(items, truth, facts, length) for items, truth in pairs]
        values[system] = np.stack(rows)
    first, *others = values
    targets = [truth.targets for truth in truths]
    n_active = len(bundle.active)
    return ListEvaluation(
        n=len(users),
        length=length,
        systems={
            system: means(names, system_values, users, seed=options.seed)
            for system, system_values in values.items()
        },
        differences={
            system: differences(names, values[first], values[system], users, seed=options.seed)
            for system in others
        },
        coverage={
            system: coverage(np.concatenate([*system_lists, np.zeros(0, dtype=np.int64)]), n_active)
            for system, system_lists in lists.items()
        },
        counts={  # targets that cannot be recommended are never found
            "users": len(set(users)),
            "active_items": n_active,
            "targets": sum(map(len, targets)),
            "targets_not_recommendable": sum(int((rows < 0).sum()) for rows in targets),
            "empty_histories": sum(not example.history for example in examples),
        },
        settings={
            "on": options.on,
            "num_beams": options.num_beams,
            "exclude_seen": options.exclude_seen,
            "order": options.order,
            "seed": options.seed,
            "resamples": RESAMPLES,
            **({"item-knn": asdict(UNTUNED)} if options.baselines else {}),
        },
        names=names,
        values=values,
    )


def means(names: Sequence[str], values: Values, users: Sequence[str], *, seed: int) -> Means:
    """The mean of each metric by name, over the examples where it is defined."""
    result: Means = {}
    for columns, defined in _by_definition(values):
        metrics = [names[column] for column in columns]
        numbers = np.nan_to_num(values[:, columns])
        ends = intervals(metrics, numbers, users, {"all": defined}, seed=seed)["all"]
        averages = numbers[defined > 0].mean(axis=0).tolist()
        n = int(defined.sum())
        for name, average in zip(metrics, averages, strict=True):
            result[name] = Mean(average, *ends[name], n)
    return {name: result[name] for name in names if name in result}


def differences(
    names: Sequence[str], values: Values, others: Values, users: Sequence[str], *, seed: int
) -> dict[str, Difference]:
    """By how much one system is better than another, as `paired_differences`, over the examples
    where a metric is defined for both."""
    by_metric: dict[str, Difference] = {}
    where_both = np.where(np.isfinite(others), values, np.nan)  # NaN where either is
    for columns, defined in _by_definition(where_both):
        metrics = [names[column] for column in columns]
        one, other = (np.nan_to_num(scores[:, columns]) for scores in (values, others))
        by_group = paired_differences(metrics, one, other, users, {"all": defined}, seed=seed)
        by_metric |= by_group["all"]
    return {name: by_metric[name] for name in names if name in by_metric}


def _by_definition(values: Values) -> list[tuple[list[int], NDArray[np.float64]]]:
    """The columns that are defined for the same examples, with (n,) 1 for these and 0 for others;
    columns without an example are left out. A bootstrap of several metrics at once draws the users
    once."""
    groups: dict[bytes, tuple[list[int], NDArray[np.float64]]] = {}
    defined = np.isfinite(values).astype(np.float64)
    for column in range(values.shape[1]):
        mask = defined[:, column]
        if mask.any():
            groups.setdefault(mask.tobytes(), ([], mask))[0].append(column)
    return list(groups.values())
