"""The evaluation of a model as a value. docs/metrics.md defines every number."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sidtool.base.extras import data_frame
from sidtool.base.records import JsonRecord
from sidtool.data.split import evenly_spaced
from sidtool.evaluation.bootstrap import Difference, Groups, Interval, intervals, paired_differences
from sidtool.evaluation.metrics import Metrics, averages
from sidtool.evaluation.ranking import IndexedExamples, SystemValues
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows, SidPositions

MODEL_ALONE = "model alone"
"""A model with a memory, without it."""
MEMORY_ALONE = "memory alone"
MIXTURE = "mixture"
"""A model with a memory and a re-ranker, without the latter."""


@dataclass(frozen=True)
class Averages(JsonRecord):
    """The means of one group of examples, of the model and of the systems beside it."""

    n: int
    """Number of examples; of the macro mean, number of target items."""
    metrics: Metrics
    confidence_interval: dict[str, Interval]
    """95% intervals of `metrics`."""
    baselines: dict[str, Metrics]
    differences: dict[str, dict[str, Difference]]
    """Of the model from each of the `baselines`."""
    baseline_intervals: dict[str, dict[str, Interval]] = field(default_factory=dict, kw_only=True)
    """95% intervals of the `baselines`."""


def group_averages(
    model: SystemValues,
    others: Mapping[str, SystemValues],
    users: Sequence[str],
    groups: Groups,
    *,
    seed: int,
) -> dict[str, Averages]:
    """The averages of each group, of a model and the systems that it is compared with.

    A difference covers the metrics that both systems have."""
    ends = {
        name: intervals(system.names, system.values, users, groups, seed=seed)
        for name, system in (("model", model), *others.items())
    }
    differences = {
        system: system_differences(model, other, users, groups, seed=seed)
        for system, other in others.items()
    }
    return {
        group: Averages(
            n=round(weights.sum()),
            metrics=averages(model.names, model.values, weights),
            confidence_interval=ends["model"][group],
            baselines={
                system: averages(other.names, other.values, weights)
                for system, other in others.items()
            },
            differences={system: by_group[group] for system, by_group in differences.items()},
            baseline_intervals={system: ends[system][group] for system in others},
        )
        for group, weights in groups.items()
    }


def system_differences(
    one: SystemValues, other: SystemValues, users: Sequence[str], groups: Groups, *, seed: int
) -> dict[str, dict[str, Difference]]:
    """Group -> metric -> by how much one system is better than another, for the metrics of both, as
    `paired_differences`."""
    names = [name for name in one.names if name in other.names]
    return paired_differences(
        names, one.columns(names), other.columns(names), users, groups, seed=seed
    )


HISTORY = 20
"""Items of a history that are stored, the last ones."""


@dataclass(frozen=True)
class Sample(JsonRecord):
    """An example and the first recommendations of each system for it."""

    user: str
    earlier: int
    """Items of the history before those of `history`."""
    history: tuple[str, ...]
    """The last items of the history, oldest first."""
    target: str
    recommended: dict[str, tuple[str, ...]]
    """By system: the first items, best first."""


def sampled_users(
    examples: IndexedExamples, first_items: Mapping[str, SidPositions], count: int
) -> tuple[Sample, ...]:
    """`count` examples, evenly spread over all.

    `first_items` has (n, items) per system: the first recommendations for each of the n examples,
    by position in SID order; -1 where there are no more."""
    ids = examples.bundle.items.ids
    samples = []
    for row in evenly_spaced(range(len(examples.examples)), count):
        example = examples.examples[row]
        earlier = max(0, len(example.history) - HISTORY)
        recommended = {}
        for system, items in first_items.items():
            rows = examples.bundle.active[items[row][items[row] >= 0]]
            recommended[system] = tuple(ids[at] for at in rows.tolist())
        history = example.history[earlier:]
        samples.append(Sample(example.user, earlier, history, example.item, recommended))
    return tuple(samples)


def titles_of(samples: tuple[Sample, ...], bundle: Bundle) -> dict[str, str]:
    """The title of each item of the samples by its id; those without one are left out."""
    ids: set[str] = set()
    for sample in samples:
        ids.update(sample.history, [sample.target], *sample.recommended.values())
    ordered = sorted(ids)
    rows = bundle.items.rows(ordered).tolist()
    titles = {
        item: bundle.items.title(row) for item, row in zip(ordered, rows, strict=True) if row >= 0
    }
    return {item: title for item, title in titles.items() if title}


def positions_in(bundle: Bundle, other: Bundle, positions: SidPositions) -> SidPositions:
    """The positions in SID order of a bundle's items in another bundle of the same items, in the
    shape given; -1 stays."""
    rows = bundle.items.id_texts.places_in(other.items.id_texts)[bundle.active]  # (active,)
    in_other = other.trie().positions_of(ItemRows(rows.astype(np.int64)))
    return SidPositions(np.where(positions < 0, -1, in_other[positions]))


NO_EXAMPLES = Averages(0, {}, {}, {}, {})


@dataclass(frozen=True)
class Slice(Averages):
    """The averages over the n examples whose target has so many training events; without examples
    there are none."""

    events: tuple[int, int | None]


@dataclass(frozen=True, eq=False)
class StoredEvaluation(Averages):
    """The evaluation of one model over n examples, at item level, as `evaluate --json` prints
    it."""

    sid_level: Metrics
    """The same metrics where any item of a shared SID counts as correct."""
    macro: Averages
    """The mean over target items of the mean over the examples of the item."""
    slices: dict[str, Slice]
    coverage: dict[str, float]
    """By system: share of the active items among the first ten recommendations of any example."""
    effective_items: dict[str, float]
    """By system: exp of the entropy of the first ten recommendations of all examples."""
    counts: dict[str, int]
    settings: dict[str, Any]
    by: dict[str, dict[str, Averages]] = field(default_factory=dict, kw_only=True)
    """Field -> value -> the averages over the examples with this value."""
    weighted: Averages | None = field(default=None, kw_only=True)
    """The averages weighted by a feedback of the target; n is the number of weights above 0."""
    differences_from_item_knn: dict[str, dict[str, Difference]] = field(
        default_factory=dict, kw_only=True
    )
    """Of each other system, over all examples; `differences` has those of the model."""
    samples: tuple[Sample, ...] = field(default=(), kw_only=True, repr=False)
    """A few examples with the first recommendations of each system."""
    titles: dict[str, str] = field(default_factory=dict, kw_only=True, repr=False)
    """Item id -> title, of the items of `samples` that have one."""

    def to_pandas(self) -> Any:
        """The metrics as a `pandas.DataFrame`, a row for each system, group and metric.

        Columns: `system` (the first one is "model"), `group` ("all", "macro", the slices, and the
        values of `by` like "user.age=18"), `n`, `metric`, `value`, and the ends of its 95%
        interval, `low` and `high`. Raises MissingPackageError if pandas is not installed."""
        groups: dict[str, Averages] = {"all": self, "macro": self.macro, **self.slices}
        for name, values in self.by.items():
            groups |= {f"{name}={value}": averages for value, averages in values.items()}
        rows = []
        for group, means in groups.items():
            systems = {"model": (means.metrics, means.confidence_interval)}
            for system, metrics in means.baselines.items():
                systems[system] = (metrics, means.baseline_intervals.get(system, {}))
            for system, (metrics, ends) in systems.items():
                for metric, value in metrics.items():
                    low, high = ends.get(metric, (None, None))
                    rows.append((system, group, means.n, metric, value, low, high))
        return data_frame(rows, ("system", "group", "n", "metric", "value", "low", "high"))


@dataclass(frozen=True, eq=False)
class Evaluation(StoredEvaluation):
    """An evaluation with the values of single examples."""

    users: tuple[str, ...] = field(repr=False)
    """The user of each example."""
    groups: Groups = field(repr=False)
    """The weights of the examples in each group: "all", "macro" and the slices."""
    values: SystemValues = field(repr=False)
    """The `metrics` of each example, which `system_differences` compares."""

    def __repr__(self) -> str:
        """The number of examples, and NDCG@10 or whatever stands in its place, by system."""
        name = next(iter([name for name in self.metrics if name == "ndcg@10"] or self.metrics))
        systems = {"model": self.metrics, **self.baselines}
        values = ", ".join(f"{system} {means[name]:.4f}" for system, means in systems.items())
        return f"<Evaluation of {self.n} examples, {name}: {values}>"

    def to_json(self) -> dict[str, Any]:
        """A JSON object of all but the values of single examples."""
        value = asdict(self)
        for name in ("users", "groups", "values"):
            del value[name]
        return value
