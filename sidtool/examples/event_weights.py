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

from sidtool.base.errors import DataError, UsageError
from sidtool.base.options import check_options, option
from sidtool.data.split import Event, Split
from sidtool.examples.lineage import WeightRecord
from sidtool.examples.task import LARGEST_WEIGHT, TrainingExample
from sidtool.examples.tasks import named_task

EXPONENTIAL = re.compile(r"exp\(\s*(?P<field>.+?)\s*/\s*(?P<temperature>[^/]+?)\s*\)")


@dataclass(frozen=True)
class WeightOptions:
    """Where the weights of training examples come from.

    Raises UsageError for a temperature or a largest weight that is not a number above 0."""

    expression: str = option(flag="--weight")
    """Feedback of the split that weights the loss: FIELD, or exp(FIELD/NUMBER)."""
    clip: float | None = option(None, above=0, flag="--weight-clip")
    """Largest weight; larger ones are lowered to it."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.temperature is not None and not 0 < self.temperature < np.inf:
            raise UsageError(f"the temperature of {self.expression!r} is not a number above 0")

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


@dataclass(frozen=True, eq=False)
class EventWeights:
    """The weight of every training event of a split; an event that is no target has 0."""

    number_by_user: Mapping[str, int]
    """user -> number"""
    starts: NDArray[np.int64]
    """(users + 1,): where the weights of each user start, in the order of the events"""
    values: NDArray[np.float64]
    """(events,)"""
    record: WeightRecord | None
    """None where every target has the weight 1"""

    @classmethod
    def read(cls, options: WeightOptions | None, split: Split) -> Self | None:
        """The weights of the training events by a field of the split. Without options those of
        targets are 1; None then if the split marks no targets, since all are.

        Raises UsageError if the split has no such field of numbers, DataError for a value that is
        missing or makes no weight, and if all weights of a whole split are 0."""
        if options is None and not split.fields.target:
            return None
        if options is not None:
            split.fields.need_numbers(options.field, "--weight")
        train = split.train
        starts = np.concatenate([[0], np.cumsum(train.items.lengths)])
        is_target = train.target_marks
        number_by_user = {user: number for number, user in enumerate(train.users)}
        if options is None:
            return cls(number_by_user, starts, is_target.astype(np.float64), None)
        column = train.store.fields[options.field]
        distinct = [np.nan if value is None else float(value) for value in column.names.tolist()]
        values = np.array(distinct, dtype=np.float64)[column.codes[train.items.places]]
        unclipped = values
        if options.temperature is not None:
            with np.errstate(over="ignore"):  # infinity is a weight that is too large
                unclipped = np.exp(values / options.temperature)
        weights = np.minimum(unclipped, options.clip or np.inf)
        _check_weights(options, values, weights, is_target)
        n_clipped = int(np.count_nonzero(is_target & (weights < unclipped)))
        target_weights = weights[is_target]
        if not target_weights.any():
            if split.origin.whole is None:
                raise DataError(f"all training events have the weight 0 by {options.expression}")
            target_weights = np.ones(1)  # nobody reads the record of a part
        total = float(target_weights.sum())
        record = WeightRecord(
            expression=options.expression,
            clip=options.clip,
            smallest=float(target_weights.min()),
            mean=total / len(target_weights),
            largest=float(target_weights.max()),
            clipped=n_clipped,
            effective_events=total**2 / float(np.square(target_weights).sum()),
        )
        return cls(number_by_user, starts, np.where(is_target, weights, 0.0), record)

    def of_example(self, example: TrainingExample) -> float | list[float] | None:
        """The weight of each item of a sequence or a list, or that of the event whose item an
        example is about; None for other examples, such as those of the catalog, and for those whose
        answer is feedback: bad feedback is as much of an answer as good one."""
        task = named_task(example.task)
        if task.target == "feedback":
            return None
        # where the record is None, only a sequence shows events of weight 0
        if task.is_sequence or (task.target == "list" and self.record is not None):
            return [self._of_event(event) for event in example.events]
        if self.record is None:
            return None
        is_of_event = example.events and example.item is not None
        return self._of_event(example.events[-1]) if is_of_event else None

    def counts(self, event: Event) -> bool:
        """Whether a training event is a target of a weight above 0."""
        return self._of_event(event) > 0

    def _of_event(self, event: Event) -> float:
        user, _, position = event
        return float(self.values[self.starts[self.number_by_user[user]] + position])


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
