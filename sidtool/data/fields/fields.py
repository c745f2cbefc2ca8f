"""Fields: what events and users say beside item and order, as values of a split, of requests and
of prompts.

A *feedback* column says how an event went (rating, watch time, behavior), so it is known only after
the event. A *context* column says where it happened (device, place), so it is known before. A
*user* field is the same for all events of a user (age, country)."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.base.records import JsonRecord, is_number
from sidtool.data.coded import Coded, Texts
from sidtool.data.times import NUMBER, parse_time

Value = str | int | float
"""The value of a field. A missing one is None."""
FieldType = Literal["int", "float", "str"]
Values = Mapping[str, Value | None]
"""Field -> value."""

TARGET = "target"
"""The event field by which a split with `--target` marks targets: TARGET_VALUES."""
TARGET_VALUES: Mapping[bool, Value] = {True: "yes", False: "no"}
PARTS = ("user", "event", "context", "feedback", "times", "time")
"""Of fields, as they stand in JSON."""


@dataclass(frozen=True)
class FieldTypes(JsonRecord):
    """The fields of a split by name, with their types; its manifest records them."""

    feedback: Mapping[str, FieldType] = field(default_factory=dict)
    context: Mapping[str, FieldType] = field(default_factory=dict)
    user: Mapping[str, FieldType] = field(default_factory=dict)
    times: bool = False
    """Whether the split has the time of every event."""
    target: tuple[str, ...] = ()
    """Conditions of a target, like `rating>=4`; without one, every event is a target."""

    @property
    def event(self) -> Mapping[str, FieldType]:
        """The fields of past events: feedback, context, and the mark of a target."""
        return {**self.feedback, **self.context, **self.labels}

    @property
    def labels(self) -> Mapping[str, FieldType]:
        """What can be predicted of an event: feedback, and the mark of a target."""
        marked: Mapping[str, FieldType] = {TARGET: "str"} if self.target else {}
        return {**self.feedback, **marked}

    def need_feedback(self, name: str, hint: str, *, as_label: bool = False) -> FieldType:
        """The type of a feedback, `as_label` of one that can be predicted. Raises UsageError if
        there is none of this name."""
        fields = self.labels if as_label else self.feedback
        if name not in fields:
            names = ", ".join(fields) or "none"
            raise UsageError(f"the split has no feedback {name!r}, it has {names}", hint=hint)
        return fields[name]

    def need_numbers(self, name: str, option: str) -> None:
        """Raise UsageError, which names the option, unless there is a feedback of this name whose
        values are numbers."""
        hint = f"sidtool split EVENTS -o SPLIT --feedback {name}"
        if self.need_feedback(name, hint) == "str":
            raise UsageError(f"{option} {name} is a field of texts, it needs numbers")


@dataclass(frozen=True)
class Fields:
    """The fields of n consecutive events of one user, and of what comes next.

    `times` and `time` are seconds since 1970."""

    user: Values = field(default_factory=dict)
    event: Mapping[str, Sequence[Value | None]] = field(default_factory=dict)
    """Field -> n values, by event."""
    context: Values = field(default_factory=dict)
    """The context of what comes next."""
    times: Sequence[float] | None = None
    """The times of the n events."""
    time: float | None = None
    """The time of what comes next."""
    feedback: Values = field(default_factory=dict)
    """The feedback that what comes next is to have, for a task that is given it."""

    def is_target(self, index: int) -> bool:
        """Whether an event may be a target: all may, unless the split marks them."""
        marks = self.event.get(TARGET)
        return marks is None or marks[index] == TARGET_VALUES[True]

    def before(self, index: int, context: Sequence[str]) -> "Fields":
        """The fields known before the event at `index`, whose context has these names."""
        return Fields(
            self.user,
            {name: values[:index] for name, values in self.event.items()},
            {name: self.event[name][index] for name in context},
            None if self.times is None else self.times[:index],
            None if self.times is None else self.times[index],
        )

    def with_next(self) -> "Fields":
        """The fields with what comes next as one more event, of which only its context and time
        are known."""
        event = {name: (*values, self.context.get(name)) for name, values in self.event.items()}
        times = self.times
        if times is not None and self.time is not None:
            times = (*times, self.time)
        return replace(self, event=event, times=times)

    def until(self, stop: int) -> "Fields":
        """The fields with the first `stop` events only."""
        return self.take(range(stop))

    def take(self, indexes: Sequence[int]) -> "Fields":
        """The fields with only these of the events."""
        times = None if self.times is None else tuple(self.times[i] for i in indexes)
        event = {name: tuple(values[i] for i in indexes) for name, values in self.event.items()}
        return replace(self, event=event, times=times)

    def over(self, other: "Fields") -> "Fields":
        """These fields, and those of `other` where these have none."""
        return Fields(
            user={**other.user, **self.user},
            event={**other.event, **self.event},
            context={**other.context, **self.context},
            times=other.times if self.times is None else self.times,
            time=other.time if self.time is None else self.time,
            feedback={**other.feedback, **self.feedback},
        )

    def checked(self, n_events: int) -> Self:
        """The fields as a request for `n_events` items has them. Raises as `from_json`."""
        return self.from_json(self.to_json(), n_events)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the parts that there are."""
        parts = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in parts.items() if part is not None and part != {}}

    @classmethod
    def from_json(cls, value: Any, n_events: int) -> Self:
        """Read what `to_json` wrote for `n_events` events; times may be ISO dates too.

        Raises DataError, which names the part, for an unknown or malformed one."""
        parts = _object(value, "fields")
        for key in parts:
            if key not in PARTS:
                raise DataError(f"fields have no part {key!r:.60}, but {', '.join(PARTS)}")
        event = _object(parts.get("event"), "event")
        times = parts.get("times")
        time = parts.get("time")
        return cls(
            _values(parts.get("user"), "user"),
            {
                name: tuple(
                    _scalar(cell, f"event.{name}")
                    for cell in _list(values, f"event.{name}", n_events)
                )
                for name, values in event.items()
                if values is not None  # a struct of Parquet has the fields of all its rows
            },
            _values(parts.get("context"), "context"),
            None if times is None else tuple(map(_time, _list(times, "times", n_events))),
            None if time is None else _time(time),
            _values(parts.get("feedback"), "feedback"),
        )


NO_FIELDS = Fields()


@dataclass(frozen=True, eq=False)
class EventStore:
    """Events in columns, to which the lists of a split's parts refer."""

    users: Texts
    """(users,) ids"""
    names: Texts
    """(items,) ids"""
    items: NDArray[np.integer[Any]]
    """(n,): the item of each event, as an index into `names`"""
    types: FieldTypes = field(default_factory=FieldTypes)
    """The fields below"""
    fields: Mapping[str, Coded[Value | None]] = field(default_factory=dict)
    """Field of events -> n values"""
    times: NDArray[Any] | None = None
    """(n,) seconds since 1970"""
    user_fields: Mapping[str, Coded[Value | None]] = field(default_factory=dict)
    """Field of users -> (users,) values"""

    @property
    def is_target(self) -> NDArray[np.bool_]:
        """(n,): whether each event may be a target"""
        marks = self.fields.get(TARGET)
        if marks is None:
            return np.ones(len(self.items), dtype=np.bool_)
        is_marked = [mark == TARGET_VALUES[True] for mark in marks.names.tolist()]
        return np.array(is_marked, dtype=np.bool_)[marks.codes]

    @cached_property
    def has_fields(self) -> bool:
        """Whether events or users have any field."""
        return bool(self.fields or self.user_fields or self.times is not None)

    def of_events(self, user: int, events: Any) -> Fields:
        """The fields of a user, by code, and of a slice or an array of events."""
        if not self.has_fields:
            return NO_FIELDS
        return Fields(
            {name: values[user] for name, values in self.user_fields.items()},
            {name: tuple(values[events]) for name, values in self.fields.items()},
            times=None if self.times is None else tuple(self.times[events].tolist()),
        )

    def at(self, event: int, names: Iterable[str]) -> Values:
        """The values of some fields at an event."""
        return {name: self.fields[name][event] for name in names}

    def time(self, event: int) -> float | None:
        """When an event happened, None where the store has no times."""
        return None if self.times is None else self.times[event].item()


def _object(value: Any, part: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f"{part} is {value!r:.60}, not an object")
    return value


def _list(value: Any, part: str, n_events: int) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{part} is {value!r:.60}, not a list")
    if len(value) != n_events:
        raise DataError(f"{part} has {len(value)} values for {n_events} items")
    return value


def _values(value: Any, part: str) -> Values:
    return {
        name: _scalar(member, f"{part}.{name}") for name, member in _object(value, part).items()
    }


def _scalar(value: Any, part: str) -> Value | None:
    if value is None or isinstance(value, str) or is_number(value):
        return value
    if isinstance(value, np.integer):
        return int(value)
    raise DataError(f"{part} has {value!r:.60}, not a text or a number")


def _time(value: Any) -> float:
    try:
        if is_number(value) or isinstance(value, np.integer):
            return float(value)
        if isinstance(value, str):
            return parse_time(value)
    except (ValueError, OverflowError):
        pass
    raise DataError(f"a time is {value!r:.60}, not seconds since 1970 or an ISO date")


OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
CONDITION = re.compile(rf"\s*(?P<field>.+?)\s*(?P<sign>{'|'.join(OPERATORS)})\s*(?P<value>.*?)\s*")


@dataclass(frozen=True)
class Condition:
    """A comparison of a field with a value, like `rating>=4` or `behavior=buy`."""

    text: str
    field: str
    sign: str
    value: str
    option: str = "--target"
    """what errors call it"""

    @classmethod
    def parse(cls, text: str, *, option: str = "--target") -> Self:
        """Raises UsageError if a text is no comparison."""
        match = CONDITION.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{option} {text!r} is no comparison", hint="like rating>=4 or behavior=buy"
            )
        return cls(text, match["field"], match["sign"], match["value"], option)

    def holds(self, values: Sequence[Value | None], kind: FieldType) -> NDArray[np.bool_]:
        """(n,): where the comparison holds; a missing value never fulfills it. Raises UsageError
        if the type cannot be compared so."""
        compare = OPERATORS[self.sign]
        other: Value | Decimal = self.value
        if kind != "str":
            if not NUMBER.fullmatch(self.value):
                raise UsageError(
                    f"{self.option} {self.text!r} compares numbers with {self.value!r}"
                )
            # a float would round a whole number of more than 15 digits
            other = Decimal(self.value) if kind == "int" else float(self.value)
        elif self.sign not in ("=", "==", "!="):
            raise UsageError(
                f"{self.option} {self.text!r}: texts are equal (=) or not (!=)",
                hint=f"if {self.field} holds numbers, --feedback {self.field}:float",
            )
        if isinstance(values, Coded):
            return self.holds(values.names.tolist(), kind)[values.codes]
        return np.array([value is not None and compare(value, other) for value in values])
