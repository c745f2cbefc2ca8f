"""The evaluation of a model as a value. docs/metrics.md defines every number."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sidtool.base.errors import DataError
from sidtool.base.records import JsonRecord
from sidtool.data.split import Example, evenly_spaced
from sidtool.evaluation.bootstrap import Difference, Groups
from sidtool.evaluation.groups import SLICES
from sidtool.evaluation.ranking import IndexedExamples
from sidtool.evaluation.system_values import (
    Averages,
    Metrics,
    SystemValues,
    system_differences,
)
from sidtool.model.contract import matching_rows
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows, SidPositions

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


def sample_examples(
    examples: IndexedExamples, first_items: Mapping[str, SidPositions], count: int
) -> tuple[Sample, ...]:
    """`count` examples, evenly spread over all.

    `first_items` has (n, items) per system: the first recommendations for each of the n examples,
    by position in SID order; -1 where there are no more."""
    return tuple(
        _sample(examples, first_items, row)
        for row in evenly_spaced(range(len(examples.examples)), count)
    )


def _sample(examples: IndexedExamples, first_items: Mapping[str, SidPositions], row: int) -> Sample:
    example = examples.examples[row]
    earlier = max(0, len(example.history) - HISTORY)
    ids = examples.bundle.items.ids
    recommended = {}
    for system, items in first_items.items():
        positions = items[row][items[row] >= 0]
        recommended[system] = tuple(ids[at] for at in examples.bundle.active[positions].tolist())
    return Sample(example.user, earlier, example.history[earlier:], example.item, recommended)


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
    rows = ItemRows(matching_rows(bundle.items, other.items)[bundle.active])  # (active,)
    in_other = other.trie().positions_of(rows)
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
    samples: tuple[Sample, ...] = field(default=(), kw_only=True)
    """A few examples with the first recommendations of each system."""
    titles: dict[str, str] = field(default_factory=dict, kw_only=True)
    """Item id -> title, of the items of `samples` that have one."""


@dataclass(frozen=True, eq=False)
class Evaluation(StoredEvaluation):
    """An evaluation with the values of single examples."""

    users: tuple[str, ...]
    """The user of each example."""
    groups: Groups
    """The weights of the examples in each group: "all", "macro" and the slices."""
    values: SystemValues
    """The `metrics` of each example, for `compare`."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object of all but the values of single examples."""
        value = asdict(self)
        for name in ("users", "groups", "values"):
            del value[name]
        return value


def slices_of(averages: Mapping[str, Averages]) -> dict[str, Slice]:
    """The slices among groups of examples."""
    return {
        name: Slice(**vars(averages.get(name, NO_EXAMPLES)), events=events)
        for name, events in SLICES.items()
    }


def examples_digest(examples: Sequence[Example]) -> str:
    """SHA-256 (hex) of the users, positions and targets of examples, in their order."""
    state = hashlib.sha256()
    for example in examples:
        state.update(json.dumps([example.user, example.position, example.item]).encode())
    return state.hexdigest()


def compare(
    one: Evaluation, other: Evaluation, *, seed: int = 0
) -> dict[str, dict[str, Difference]]:
    """By how much one model is better than another on the same examples in the same order: group
    ("all", "macro" and the slices) -> metric that both have -> difference.

    Raises DataError if the examples or cut-offs differ."""
    if any(one.settings[name] != other.settings[name] for name in ("examples", "ks")):
        raise DataError(
            f"the evaluations have different examples or cut-offs: {one.n} examples at "
            f"{one.settings['ks']} and {other.n} at {other.settings['ks']}"
        )
    return system_differences(one.values, other.values, one.users, one.groups, seed=seed)
