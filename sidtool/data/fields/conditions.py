"""Conditions on fields, like `rating>=4`, that say which events are targets."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.data.coded import Coded
from sidtool.data.fields.fields import FieldType, Value
from sidtool.data.times import NUMBER

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
