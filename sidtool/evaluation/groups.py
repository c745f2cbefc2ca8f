"""Groups of examples whose means are reported: all, the macro mean over items, slices by how often
the target occurs in training, and those by the fields of a split: who the user is, in which
context, and how the event went."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Condition, FieldTypes, Value
from sidtool.data.split import Example, UserSequence
from sidtool.data.split.pairs import numbered_sequences
from sidtool.evaluation.bootstrap import everyone
from sidtool.memory import count_events
from sidtool.model.prompt import SPLIT_HINT

SLICES: Mapping[str, tuple[int, int | None]] = {
    "cold": (0, 0),
    "rare": (1, 5),
    "occasional": (6, 20),
    "frequent": (21, 99),
    "popular": (100, None),
    "warm": (1, None),
}
"""First and last number of training events of the target. Warm items are all that are not cold."""


def example_groups(
    examples: Sequence[Example], events: Sequence[UserSequence] | None
) -> dict[str, NDArray[np.float64]]:
    """Name -> (n,) float64 weights of n examples: "all", "macro", and with training events the
    slices that have an example.

    The weights of "macro" are one over the number of examples with the same target, so that its
    mean is the mean over target items of the mean over the item's examples."""
    targets = [example.item for example in examples]
    n_examples = Counter(targets)
    groups = everyone(len(targets))
    groups["macro"] = np.array([1 / n_examples[target] for target in targets])
    if not events:
        return groups
    ids = list(n_examples)
    n_events = count_events(numbered_sequences(events, ids), len(ids))
    event_counts = dict(zip(ids, n_events.tolist(), strict=True))
    target_events = np.array([event_counts[target] for target in targets])
    for name, (first, last) in SLICES.items():
        is_inside = target_events >= first
        if last is not None:
            is_inside &= target_events <= last
        if is_inside.any():
            groups[name] = is_inside.astype(np.float64)
    return groups


MOST_GROUPS = 10
"""Values of a field that are groups; further texts are one group, numbers become quarters."""
OTHERS = "all others"
"""The group of texts that are not among the most frequent ones. A plain "other" is a value of many
catalogs, such as an occupation."""
UNKNOWN = "unknown"
"""The group of examples without a value."""


def field_groups(examples: Sequence[Example], name: str) -> dict[str, NDArray[np.float64]]:
    """Value -> (n,) float64, 1 for the examples with this value of a field like `user.age`, else 0.

    Of more than MOST_GROUPS numbers, each group is a quarter of the examples, called by its first
    and last number, once if they are one. Raises UsageError if the examples have no such field."""
    values = [_value(example, name) for example in examples]
    labels = _labels(values)
    example_labels = np.array([labels[value] for value in values], dtype=object)
    ordered = sorted(dict.fromkeys(labels.values()), key=(OTHERS, UNKNOWN).__contains__)
    return {label: (example_labels == label).astype(np.float64) for label in ordered}


def target_weights(examples: Sequence[Example], name: str) -> NDArray[np.float64]:
    """(n,) float64: a feedback of numbers as the weight of each example; 0 where it is missing.

    Raises UsageError without such a field, DataError for a negative weight or if all are 0."""
    values = [_need(example.feedback, name, f"--weight {name}") for example in examples]
    if any(isinstance(value, str) for value in values):
        raise UsageError(f"--weight {name} is a field of texts, a weight needs numbers")
    weights = np.array([0.0 if value is None else float(value) for value in values])
    if (weights < 0).any() or not weights.any():
        raise DataError(f"--weight {name}: weights are not negative, and one is above 0")
    return weights


def fulfilling(
    examples: Sequence[Example], conditions: Sequence[str], types: FieldTypes
) -> list[Example]:
    """The examples whose target fulfills all conditions on its feedback. Raises UsageError for an
    unknown field or a malformed condition, DataError if no example does."""
    inside = np.ones(len(examples), dtype=np.bool_)
    for text in conditions:
        condition = Condition.parse(text)
        kind = types.need_feedback(condition.field, SPLIT_HINT)
        values = [example.feedback[condition.field] for example in examples]
        inside &= condition.holds(values, kind)
    if not inside.any():
        spelled = " and ".join(conditions)
        raise DataError(f"no target of the {len(examples)} examples fulfills {spelled}")
    return [examples[index] for index in np.flatnonzero(inside).tolist()]


def _value(example: Example, name: str) -> Value | None:
    part, _, field = name.partition(".")
    parts: Mapping[str, Mapping[str, Value | None]] = {
        "user": example.fields.user,
        "context": example.fields.context,
        "feedback": example.feedback,
    }
    if part not in parts or not field:
        raise UsageError(f"--by {name!r} is not one of user.FIELD, context.FIELD, feedback.FIELD")
    return _need(parts[part], field, f"--by {name}")


def _need(values: Mapping[str, Value | None], field: str, option: str) -> Value | None:
    if field not in values:
        others = f"only {', '.join(values)}" if values else "and no other"
        raise UsageError(f"{option}: the split has no such field, {others}", hint=SPLIT_HINT)
    return values[field]


def _labels(values: Sequence[Value | None]) -> dict[Value | None, str]:
    """Value -> the name of its group: numbers by size, then texts by name, and None."""
    counts = Counter(value for value in values if value is not None)
    numbers = sorted(value for value in counts if not isinstance(value, str))
    texts = sorted(value for value in counts if isinstance(value, str))
    labels: dict[Value | None, str] = {value: _spell(value) for value in [*numbers, *texts]}
    if len(counts) > MOST_GROUPS and texts:
        common = [value for value, _ in counts.most_common(MOST_GROUPS - 1)]
        labels |= {value: OTHERS for value in counts if value not in common}
    elif len(counts) > MOST_GROUPS:
        example_numbers = np.array(list(counts.elements()), dtype=np.float64)
        limits = np.quantile(example_numbers, [0.25, 0.5, 0.75])
        # a limit belongs to the quarter below
        stops = np.searchsorted(np.array(numbers, dtype=np.float64), limits, side="right")
        for start, stop in pairwise([0, *stops.tolist(), len(numbers)]):
            if quarter := numbers[start:stop]:
                ends = dict.fromkeys([_spell(quarter[0]), _spell(quarter[-1])])
                labels |= dict.fromkeys(quarter, " to ".join(ends))
    return labels | {None: UNKNOWN} if None in values else labels


def _spell(value: Value) -> str:
    if isinstance(value, float):
        return repr(int(value) if value.is_integer() and abs(value) < 1e15 else value)
    return str(value)
