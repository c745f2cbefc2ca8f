"""Weights of training examples: the values of a feedback field, or their exponentials.

With w = exp(value / temperature), supervised training raises the expected value of what a model
recommends (reward-weighted regression, J. Peters and S. Schaal, ICML 2007; for recommendation
arXiv:2603.10279)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import DataError, UsageError
from sidtool.json_record import JsonRecord
from sidtool.sft.example_context import TrainingExample
from sidtool.sft.example_file import LARGEST_WEIGHT
from sidtool.splits.fields import need_field
from sidtool.splits.split import Event, Split, UserSequence

EXPONENTIAL = re.compile(r"exp\(\s*(?P<field>.+?)\s*/\s*(?P<temperature>[^/]+?)\s*\)")


@dataclass(frozen=True)
class WeightOptions:
    """Where the weights of training examples come from.

    Raises UsageError for a temperature or a largest weight that is not a number above 0."""

    expression: str
    """the name of a feedback field of the split, or `exp(FIELD/TEMPERATURE)`"""
    clip: float | None = None
    """the largest weight, to which larger ones are lowered"""

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 < self.temperature < np.inf:
            raise UsageError(f"the temperature of {self.expression!r} is not a number above 0")
        if self.clip is not None and not 0 < self.clip < np.inf:
            raise UsageError(f"the largest weight is a number above 0, not {self.clip}")

    @property
    def field(self) -> str:
        """The field that is read."""
        match = EXPONENTIAL.fullmatch(self.expression)
        return self.expression if match is None else match["field"]

    @property
    def temperature(self) -> float | None:
        """The temperature of an exponential, NaN if it is no number; None without one."""
        match = EXPONENTIAL.fullmatch(self.expression)
        if match is None:
            return None
        try:
            return float(match["temperature"])
        except ValueError:
            return np.nan

    def unclipped(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) weights of (n,) values; infinity where an exponential is too large."""
        if self.temperature is None:
            return values
        with np.errstate(over="ignore"):
            return np.exp(values / self.temperature)


@dataclass(frozen=True)
class WeightRecord(JsonRecord):
    """What the lineage records of weights, over all training events."""

    expression: str
    clip: float | None
    smallest: float
    mean: float
    largest: float
    clipped: int
    """Training events whose weight was lowered."""
    effective_events: float
    """(sum of weights)^2 / sum of squares: the number of events of equal weight whose mean varies
    as much (L. Kish, 1965)."""


@dataclass(frozen=True, eq=False)
class EventWeights:
    """The weight of every training event of a split; an event that is no target has 0."""

    of_user: Mapping[str, NDArray[np.float64]]
    """user -> the weights of the user's training events by position"""
    record: WeightRecord | None
    """None where every target has the weight 1"""

    @classmethod
    def read(cls, options: WeightOptions | None, split: Split) -> Self | None:
        """The weights of the training events by a field of the split; None without options if every
        event is a target, since all weights are 1 then.

        Raises UsageError if the split has no such field of numbers, DataError for a value that is
        missing or makes no weight."""
        if options is None:
            if not split.fields.target:
                return None
            targets = {sequence.user: _target_mask(sequence) for sequence in split.train}
            return cls({user: mask.astype(np.float64) for user, mask in targets.items()}, None)
        _check_field(options.field, split)
        masks = [_target_mask(sequence) for sequence in split.train]
        values = [_numbers(sequence, options.field) for sequence in split.train]
        unclipped = [options.unclipped(each) for each in values]
        weights = [np.minimum(each, options.clip or np.inf) for each in unclipped]
        is_target = np.concatenate(masks)
        all_weights = np.concatenate(weights)
        _check_weights(options, np.concatenate(values), all_weights, is_target)
        is_clipped = all_weights < np.concatenate(unclipped)
        n_clipped = int(np.count_nonzero(is_clipped[is_target]))
        record = _record(options, all_weights[is_target], n_clipped)
        of_user = {
            sequence.user: np.where(mask, each, 0.0)
            for sequence, mask, each in zip(split.train, masks, weights, strict=True)
        }
        return cls(of_user, record)

    def of_example(self, example: TrainingExample) -> float | list[float] | None:
        """The weight of each item of a sequence, or that of the event whose item an example is
        about; None for other examples, such as those of the catalog."""
        if example.task == "sequence":
            return [self._of_event(event) for event in example.events]
        if self.record is not None and example.events and example.item is not None:
            return self._of_event(example.events[-1])
        return None

    def _of_event(self, event: Event) -> float:
        user, _, position = event
        return float(self.of_user[user][position])


def _target_mask(sequence: UserSequence) -> NDArray[np.bool_]:
    """(n,): which of a user's events are targets."""
    mask = np.zeros(len(sequence.items), dtype=np.bool_)
    mask[list(sequence.target_indexes)] = True
    return mask


def _check_field(name: str, split: Split) -> None:
    hint = f"sidtool split EVENTS -o SPLIT --feedback {name}"
    kind = need_field(name, split.fields.feedback, "feedback", hint)
    if kind == "str":
        raise UsageError(f"--weight {name} is a field of texts, a weight needs numbers")


def _numbers(sequence: UserSequence, name: str) -> NDArray[np.float64]:
    """(n,): the field of a user's events, NaN where it has no value."""
    values = sequence.fields.event[name]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _check_weights(
    options: WeightOptions,
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    is_target: NDArray[np.bool_],
) -> None:
    wrong = is_target & ~((weights >= 0) & (weights <= LARGEST_WEIGHT))
    if not wrong.any():
        return
    event = int(np.argmax(wrong))
    if np.isnan(values[event]):
        raise DataError(
            f"{np.isnan(values[wrong]).sum()} training events have no {options.field}, so they "
            "have no weight",
            hint="give them a value, 0 leaves them out",
        )
    raise DataError(
        f"{options.field} {values[event]:g} gives the weight {weights[event]:g}",
        hint=f"weights are at least 0: --weight 'exp({options.field}/TEMPERATURE)', with "
        "--weight-clip against large ones",
    )


def _record(options: WeightOptions, weights: NDArray[np.float64], clipped: int) -> WeightRecord:
    if not weights.any():
        raise DataError(f"all training events have the weight 0 by {options.expression}")
    total = float(weights.sum())
    squares = float(np.square(weights).sum())
    return WeightRecord(
        expression=options.expression,
        clip=options.clip,
        smallest=float(weights.min()),
        mean=total / len(weights),
        largest=float(weights.max()),
        clipped=clipped,
        effective_events=total**2 / squares,
    )
