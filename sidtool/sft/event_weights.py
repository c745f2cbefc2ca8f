"""Weights of training examples: the values of a column of the events, or their exponentials.

With w = exp(value / temperature), supervised training raises the expected value of what a model
recommends (reward-weighted regression, J. Peters and S. Schaal, ICML 2007; for recommendation
arXiv:2603.10279)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sidtool.data.interactions import Interactions, read_interactions
from sidtool.errors import CompatibilityError, DataError, UsageError
from sidtool.json_record import JsonRecord
from sidtool.sft.example_file import LARGEST_WEIGHT
from sidtool.sft.example_kinds import TrainingExample
from sidtool.splits.split import Event, Split

EXPONENTIAL = re.compile(r"exp\(\s*(?P<column>.+?)\s*/\s*(?P<temperature>[^/]+?)\s*\)")


@dataclass(frozen=True)
class WeightOptions:
    """Where the weights of training examples come from.

    Raises UsageError for a temperature or a largest weight that is not a number above 0."""

    interactions: Path
    """the events that the split was made from"""
    expression: str
    """the name of a column, or `exp(COLUMN/TEMPERATURE)`"""
    clip: float | None = None
    """the largest weight, to which larger ones are lowered"""

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 < self.temperature < np.inf:
            raise UsageError(f"the temperature of {self.expression!r} is not a number above 0")
        if self.clip is not None and not 0 < self.clip < np.inf:
            raise UsageError(f"the largest weight is a number above 0, not {self.clip}")

    @property
    def column(self) -> str:
        """The column that is read."""
        match = EXPONENTIAL.fullmatch(self.expression)
        return self.expression if match is None else match["column"]

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
    """The weight of every event of a split's users."""

    weights: NDArray[np.float64]
    """(n,): by user and position"""
    first_row: Mapping[str, int]
    """user -> the row of the user's first event"""
    record: WeightRecord

    @classmethod
    def read(cls, options: WeightOptions, split: Split) -> Self:
        """Read the weights of the events that a split was made from.

        Raises UsageError if the split was made from windows, CompatibilityError if from other
        events, DataError for a value that is no number or makes no weight."""
        events = _read_events(options, split)
        assert events.values is not None
        unclipped = options.unclipped(events.values)
        weights = np.minimum(unclipped, options.clip or np.inf)
        _check_weights(options, events.values, weights)
        rows = np.flatnonzero(np.append(True, events.users[1:] != events.users[:-1]))
        first_row = dict(zip(events.users[rows].tolist(), rows.tolist(), strict=True))
        training_rows = np.concatenate(
            [first_row[sequence.user] + np.array(sequence.positions) for sequence in split.train]
        )
        clipped = int(np.count_nonzero(weights[training_rows] < unclipped[training_rows]))
        record = _record(options, weights[training_rows], clipped)
        return cls(weights, first_row, record)

    def of_example(self, example: TrainingExample) -> float | list[float] | None:
        """The weight of each item of a sequence, or that of the event whose item an example is
        about; None for other examples, such as those of the catalog."""
        if example.task == "sequence":
            return [self._of_event(event) for event in example.events]
        if example.events and example.item is not None:
            return self._of_event(example.events[-1])
        return None

    def _of_event(self, event: Event) -> float:
        user, _, position = event
        return float(self.weights[self.first_row[user] + position])


def _read_events(options: WeightOptions, split: Split) -> Interactions:
    columns = split.origin.columns
    if columns is None:
        raise UsageError(
            f"split {split.reference} was made from windows, weights are a column of events"
        )
    events = read_interactions(options.interactions, recorded=columns, value_column=options.column)
    if events.digest != split.origin.events_digest:
        raise CompatibilityError(
            f"{options.interactions} has events {events.digest[:12]}, split {split.reference} was "
            f"made from {split.origin.events_digest[:12]}",
            hint="give the file that the split was made from",
        )
    return events


def _check_weights(
    options: WeightOptions, values: NDArray[np.float64], weights: NDArray[np.float64]
) -> None:
    wrong = (weights < 0) | (weights > LARGEST_WEIGHT)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{options.interactions}: {options.column} {values[row]:g} gives the weight "
            f"{weights[row]:g}",
            hint=f"weights are at least 0: --weight 'exp({options.column}/TEMPERATURE)', with "
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
